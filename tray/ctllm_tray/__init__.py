"""The tray icon: a thin process that shows how the desktop's daemon is, and passes clicks on."""
