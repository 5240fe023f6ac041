"""What relays of a request share: buffers, fan-out, observers."""
