"""The admin API of a running cloud, and its client."""
