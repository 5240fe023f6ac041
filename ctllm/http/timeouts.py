"""How long the serving side of HTTP waits, in seconds."""

HANDSHAKE_TIMEOUT = 30.0  # for each step of a handshake: TLS, Upgrade, the first frames of a tunnel
#: Between two requests. Longer than common clients keep a connection (Go 90 s, Firefox 115 s, curl
#: 118 s, nginx 60 s), so that it is they who close, and no request meets a close on its way.
KEEP_ALIVE_TIMEOUT = 180.0
HEAD_TIMEOUT = 30.0  # seconds a head may take to arrive
LINGER_TIMEOUT = 10.0  # seconds to read an answer before the connection closes under it
MIN_LINGER_BYTES = (
    1024  # of a client that is still sending; one that only trickles is not waited for
)
MAX_LINGER_EXTENSIONS = 11  # how often that is waited again for a client that is still sending
FLUSH_TIMEOUT = 300.0  # the same where much of an answer is still to be read
ERROR_FLUSH_SECONDS = (
    0.1  # seconds for the last words of a broken answer: browsers then drop the unread
)
BODY_IDLE_TIMEOUT = 300.0  # seconds in which something of any body must come
SMALL_BODY_TIMEOUT = 30.0  # seconds a small body may take that is read whole before it is used
