"""The WebSocket that carries a tunnel (RFC 6455)."""
