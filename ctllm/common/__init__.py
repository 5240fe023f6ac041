"""Helpers without I/O or a clock, for every other package."""
