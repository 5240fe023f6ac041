"""Checks of a server: of the machine before a start, from outside, and of its containers."""
