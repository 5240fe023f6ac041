"""What a sysadmin needs around a cloud: setting it up, checking it, backups, watching it."""
