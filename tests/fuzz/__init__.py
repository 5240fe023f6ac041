"""A fuzzer of everything that reads what others send; `make fuzz` runs it for a million frames."""
