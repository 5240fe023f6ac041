"""Twisted plumbing that desktop, cloud and proxy share."""
