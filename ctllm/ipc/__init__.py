"""The IPC of the desktop daemon: its protocol and a blocking client."""
