"""Clients that ask for more than they read, send what costs much, or stop in the middle."""

from __future__ import annotations

from ctllm.http.message.head import ResponseHead
from ctllm.http.message.request_parser import MAX_HEADERS
from ctllm.http.server.connection import READ_AHEAD
from ctllm.http.timeouts import DEFAULT_TIMEOUTS
from tests.unit.test_http_server import NDJSON, Served

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
START = b"POST /api/chat HTTP/1.1\r\nHost: x\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"


class Pipelines(Served):
    """Many requests on one connection, whose answers wait for each other."""

    def test_who_does_not_read_answers_is_asked_for_no_questions(self) -> None:
        """While one is being taken, no other request begins and no more is read."""
        self.server.pauseProducing()
        self.say(GET * 5000)
        self.assertEqual(self.incoming, [])
        self.assertEqual(self.transport.producerState, "paused")
        self.server.resumeProducing()
        self.assertEqual(len(self.incoming), 1)

    def test_what_follows_a_request_waits_where_it_is_counted(self) -> None:
        """Each answer lets in no more than was read ahead, however long it goes on."""
        received = 0
        for _ in range(100):
            for _ in range(20):
                if self.transport.producerState == "producing":
                    self.say(GET * 200)
                    received += len(GET * 200)
            self.incoming[-1].respond(200, {})
        self.assertLess(received - len(GET) * len(self.incoming), 2 * READ_AHEAD)
        self.assertEqual(len(self.incoming), 101)

    def test_who_never_reads_is_given_up(self) -> None:
        """In time, and without another request having begun meanwhile."""
        self.say(GET)
        self.server.pauseProducing()
        self.incoming[0].respond(200, {})
        self.say(GET)
        for _ in range(int(DEFAULT_TIMEOUTS.head + DEFAULT_TIMEOUTS.flush)):
            self.clock.advance(1)
            self.say(GET)
        self.assertEqual(self.transport.closed, "abort")
        self.assertEqual(len(self.incoming), 1)


class Costs(Served):
    """Little that is sent and much that it costs."""

    def test_as_many_headers_as_anybody_needs(self) -> None:
        """One more gets 431, before any of them was looked at."""
        self.connect(max_head_bytes=65536)
        head = GET[:-2] + b"a:b\r\n" * (MAX_HEADERS - 1)
        self.say(head + b"\r\n")
        self.assertEqual(len(self.incoming), 1)
        self.incoming[0].respond(200, {})
        self.said()
        self.say(head + b"a:b\r\n\r\n")
        self.assertIn(b" 431 ", self.said())

    def test_a_body_in_tiny_chunks_that_nobody_wants(self) -> None:
        """It is not read to its end for the sake of the connection, which closes instead."""

        async def app(incoming: object) -> None:
            self.incoming.append(incoming)  # type: ignore[arg-type]

        self.handler = app
        self.say(CHUNKED + b"1\r\nx\r\n" * 9000 + b"0\r\n\r\n" + GET)
        self.incoming[0].respond(200, {})
        said = self.said()
        self.assertIn(b"Connection: close", said)
        self.assertEqual(self.transport.closed, "half")
        self.assertEqual(len(self.incoming), 1)

    def test_an_exchange_is_over_once(self) -> None:
        """Also one whose body breaks HTTP's rules in the middle."""
        outcomes: list[str] = []
        self.say(CHUNKED + b"1\r\nx\r\n")
        self.incoming[0].add_observer(outcomes.append)
        self.say(b"nonsense\r\n")
        self.assertIn(b" 400 ", self.said())
        self.assertEqual(outcomes, ["client_disconnected"])


class Trickles(Served):
    """Bodies that come slowly, or not at all any more."""

    def begin(self) -> None:
        self.say(START + b"Content-Length: 1000\r\n\r\n")

    def test_a_slow_body_has_all_the_time_it_likes(self) -> None:
        """Something of it now and then is enough, for as long as it takes."""
        self.begin()
        for _ in range(500):
            self.say(b"x")
            self.clock.advance(DEFAULT_TIMEOUTS.body_idle * 0.9)
        self.assertEqual(self.transport.closed, "")

    def test_one_that_stops_is_given_up(self) -> None:
        """408, and whoever was to get it hears that it ended."""
        self.begin()
        self.clock.pump([1.0] * int(2 * DEFAULT_TIMEOUTS.body_idle))
        self.assertIn(b"HTTP/1.1 408 ", self.said())
        self.assertNotIn("end", self.calls[0].calls)
        self.assertTrue(self.incoming[0].is_disconnected)

    def test_one_that_is_held_up_by_us_is_not(self) -> None:
        """Whoever takes it may take its time."""
        self.begin()
        self.incoming[0].pause_request_body()
        self.clock.pump([DEFAULT_TIMEOUTS.body_idle] * 20)
        self.assertEqual(self.transport.closed, "")

    def test_an_answer_may_be_silent_after_a_whole_body(self) -> None:
        """A model loads for as long as it likes."""
        self.begin()
        self.say(b"x" * 1000)
        self.clock.pump([DEFAULT_TIMEOUTS.body_idle] * 20)
        self.incoming[0].write_head(ResponseHead(200, b"", NDJSON.headers))
        self.incoming[0].finish()
        self.assertEqual(self.transport.closed, "")
        self.assertTrue(self.said().endswith(b"0\r\n\r\n"))
