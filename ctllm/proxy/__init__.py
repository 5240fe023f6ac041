"""Inside one user's proxy: where that user's desktops and clients meet."""
