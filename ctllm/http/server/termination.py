"""The ways in which the serving side of HTTP ends a connection."""

from __future__ import annotations

from typing import Any

import h11
from twisted.internet.protocol import Protocol
from twisted.logger import Logger

from ctllm.errors import CtllmError, RequestTimeout, ServiceUnavailable
from ctllm.fastpath.direct_write import write_now
from ctllm.http.hangup_monitor import HangupMonitor
from ctllm.http.message.head import reason_phrase
from ctllm.http.message.request_parser import RequestBuffer
from ctllm.http.server.memory_limiter import ConnectionMemory
from ctllm.http.timeouts import (
    ERROR_FLUSH_SECONDS,
    FLUSH_TIMEOUT,
    HEAD_TIMEOUT,
    LINGER_TIMEOUT,
    MAX_LINGER_EXTENSIONS,
    MIN_LINGER_BYTES,
)
from ctllm.ollama.dialects import Dialect, error_body
from ctllm.reactor.interfaces import Clock, is_tls
from ctllm.reactor.timeout import Timeout


def _ready_made(error: CtllmError) -> bytes:
    """An answer that says `error` and ends its connection."""
    status = b"%d %b" % (error.status, reason_phrase(error.status))
    body = error_body(Dialect.OLLAMA, error)
    again = b"" if error.retry_after is None else b"Retry-After: %d\r\n" % error.retry_after
    return (
        b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%bConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (status, again, len(body), body)
    )


#: What those hear who are pushed out.
CROWDED = _ready_made(
    ServiceUnavailable("too many connections wait here without asking; ask at once", retry_after=10)
)
#: What those hear for whom not even an error can be written.
BROKEN = _ready_made(CtllmError("the answer could not be written; the log says why"))


class Ending(Protocol):
    """What `HttpServer` does to end; mixed into it."""

    transport: Any
    _incoming: Any
    _work: Any
    _h11: h11.Connection
    _unread: RequestBuffer
    _attention: HangupMonitor
    _memory: ConnectionMemory
    _log = Logger()

    def __init__(self, clock: Clock) -> None:
        self._deadline = Timeout(clock, self._too_late)
        self._parting = Timeout(clock, self._part)
        self._closing = False
        self._full = False  # the client reads slower than we write
        self._late = False  # and for so long that only so much longer is waited
        self._linger_rounds = 0  # how often a client that still sends may be waited for again
        self._lingered = 0  # bytes that it sent meanwhile

    def send(self, event: Any) -> None:
        """Write one of h11's events."""
        raise NotImplementedError

    def close(self) -> None:
        """Close once everything is written."""
        self._closing = True
        self._deadline.start(FLUSH_TIMEOUT if self._full else LINGER_TIMEOUT)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def give_up(self) -> None:
        """No answer can be written: say so in words that cannot fail, and close."""
        self._log.failure("an answer could not be written")
        self._incoming = self._work = None
        write_now(self.transport, BROKEN)
        self.close()

    def _linger(self) -> None:
        """The client is still sending what nobody wants: let it read the answer before we close.

        Closing at once would reset the connection, and the answer might never be read.
        """
        self._closing = True
        self._unread.take_all()
        self._memory.set_unread(0)
        self._memory.release_request()
        self._linger_rounds = MAX_LINGER_EXTENSIONS
        self._deadline.start(LINGER_TIMEOUT)
        self.transport.unregisterProducer()
        self._attention.set_reading(self.transport, True)
        if not is_tls(self.transport):
            self.transport.loseWriteConnection()  # under TLS that would cut the answer's end off

    def break_off(self, last_words: bytes) -> None:
        """End an answer so that nobody takes it for whole: no last chunk, or a reset."""
        self._incoming = self._work = None
        self._closing = True
        self._memory.release_request()
        if last_words and self._h11.our_state is h11.SEND_BODY:
            self.send(h11.Data(data=last_words))
            self._parting.start(ERROR_FLUSH_SECONDS)
        else:
            self._part()

    def _part(self) -> None:
        if self._h11.their_http_version == b"1.0":
            self.transport.abortConnection()  # there, a plain close is how answers end
        else:
            self.close()

    def _too_late(self) -> None:
        if self._lingered >= MIN_LINGER_BYTES and self._linger_rounds:
            self._lingered = 0
            self._linger_rounds -= 1
            return self._deadline.start(LINGER_TIMEOUT)
        if self._closing or self._late:
            self._closing = True
            self.transport.abortConnection()
        elif self._full:  # it still reads its last answer
            self._late = True
            self._deadline.start(FLUSH_TIMEOUT)
        elif self._unread:
            self._refuse(
                RequestTimeout(f"a request's head did not arrive within {HEAD_TIMEOUT:g} seconds")
            )
        else:
            self.close()

    def _refuse(self, error: CtllmError) -> None:
        """Answer with `error` and let the client go."""
        raise NotImplementedError

    def evict(self) -> None:
        """Too many wait: with a word if that can be, or without."""
        if self._closing or self._full or self._incoming is not None:
            self._closing = True
            self.transport.abortConnection()
        else:
            write_now(self.transport, CROWDED)
            self.close()
