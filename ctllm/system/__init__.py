"""Services of the operating system: locks, private files, sandboxing, UNIX sockets."""
