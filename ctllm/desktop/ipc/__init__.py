"""The desktop daemon's IPC: the server end of the socket that the tray and the commands use."""
