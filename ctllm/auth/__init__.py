"""Formats of credentials that cloud, proxy and desktop share."""
