"""Helpers without input, output or clock that every other package may use."""
