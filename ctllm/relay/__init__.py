"""What relays of requests share: buffered requests, fan-out, and sinks that observe."""
