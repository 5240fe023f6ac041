"""Builds the static site: the homepage, the documentation and the list of downloads."""
