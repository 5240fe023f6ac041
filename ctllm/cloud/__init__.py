"""The cloud: authenticates clients and relays their requests to streaming proxies."""
