"""Twisted's reactor, services and endpoints with types; timeouts and periodic calls."""
