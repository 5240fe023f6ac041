"""What runs streaming proxies."""
