"""The asking side of HTTP: what the server sees and the caller hears, byte by byte."""

from __future__ import annotations

import errno

from twisted.internet.error import ConnectionLost, ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import BadGateway, ClientDisconnected, OllamaDown
from ctllm.http.client.connection_pool import (
    IDLE_TIMEOUT,
    MAX_IDLE_CONNECTIONS,
    MAX_TOTAL_RETRY_BUFFER,
    ConnectionPool,
)
from ctllm.http.client.request import MAX_RETRY_BUFFER, ClientRequest
from ctllm.http.message.head import RequestHead, ResponseHead, get_header
from ctllm.http.message.response_parser import MAX_HEAD
from ctllm.http.server.request import ServerRequest
from ctllm.http.timeouts import DEFAULT_TIMEOUTS, HANDSHAKE_TIMEOUT
from tests.unit.fakes import (
    FakeEndpoint,
    FakeResponseSink,
    MemoryTlsTransport,
    MemoryTransport,
    ServedEndpoint,
)

GET = RequestHead(b"GET", b"/api/tags")
POST = RequestHead(b"POST", b"/api/chat", ((b"Content-Length", b"4"),))
UPLOAD = RequestHead(b"POST", b"/api/blobs/x", ((b"Transfer-Encoding", b"chunked"),))
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LEFT = ClientDisconnected("the client left")


class Case(SynchronousTestCase):
    """An Origin, and the place where it dials."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.place = FakeEndpoint()
        self.origin = ConnectionPool(
            self.place, self.clock, "Ollama", OllamaDown, b"127.0.0.1:11434"
        )

    def open(self, head: RequestHead = GET) -> tuple[ClientRequest, FakeResponseSink]:
        heard = FakeResponseSink()
        call = self.origin.start_request(head, heard)
        return call, heard  # type: ignore[return-value]

    def asked(
        self, head: RequestHead = GET
    ) -> tuple[ClientRequest, FakeResponseSink, MemoryTransport]:
        """An exchange whose request is whole and sent on a connection of its own."""
        call, heard = self.open(head)
        wire = self.place.accept()
        if head is POST:
            call.write(b"body")
        call.finish()
        return call, heard, wire

    def failed(self, heard: FakeResponseSink, kind: type[Exception] = BadGateway) -> None:
        self.assertIsInstance(heard.outcome, kind)


class Asked(Case):
    """What reaches the server."""

    def test_a_request_goes_as_it_is(self) -> None:
        """Head as given, with a Host where there was none; body and end."""
        _, _, wire = self.asked(POST)
        self.assertEqual(
            wire.take_written(),
            b"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1:11434\r\nContent-Length: 4\r\n\r\nbody",
        )

    def test_a_host_that_is_given_stays(self) -> None:
        """There is only ever one."""
        _, _, wire = self.asked(RequestHead(b"GET", b"/", ((b"hOst", b"elsewhere"),)))
        said = wire.take_written().lower()
        self.assertEqual((said.count(b"host:"), b"elsewhere" in said), (1, True))

    def test_a_body_from_before_the_connection_follows_the_head(self) -> None:
        """In its order; and the caller is asked to wait until there is a connection."""
        call, heard = self.open(UPLOAD)
        self.assertFalse(heard.may_send_body)
        call.write(b"one")
        call.write(b"two")
        call.finish()
        wire = self.place.accept()
        self.assertTrue(heard.may_send_body)
        body = wire.take_written().partition(b"\r\n\r\n")[2]
        self.assertEqual(body, b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")

    def test_a_server_that_reads_slowly_slows_the_body(self) -> None:
        """The transport's pause and resumption reach whoever sends the body."""
        call, heard = self.open(UPLOAD)
        wire = self.place.accept()
        assert wire.producer is not None
        wire.producer.pauseProducing()
        self.assertFalse(heard.may_send_body)
        wire.producer.resumeProducing()
        self.assertTrue(heard.may_send_body)
        call.cancel(LEFT)

    def test_a_body_that_is_not_as_long_as_it_said(self) -> None:
        """Neither a longer nor a shorter one is sent on as if it were right."""
        for pieces in ([b"five!"], [b"abc"]):
            call, heard = self.open(POST)
            wire = self.place.accept()
            for piece in pieces:
                call.write(piece)
            call.finish()
            self.failed(heard)
            self.assertEqual(wire.closed, "abort")

    def test_a_request_that_cannot_be_sent(self) -> None:
        """A head that would break its line fails by itself; nothing is heard after that."""
        call, heard = self.open(RequestHead(b"GET", b"/", ((b"X", b"a\r\nY: b"),)))
        wire = self.place.accept()
        call.finish()
        self.failed(heard)
        self.assertEqual((wire.take_written(), wire.closed), (b"", "abort"))

    def test_nobody_there(self) -> None:
        """The error is of the kind that the origin was made with, and says who is not there."""
        _, heard = self.open()
        self.place.refuse(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"))
        self.failed(heard, OllamaDown)
        self.assertEqual(str(heard.outcome), "Cannot connect to Ollama: Connection refused.")


class Secured(SynchronousTestCase):
    """Over TLS an exchange begins after the handshake, which has its time."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.place = FakeEndpoint()
        origin = ConnectionPool(self.place, self.clock, "Ollama", OllamaDown)
        self.heard = FakeResponseSink()
        self.call = origin.start_request(GET, self.heard)
        self.call.finish()
        self.wire = self.place.accept(MemoryTlsTransport())

    def over(self) -> None:
        self.assertIsInstance(self.heard.outcome, OllamaDown)
        self.assertEqual((self.wire.take_written(), self.clock.getDelayedCalls()), (b"", []))

    def test_the_request_follows_the_handshake(self) -> None:
        self.assertEqual(self.wire.take_written(), b"")
        self.wire.protocol.handshakeCompleted()
        self.assertTrue(self.wire.take_written().startswith(b"GET "))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.wire.protocol.dataReceived(OK)
        self.assertEqual(self.heard.outcome, "end")

    def test_one_that_never_ends(self) -> None:
        self.clock.advance(HANDSHAKE_TIMEOUT - 1)
        self.assertIsNone(self.heard.outcome)
        self.clock.advance(1)
        self.assertEqual(self.wire.closed, "abort")
        self.wire.deliver_abort()
        self.over()

    def test_one_that_fails(self) -> None:
        """A certificate that is not trusted, for one: nothing is sent, and the reason is told."""
        self.wire.disconnect(ConnectionLost("bad certificate"))
        self.over()
        self.assertIn("bad certificate", str(self.heard.outcome))

    def test_who_leaves_meanwhile(self) -> None:
        self.call.cancel(LEFT)
        self.assertEqual(self.wire.closed, "abort")
        self.wire.deliver_abort()
        self.assertEqual((self.heard.outcome, self.clock.getDelayedCalls()), (None, []))


class Answered(Case):
    """What the caller hears."""

    def test_a_whole_answer(self) -> None:
        """Head, body and end; what concerns the connection alone stays here."""
        _, heard, wire = self.asked()
        self.wire_says(wire, b"HTTP/1.1 404 Nope\r\nETag: 1\r\nX-A: 1\r\nKeep-Alive: 5\r\n")
        self.wire_says(wire, b"Content-Length: 5\r\n\r\nhel")
        self.assertEqual((bytes(heard.body), heard.outcome), (b"hel", None))
        self.wire_says(wire, b"lo")
        self.assertEqual((bytes(heard.body), heard.outcome), (b"hello", "end"))
        assert heard.head is not None
        self.assertEqual((heard.head.status, heard.head.reason), (404, b"Nope"))
        self.assertEqual(heard.head.headers[:2], ((b"ETag", b"1"), (b"Content-Length", b"5")))
        self.assertIsNone(get_header(heard.head.headers, b"x-a"))

    def wire_says(self, wire: MemoryTransport, data: bytes) -> None:
        wire.protocol.dataReceived(data)

    def test_byte_by_byte(self) -> None:
        """However the answer is cut on its way, it is the same answer."""
        _, heard, wire = self.asked()
        for byte in STREAM + b"5\r\none\n\n\r\n0\r\n\r\n":
            self.wire_says(wire, bytes([byte]))
        self.assertEqual((bytes(heard.body), heard.outcome), (b"one\n\n", "end"))

    def test_lines_pass_as_they_come(self) -> None:
        """Nothing is held back until the end."""
        _, heard, wire = self.asked()
        self.wire_says(wire, STREAM + b"4\r\none\n\r\n")
        self.assertEqual((bytes(heard.body), heard.outcome), (b"one\n", None))

    def test_interim_answers_are_not_the_answer(self) -> None:
        """100 and 103 pass by in silence."""
        _, heard, wire = self.asked(POST)
        self.wire_says(wire, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n")
        self.assertIsNone(heard.head)
        self.wire_says(wire, OK)
        self.assertEqual((heard.head and heard.head.status, heard.outcome), (200, "end"))

    def test_answers_without_a_body(self) -> None:
        """HEAD, 204 and 304 end with their heads, whatever length they name."""
        for head, status in (
            (RequestHead(b"HEAD", b"/"), b"200 OK"),
            (GET, b"204 No Content"),
            (GET, b"304 Not Modified"),
        ):
            call, heard = self.open(head)
            wire = self.place.accept() if self.place.pending else self.place.transports[-1]
            call.finish()
            length = b"" if status.startswith(b"204") else b"Content-Length: 9\r\n"
            self.wire_says(wire, b"HTTP/1.1 " + status + b"\r\n" + length + b"\r\n")
            self.assertEqual((bytes(heard.body), heard.outcome), (b"", "end"), status)
        self.assertEqual(len(self.place.transports), 1)

    def test_an_answer_that_ends_with_its_connection(self) -> None:
        """A close in order is how answers of HTTP/1.0 end."""
        _, heard, wire = self.asked()
        self.wire_says(wire, b"HTTP/1.0 200 OK\r\n\r\nall of it")
        self.assertIsNone(heard.outcome)
        wire.disconnect()
        self.assertEqual((bytes(heard.body), heard.outcome), (b"all of it", "end"))
        assert heard.head is not None
        self.assertEqual(get_header(heard.head.headers, b"ctllm-framing"), b"close-delimited")

    def test_a_reset_is_not_an_end(self) -> None:
        """A clean end is a claim: a connection that broke makes none."""
        _, heard, wire = self.asked()
        self.wire_says(wire, b"HTTP/1.0 200 OK\r\n\r\nhalf of")
        wire.disconnect(ConnectionLost())
        self.failed(heard)

    def test_answers_that_break_off(self) -> None:
        """Before the head, in it, in the body or in a chunk: never an end."""
        for said in (
            b"",
            b"HTTP/1.1 200 OK\r\nContent-",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
            STREAM,
            STREAM + b"5\r\nhel",
            STREAM + b"5\r\nhello\r\n",
        ):
            _, heard, wire = self.asked()
            if said:
                self.wire_says(wire, said)
            wire.disconnect()
            self.failed(heard)

    def test_answers_that_make_no_sense(self) -> None:
        """They fail at once, and their connection is closed."""
        for said in (
            b"SSH-2.0-OpenSSH\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
            STREAM + b"zz\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD,
        ):
            _, heard, wire = self.asked()
            self.wire_says(wire, said)
            self.failed(heard)
            self.assertEqual(wire.closed, "abort", said[:40])

    def test_what_is_no_answer_is_known_at_the_first_sign(self) -> None:
        """Though nothing more comes: a server that waits for us to speak would wait for ever."""
        for said in (
            b"\x15\x03\x01\x00\x02\x02\x0a",  # an alert of TLS
            b"\x00",
            b"SSH-",
            b"220 mail.example ESMTP\r\n",
            b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
            b"HTTP/1.1 200 OK\r\nA: b\nC",
            b"HTTP/1.1 200 OK\r\nA: \0",
            b"HTTP/2",
            b"HTTP/1.1 99",
            b"HTTP/1.1 2000 ",
            b"{}",
        ):
            _, heard, wire = self.asked()
            self.wire_says(wire, said)
            self.failed(heard)
            self.assertEqual(wire.closed, "abort", said)

    def test_a_caller_that_reads_slowly_slows_the_answer(self) -> None:
        """The socket is left alone meanwhile; also when it was said before the connection."""
        call, heard = self.open()
        call.pause_response()
        call.finish()
        wire = self.place.accept()
        self.assertEqual(wire.producerState, "paused")
        call.resume_response()
        self.assertEqual(wire.producerState, "producing")
        call.pause_response()
        self.assertEqual(wire.producerState, "paused")
        call.cancel(LEFT)
        self.assertIsNone(heard.outcome)

    def test_an_early_answer(self) -> None:
        """An answer that is whole before the request was ends the upload and the connection."""
        call, heard = self.open(UPLOAD)
        wire = self.place.accept()
        call.write(b"one")
        self.wire_says(wire, b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        self.assertEqual((heard.head and heard.head.status, heard.outcome), (413, "end"))
        wire.take_written()
        for _ in range(3):
            call.write(b"more")
        call.finish()
        call.cancel(LEFT)
        self.assertEqual((wire.take_written(), wire.closed), (b"", "abort"))
        self.assertEqual(call._unsent_body, [])  # nobody will ever send it


class Cancels(Case):
    """Closing the connection is how the server is told to stop."""

    def test_while_connecting(self) -> None:
        """Nothing is dialled any more, and nothing heard."""
        call, heard = self.open()
        call.finish()
        call.cancel(LEFT)
        self.assertEqual(self.place.cancelled, 1)
        self.assertIsNone(heard.outcome)

    def test_connected_all_the_same(self) -> None:
        """A connection that comes after its exchange was cancelled is closed, unused."""
        call, heard = self.open()
        call._connecting = None  # an endpoint that does not let itself be cancelled
        call.cancel(LEFT)
        wire = self.place.accept()
        self.assertEqual((wire.take_written(), wire.closed), (b"", "abort"))
        self.assertIsNone(heard.outcome)

    def test_in_every_phase(self) -> None:
        """While asking, before the answer, in the middle of it: closed at once, nothing heard."""
        for sent, said in ((False, b""), (True, b""), (True, STREAM + b"4\r\none\n\r\n")):
            call, heard = self.open(UPLOAD)
            wire = self.place.accept()
            if sent:
                call.finish()
            if said:
                wire.protocol.dataReceived(said)
            call.cancel(LEFT)
            self.assertEqual(wire.closed, "abort")
            wire.deliver_abort()
            self.assertIsNone(heard.outcome)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_from_within_the_answer(self) -> None:
        """Who cancels on hearing a piece hears nothing else, though the end has come too."""

        class Impatient(FakeResponseSink):
            def write(self, piece: bytes) -> None:
                super().write(piece)
                call.cancel(LEFT)

        heard = Impatient()
        call = self.origin.start_request(GET, heard)
        wire = self.place.accept()
        call.finish()
        wire.protocol.dataReceived(STREAM + b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")
        self.assertEqual((bytes(heard.body), heard.outcome, wire.closed), (b"ab", None, "abort"))

    def test_after_the_end(self) -> None:
        """It is too late: the connection may already serve somebody else."""
        call, _, wire = self.asked()
        wire.protocol.dataReceived(OK)
        other, heard = self.open()
        other.finish()
        call.cancel(LEFT)
        call.pause_response()
        self.assertEqual((wire.closed, wire.producerState), ("", "producing"))
        wire.protocol.dataReceived(OK)
        self.assertEqual(heard.outcome, "end")


class Kept(Case):
    """Connections are used again."""

    def kept(self) -> MemoryTransport:
        _, heard, wire = self.asked()
        wire.protocol.dataReceived(OK)
        self.assertEqual(heard.outcome, "end")
        return wire

    def unused(self, wire: MemoryTransport) -> None:
        """The next exchange dials for itself."""
        self.open()
        self.assertEqual(len(self.place.pending), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_used_again(self) -> None:
        """One after the other on one connection, and each hears its own answer."""
        wire = self.kept()
        wire.take_written()
        call, heard = self.open()
        call.finish()
        self.assertIn(b"GET /api/tags", wire.take_written())
        wire.protocol.dataReceived(STREAM + b"2\r\nhi\r\n0\r\n\r\n")
        self.assertEqual((bytes(heard.body), heard.outcome), (b"hi", "end"))
        self.assertEqual(len(self.place.transports), 1)

    def test_a_paused_one_reads_again(self) -> None:
        """A caller that had paused leaves a connection that reads."""
        call, _, wire = self.asked()
        call.pause_response()
        wire.protocol.dataReceived(OK)
        self.assertEqual(wire.producerState, "producing")

    def test_two_at_once_have_two(self) -> None:
        """A connection carries one exchange at a time."""
        self.asked()
        self.asked()
        self.assertEqual(len(self.place.transports), 2)

    def test_closed_when_nobody_comes(self) -> None:
        """Before the server would."""
        wire = self.kept()
        self.clock.advance(IDLE_TIMEOUT - 0.1)
        self.assertEqual(wire.closed, "")
        self.clock.advance(0.1)
        self.assertEqual(wire.closed, "close")

    def test_not_used_once_it_is_being_closed(self) -> None:
        """Also in the turn in which its time is over, before the transport says so."""
        wire = self.kept()
        self.clock.advance(IDLE_TIMEOUT)
        self.unused(wire)
        wire.deliver_abort()

    def test_garbage_on_an_unused_one(self) -> None:
        """What speaks without being asked is closed, and not asked any more."""
        wire = self.kept()
        wire.protocol.dataReceived(b"HTTP/1.1 408 Too slow\r\n\r\n")
        self.assertEqual(wire.closed, "abort")
        self.unused(wire)
        wire.deliver_abort()

    def test_garbage_behind_an_answer(self) -> None:
        """A second answer that comes along with the first is nobody's: least of all the next's."""
        _, heard, wire = self.asked()
        wire.protocol.dataReceived(OK + OK)
        self.assertEqual((bytes(heard.body), heard.outcome), (b"ok", "end"))
        self.assertEqual(wire.closed, "abort")
        self.unused(wire)

    def test_closed_by_the_server(self) -> None:
        """It is forgotten, with its timer."""
        wire = self.kept()
        wire.disconnect()
        self.unused(wire)

    def test_connection_close(self) -> None:
        """A server that says that it will close is not asked again."""
        _, heard, wire = self.asked()
        wire.protocol.dataReceived(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
        )
        self.assertEqual((heard.outcome, wire.closed), ("end", "abort"))
        self.unused(wire)

    def test_not_more_than_so_many(self) -> None:
        """The rest is closed."""
        wires = [self.asked()[2] for _ in range(MAX_IDLE_CONNECTIONS + 1)]
        for wire in wires:
            wire.protocol.dataReceived(OK)
        self.assertEqual([wire.closed for wire in wires], [""] * MAX_IDLE_CONNECTIONS + ["abort"])
        self.origin.close()

    def test_closing_leaves_nothing(self) -> None:
        """No connection and no timer; what is under way goes on."""
        idle = self.kept()
        first_call, busy = self.open()
        first_call.finish()
        _, _, other = self.asked()
        other.protocol.dataReceived(OK)
        self.origin.close()
        self.assertEqual((idle.closed, other.closed), ("", "abort"))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        idle.protocol.dataReceived(OK)
        self.assertEqual(busy.outcome, "end")


class Repeated(Case):
    """A server may close a kept connection in the moment in which it is used again."""

    def reused(
        self, head: RequestHead = GET
    ) -> tuple[ClientRequest, FakeResponseSink, MemoryTransport]:
        """An exchange on a connection that was kept."""
        _, _, wire = self.asked()
        wire.protocol.dataReceived(OK)
        wire.take_written()
        call, heard = self.open(head)
        self.assertEqual(self.place.pending, [])
        return call, heard, wire

    def test_a_request_without_a_body(self) -> None:
        """It is sent once more on a new connection, however the old one ended."""
        for reason in (None, ConnectionLost()):
            call, heard, wire = self.reused()
            call.finish()
            wire.disconnect(reason)
            self.assertIsNone(heard.outcome)
            again = self.place.accept()
            self.assertTrue(again.take_written().startswith(b"GET /api/tags HTTP/1.1\r\n"))
            again.protocol.dataReceived(OK)
            self.assertEqual((bytes(heard.body), heard.outcome), (b"ok", "end"))
            self.setUp()

    def test_a_body_that_is_still_held(self) -> None:
        """In its order, and what comes of it later follows."""
        call, heard, wire = self.reused(UPLOAD)
        call.write(b"one")
        self.assertTrue(wire.take_written().endswith(b"3\r\none\r\n"))
        wire.disconnect()
        self.assertFalse(heard.may_send_body)
        call.write(b"two")
        again = self.place.accept()
        self.assertTrue(heard.may_send_body)
        call.write(b"six")
        call.finish()
        body = again.take_written().partition(b"\r\n\r\n")[2]
        self.assertEqual(body, b"3\r\none\r\n3\r\ntwo\r\n3\r\nsix\r\n0\r\n\r\n")
        again.protocol.dataReceived(OK)
        self.assertEqual(heard.outcome, "end")
        self.assertEqual(self.origin.retry_budget.reserved, 0)

    def test_only_once(self) -> None:
        """What breaks on a new connection is not the age of the connection."""
        call, heard, wire = self.reused(POST)
        call.write(b"body")
        call.finish()
        wire.disconnect()
        self.place.accept().disconnect()
        self.failed(heard)
        self.assertEqual((self.place.pending, self.origin.retry_budget.reserved), ([], 0))

    def test_not_once_it_is_answered(self) -> None:
        """A single byte of an answer is enough: the server has had the request."""
        call, heard, wire = self.reused()
        call.finish()
        wire.protocol.dataReceived(b"H")
        wire.disconnect()
        self.failed(heard)
        self.assertEqual((self.place.pending, self.origin.retry_budget.reserved), ([], 0))

    def test_not_where_it_is_not_all_held(self) -> None:
        """Of a large body what was sent is gone; and all bodies together have a limit."""
        for size, held in ((MAX_RETRY_BUFFER + 1, 0), (10, MAX_TOTAL_RETRY_BUFFER)):
            self.origin.retry_budget.reserve(held)
            call, heard, wire = self.reused(UPLOAD)
            call.write(b"x" * size)
            wire.disconnect()
            self.failed(heard, OllamaDown)
            self.assertEqual((self.place.pending, self.origin.retry_budget.reserved), ([], held))
            self.setUp()

    def test_what_cannot_be_sent_is_not_tried_again(self) -> None:
        """The connection had no part in it."""
        call, heard, _ = self.reused(POST)
        call.write(b"too long")
        self.failed(heard, OllamaDown)
        self.assertEqual((self.place.pending, self.origin.retry_budget.reserved), ([], 0))

    def test_a_caller_that_leaves_meanwhile(self) -> None:
        """Nothing is dialled for it any more."""
        call, heard, wire = self.reused()
        call.finish()
        wire.disconnect()
        call.cancel(LEFT)
        self.assertEqual(self.place.cancelled, 1)
        self.assertIsNone(heard.outcome)


class AgainstOurServer(SynchronousTestCase):
    """Both of our own ends over memory."""

    def test_an_echo(self) -> None:
        """An upload of unknown length comes back, on one connection again and again."""
        clock = Clock()

        async def echo(incoming: ServerRequest) -> None:
            body = await incoming.read_body(100)
            incoming.respond(200, body, ((b"X-Request-Id", incoming.head.method),))

        served = ServedEndpoint(echo, clock)
        origin = ConnectionPool(served, clock, "the echo", BadGateway)
        for number in (b"one", b"two", b"three"):
            heard = FakeResponseSink()
            call = origin.start_request(UPLOAD, heard)
            call.write(number)
            call.finish()
            served.flush()
            assert heard.head is not None
            self.assertEqual(get_header(heard.head.headers, b"x-request-id"), b"POST")
            self.assertEqual((bytes(heard.body), heard.outcome), (number, "end"))
        self.assertEqual(len(served.pumps), 1)
        origin.close()
        served.flush()
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_a_broken_answer_is_heard_as_broken(self) -> None:
        """What the server breaks off never passes for whole, words or not."""
        clock = Clock()

        async def breaking(incoming: ServerRequest) -> None:
            incoming.write_head(
                ResponseHead(200, b"OK", ((b"Content-Type", b"application/x-ndjson"),))
            )
            incoming.write(b'{"half":')
            raise OllamaDown("it died")

        served = ServedEndpoint(breaking, clock)
        heard = FakeResponseSink()
        ConnectionPool(served, clock, "it", BadGateway).start_request(GET, heard).finish()
        served.flush()
        self.assertEqual(bytes(heard.body), b'{"half":null,"error":"it died"}\n')
        clock.advance(DEFAULT_TIMEOUTS.error_flush)
        served.flush()
        self.assertIsInstance(heard.outcome, BadGateway)
