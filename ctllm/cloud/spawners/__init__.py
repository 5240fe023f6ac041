"""Spawners, which run streaming proxies as child processes or as Docker containers."""
