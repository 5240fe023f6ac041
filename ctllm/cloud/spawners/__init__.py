"""What starts and stops streaming proxies: child processes or Docker containers."""
