"""The tunnel, sans-IO: streams over one connection after another, with flow control."""
