"""How long the serving side of HTTP waits, in seconds."""

HANDSHAKE = 30.0  # for each step of a handshake: TLS, Upgrade, the first frames of a tunnel
#: Between two requests. Longer than common clients keep a connection (Go 90 s, Firefox 115 s, curl
#: 118 s, nginx 60 s), so that it is they who close, and no request meets a close on its way.
IDLE = 180.0
HEAD_TIME = 30.0  # seconds a head may take to arrive
LINGER = 10.0  # seconds to read an answer before the connection closes under it
LINGER_BYTES = 1024  # of a client that is still sending; one that only trickles is not waited for
LINGER_ROUNDS = 11  # how often that is waited again for a client that is still sending
SLOW = 300.0  # the same where much of an answer is still to be read
PARTING = 0.1  # seconds for the last words of a broken answer: browsers then drop the unread
BODY_IDLE = 300.0  # seconds in which something of any body must come
BODY_TIME = 30.0  # seconds a small body may take that is read whole before it is used
