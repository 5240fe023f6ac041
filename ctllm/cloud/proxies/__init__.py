"""The manager of a cloud's streaming proxies, and a supervisor for each."""
