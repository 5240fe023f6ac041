"""Programs that each drive one client: orders on standard input, outcomes on standard output."""
