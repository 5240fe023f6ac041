"""Types of Twisted's reactor, timeouts and periodic work."""
