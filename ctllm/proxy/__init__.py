"""The streaming proxy of one user: it relays the requests of clients to the user's desktops."""
