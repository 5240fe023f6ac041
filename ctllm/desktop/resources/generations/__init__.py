"""Generations: requests to a model that this desktop runs itself, while clients come and go."""
