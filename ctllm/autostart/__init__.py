"""Starting desktop and tray with the user's session."""
