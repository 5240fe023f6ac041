"""The tray icon: a separate process that shows the daemon's status and sends it commands."""
