"""Programs that drive one client each: jobs on standard input, outcomes on standard output."""
