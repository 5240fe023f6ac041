"""The chat page on the loopback endpoint: its session, its own API and the first run."""
