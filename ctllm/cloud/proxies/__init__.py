"""The streaming proxies of a cloud: their states, starts and ends."""
