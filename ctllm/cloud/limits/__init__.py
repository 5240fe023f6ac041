"""Limits on what clients, users and their keys may do in a minute, and at once."""
