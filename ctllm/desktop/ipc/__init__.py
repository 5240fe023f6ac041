"""The desktop's IPC: the tray and the commands ask the daemon here, and nobody else can."""
