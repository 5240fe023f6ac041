"""What the operating system offers: locks, private files, sandboxes, UNIX sockets."""
