"""The fake Ollama's wire in Ollama's own dialect, its scripts and its records."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web import http

from tests.fake_ollama import FakeOllama, Record, Script

CHAT = {"model": "demo:echo", "messages": [{"role": "user", "content": "hello there"}]}


class Visit:
    """A client's connection, in memory."""

    def __init__(self, fake_ollama: FakeOllama) -> None:
        self.transport = StringTransport()
        self.channel = fake_ollama.site.buildProtocol(None)
        self.channel.makeConnection(self.transport)

    def send(self, method: str, target: str, body: Any = b"", **headers: str) -> Visit:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"{method} {target} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
        lines += [f"Content-Length: {len(data)}"] if data else []
        self.channel.dataReceived("\r\n".join([*lines, "", ""]).encode() + data)
        return self

    def leave(self) -> None:
        self.channel.connectionLost(Failure(ConnectionDone()))

    @property
    def seen(self) -> bytes:
        return self.transport.value()

    @property
    def head(self) -> bytes:
        return self.seen.partition(b"\r\n\r\n")[0]

    @property
    def status(self) -> int:
        return int(self.seen.split(b" ", 2)[1])

    @property
    def body(self) -> bytes:
        return self.seen.partition(b"\r\n\r\n")[2]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def chunks(self) -> list[bytes]:
        """The chunks that have come; the last is empty when the answer ended cleanly."""
        found, rest = [], self.body
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            found.append(rest[: int(size, 16)])
            rest = rest[int(size, 16) + 2 :]
        return found


class FakeOllamaCase(SynchronousTestCase):
    """A stand-in without pauses, on a clock that stands still."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.fake_ollama = self.made()

    def made(self, **options: Any) -> FakeOllama:
        defaults: dict[str, Any] = {"word_interval": 0, "now": self.clock.seconds}
        return FakeOllama(self.clock, **(defaults | options))

    def visit(self, method: str, target: str, body: Any = b"", **headers: str) -> Visit:
        return Visit(self.fake_ollama).send(method, target, body, **headers)

    def chat(self, **more: Any) -> Visit:
        return self.visit("POST", "/api/chat", CHAT | more)

    @property
    def last(self) -> Record:
        return self.fake_ollama.requests[-1]


class NativeTests(FakeOllamaCase):
    def test_streams_by_default_one_chunk_a_line(self) -> None:
        """A chat streams NDJSON unless told not to, each line a chunk, `done` only in the last."""
        visit = self.chat()
        self.assertIn(b"Content-Type: application/x-ndjson", visit.head)
        *lines, end = visit.chunks
        self.assertEqual(end, b"")
        self.assertTrue(all(line.endswith(b"}\n") and line.count(b"\n") == 1 for line in lines))
        told = [json.loads(line) for line in lines]
        self.assertEqual([each["done"] for each in told], [False] * (len(told) - 1) + [True])
        said = "".join(each["message"]["content"] for each in told)
        self.assertEqual(said, "This is ctllm's demo, not a model. You said: hello there")

    def test_last_line_has_the_figures(self) -> None:
        """The last line says why it ended and what it cost."""
        self.fake_ollama.script("/api/chat", Script(load_seconds=2))
        visit = self.chat()
        self.clock.advance(2)
        last = json.loads(visit.chunks[-2])
        self.assertEqual(last["done_reason"], "stop")
        self.assertEqual((last["load_duration"], last["total_duration"]), (2 * 10**9,) * 2)
        self.assertEqual((last["prompt_eval_count"], last["eval_count"]), (2, 11))

    def test_unstreamed_answer_has_a_length(self) -> None:
        """`stream: false` gives one JSON with its length."""
        visit = self.chat(stream=False)
        self.assertIn(b"Content-Length: %d" % len(visit.body), visit.head)
        self.assertIn(b"application/json; charset=utf-8", visit.head)
        self.assertTrue(visit.json["message"]["content"].endswith("hello there"))

    def test_first_tool_is_called(self) -> None:
        """With tools the answer is a call of the first, its first string the last message."""
        schema = {"properties": {"n": {"type": "integer"}, "city": {"type": "string"}}}
        tool = {"type": "function", "function": {"name": "weather", "parameters": schema}}
        message = self.chat(tools=[tool], stream=False).json["message"]
        function = message["tool_calls"][0]["function"]
        self.assertEqual((function["name"], message["content"]), ("weather", ""))
        self.assertEqual(function["arguments"], {"city": "hello there"})

    def test_tool_result_is_answered_in_words(self) -> None:
        """What a tool gave is answered, not asked for again."""
        messages = [*CHAT["messages"], {"role": "tool", "content": "sunny"}]
        tool = {"type": "function", "function": {"name": "weather"}}
        message = self.chat(messages=messages, tools=[tool], stream=False).json["message"]
        self.assertTrue(message["content"].endswith("sunny"))

    def test_thinking_comes_apart_from_content(self) -> None:
        """With `think` the thoughts have a field of their own."""
        lines = [json.loads(line)["message"] for line in self.chat(think=True).chunks[:-1]]
        self.assertIn("thinking", lines[0])
        self.assertEqual(lines[0]["content"], "")
        self.assertNotIn("thinking", lines[-2])

    def test_bad_image_is_refused(self) -> None:
        """An image that is not base64 is a 400."""
        messages = [{"role": "user", "content": "see", "images": ["***"]}]
        self.assertEqual(self.chat(messages=messages).status, 400)
        messages[0]["images"] = ["aGVsbG8="]
        self.assertEqual(self.chat(messages=messages).status, 200)

    def test_without_messages_the_model_is_only_loaded(self) -> None:
        """An empty chat loads the model, `keep_alive` 0 unloads it; /api/ps shows both."""
        self.assertEqual(self.chat(messages=[]).json["done_reason"], "load")
        self.assertEqual(len(self.visit("GET", "/api/ps").json["models"]), 1)
        self.assertEqual(self.chat(messages=[], keep_alive=0).json["done_reason"], "unload")
        self.assertEqual(self.visit("GET", "/api/ps").json["models"], [])

    def test_loaded_model_expires(self) -> None:
        """A model stays loaded as long as `keep_alive` says."""
        self.chat(keep_alive="1m")
        self.clock.advance(59)
        self.assertEqual(len(self.visit("GET", "/api/ps").json["models"]), 1)
        self.clock.advance(2)
        self.assertEqual(self.visit("GET", "/api/ps").json["models"], [])

    def test_pull_reports_progress_then_has_the_model(self) -> None:
        """A pull streams progress and adds the model only at its end."""
        self.fake_ollama.script("/api/pull", Script(pause_after=(3, 5)))
        visit = self.visit("POST", "/api/pull", {"model": "new"})
        self.assertEqual(self.fake_ollama.models, ["demo:echo"])
        self.clock.advance(5)
        steps = [json.loads(line) for line in visit.chunks[:-1]]
        self.assertEqual(steps[-1], {"status": "success"})
        self.assertLess(steps[1]["completed"], steps[1]["total"])
        self.assertEqual(self.fake_ollama.models, ["demo:echo", "new:latest"])

    def test_copy_and_delete(self) -> None:
        """Copy and delete change what is listed; DELETE has a body."""
        body = {"source": "demo:echo", "destination": "two"}
        self.assertEqual(self.visit("POST", "/api/copy", body).status, 200)
        self.assertEqual(self.visit("DELETE", "/api/delete", {"model": "demo:echo"}).status, 200)
        names = [model["name"] for model in self.visit("GET", "/api/tags").json["models"]]
        self.assertEqual(names, ["two:latest"])

    def test_demo_says_that_it_is_one(self) -> None:
        """Lists and details call the model a demo."""
        model = self.visit("GET", "/api/tags").json["models"][0]
        shown = self.visit("POST", "/api/show", {"model": "demo:echo"}).json
        self.assertEqual(model["details"]["family"], "demo")
        self.assertEqual(shown["details"]["family"], "demo")
        self.assertIn("not a model", shown["details"]["description"])


class BlobTests(FakeOllamaCase):
    def test_right_hash_is_taken_in(self) -> None:
        """A blob whose hash is right is 201 and then there."""
        target = f"/api/blobs/sha256:{sha256(b'abc').hexdigest()}"
        self.assertEqual(self.visit("HEAD", target).status, 404)
        self.assertEqual(self.visit("POST", target, b"abc").status, 201)
        self.assertEqual(self.visit("HEAD", target).status, 200)

    def test_wrong_hash_is_refused(self) -> None:
        """A blob whose hash is wrong is 400 and not there."""
        target = f"/api/blobs/sha256:{'0' * 64}"
        self.assertEqual(self.visit("POST", target, b"abc").status, 400)
        self.assertEqual(self.visit("HEAD", target).status, 404)

    def test_large_upload_makes_no_file_and_is_not_held(self) -> None:
        """A large body is hashed as it comes: no temporary file, nothing kept."""
        self.patch(http, "_getContentFile", lambda length: self.fail("a body went to a file"))
        body = bytes(200_000)
        target = f"/api/blobs/sha256:{sha256(body).hexdigest()}"
        self.assertEqual(self.visit("POST", target, body).status, 201)
        self.assertEqual((self.last.body, self.last.body_length), (None, 200_000))
        self.assertEqual(self.last.body_sha256, sha256(body).hexdigest())


class DoorTests(FakeOllamaCase):
    def test_plain_pages(self) -> None:
        """The root says that it runs; unknown paths and methods are refused in plain text."""
        self.assertEqual(self.visit("GET", "/").body, b"Ollama is running")
        self.assertEqual(self.visit("HEAD", "/").body, b"")
        unknown, wrong = self.visit("GET", "/nope"), self.visit("GET", "/api/chat")
        self.assertEqual((unknown.status, unknown.body), (404, b"404 page not found"))
        self.assertIn(b"Content-Type: text/plain", unknown.head)
        self.assertEqual(wrong.status, 405)
        self.assertIn(b"Allow: POST", wrong.head)

    def test_errors_are_ollamas(self) -> None:
        """Bad JSON and a missing model are 400, an unknown one 404."""
        for body, status in ((b"{", 400), ({}, 400), (CHAT | {"model": "x"}, 404)):
            visit = self.visit("POST", "/api/chat", body)
            self.assertEqual(visit.status, status)
            self.assertIn("error", visit.json)
        self.assertEqual(visit.json, {"error": "model 'x' not found"})

    def test_foreign_host_and_origin_are_refused(self) -> None:
        """A foreign Host or Origin gets 403 and an empty body; local ones are let in."""
        for header in ({"Host": "evil.com"}, {"Origin": "https://evil.com"}, {"Origin": "null"}):
            visit = self.visit("GET", "/api/tags", **header)
            self.assertEqual((visit.status, visit.body), (403, b""))
        for host in (
            "localhost:1",
            "127.0.0.1",
            "[::1]:80",
            "a.localhost",
            "nas.local",
            "10.0.0.1",
        ):
            self.assertEqual(self.visit("GET", "/api/tags", Host=host).status, 200, host)
        local = self.visit("GET", "/api/tags", Origin="http://localhost:3000")
        self.assertIn(b"Access-Control-Allow-Origin: http://localhost:3000", local.head)

    def test_guard_can_be_off(self) -> None:
        """Without the guard any Host is let in."""
        self.fake_ollama = self.made(guard_host=False)
        self.assertEqual(self.visit("GET", "/api/tags", Host="evil.com").status, 200)


class ScriptTests(FakeOllamaCase):
    def script(self, **fields: Any) -> None:
        self.fake_ollama.script("/api/chat", Script(**fields))

    def test_error_before(self) -> None:
        """A script refuses with a status, a body and headers of its own."""
        self.script(error_before=(503, '{"error":"busy"}', {"Retry-After": "7"}))
        visit = self.chat()
        self.assertEqual((visit.status, visit.json), (503, {"error": "busy"}))
        self.assertIn(b"Retry-After: 7", visit.head)

    def test_verbatim(self) -> None:
        """Whatever bytes a test wants on the wire; then the connection is kept, or closed."""
        answer = "HTTP/1.1 299 Odd\r\nX-Name: \xe9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        for script, closed in (
            (Script(verbatim=answer), False),
            (Script(verbatim=answer, break_after=0), True),
        ):
            self.fake_ollama.script("/api/tags", script, times=1)
            visit = self.visit("GET", "/api/tags")
            self.assertEqual(visit.seen, answer.encode("latin-1"))
            self.assertEqual(visit.transport.disconnecting, closed)

    def test_error_in_stream(self) -> None:
        """After so many lines comes the error's, and the answer ends cleanly."""
        self.script(error_in_stream=(2, "boom"))
        self.assertEqual(self.chat().chunks[2:], [b'{"error":"boom"}\n', b""])

    def test_error_without_stream(self) -> None:
        """An answer that is not streamed fails with 500."""
        self.script(error_in_stream=(2, "boom"))
        visit = self.chat(stream=False)
        self.assertEqual((visit.status, visit.json), (500, {"error": "boom"}))

    def test_break(self) -> None:
        """A broken answer has so many lines, no end, and a closed connection."""
        self.script(break_after=2)
        visit = self.chat()
        self.assertEqual(len(visit.chunks), 2)
        self.assertNotIn(b"", visit.chunks)
        self.assertTrue(visit.transport.disconnecting)
        self.assertEqual(self.last.closed_by, "server")

    def test_times_and_order(self) -> None:
        """The newest script wins, for as many requests as it was made for."""
        self.script(error_before=(500, "old", {}))
        self.fake_ollama.script("/api/chat", Script(error_before=(503, "new", {})), times=1)
        self.assertEqual([self.chat().status for _ in range(3)], [503, 500, 500])

    def test_predicate_sees_the_body(self) -> None:
        """A script may be for the requests whose record fits."""
        self.fake_ollama.script(
            lambda record: b"hello" in (record.body or b""), Script(lines=("x",))
        )
        self.assertEqual(self.chat(stream=False).json["message"]["content"], "x")
        other = [{"role": "user", "content": "bye"}]
        self.assertIn("demo", self.chat(stream=False, messages=other).json["message"]["content"])

    def test_pace(self) -> None:
        """Lines come at their interval, and a late clock does not change the pace."""
        self.script(lines=5, line_interval=0.05)
        visit = self.chat()
        self.assertEqual(len(visit.chunks), 1)
        self.clock.advance(0.06)
        self.assertEqual(len(visit.chunks), 2)
        self.clock.advance(0.04)
        self.assertEqual(len(visit.chunks), 3)

    def test_pause_after_the_head(self) -> None:
        """A pause after no line comes after the head."""
        self.script(pause_after=(0, 9))
        visit = self.chat()
        self.assertEqual((visit.status, visit.chunks), (200, []))
        self.clock.advance(9)
        self.assertEqual(visit.chunks[-1], b"")

    def test_pause_comes_before_a_break(self) -> None:
        """A script that pauses and breaks after the same line does both, in this order."""
        self.script(pause_after=(2, 9), break_after=2)
        visit = self.chat()
        self.assertFalse(visit.transport.disconnecting)
        self.clock.advance(9)
        self.assertTrue(visit.transport.disconnecting)
        self.assertEqual(len(visit.chunks), 2)

    def test_line_length(self) -> None:
        """Lines are as long as the script says."""
        self.script(lines=3, line_bytes=200)
        self.assertEqual([len(line) for line in self.chat().chunks[:3]], [200] * 3)

    def test_stalled_reader_stalls_the_answer(self) -> None:
        """Of a huge answer a stalled reader gets no more than it takes."""
        self.script(size=2 * 10**9)
        visit = self.chat()
        taken = len(visit.seen)
        self.assertLess(taken, 10**6)
        assert visit.transport.producer is not None
        visit.transport.producer.pauseProducing()
        self.clock.pump([0, 0, 0])
        self.assertEqual(len(visit.seen), taken)
        visit.transport.producer.resumeProducing()
        self.assertGreater(len(visit.seen), taken)
        visit.leave()
        self.assertEqual((self.last.closed_by, self.clock.getDelayedCalls()), ("client", []))

    def test_receive_pause(self) -> None:
        """A script stops reading a body, and goes on."""
        self.fake_ollama.script("/api/blobs/x", Script(receive_pause=(4, 3)))
        visit = Visit(self.fake_ollama)
        visit.channel.dataReceived(b"POST /api/blobs/x HTTP/1.1\r\nContent-Length: 9\r\n\r\nabcd")
        self.assertEqual(visit.transport.producerState, "paused")
        self.clock.advance(3)
        self.assertEqual(visit.transport.producerState, "producing")

    def test_receive_pause_ends_with_the_connection(self) -> None:
        """Nothing is left to do when the connection is lost while its body is not read."""
        self.fake_ollama.script("/api/blobs/x", Script(receive_pause=(4, 3)))
        visit = Visit(self.fake_ollama)
        visit.channel.dataReceived(b"POST /api/blobs/x HTTP/1.1\r\nContent-Length: 9\r\n\r\nabcd")
        visit.leave()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class AbortTests(FakeOllamaCase):
    """Whenever the client leaves, work stops and the record says when and in which phase."""

    def assert_stopped(self, visit: Visit, phase: str) -> None:
        visit.leave()
        seen = visit.seen
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual((self.last.closed_by, self.last.phase), ("client", phase))
        self.assertEqual(self.last.closed_at, self.clock.seconds())
        self.clock.advance(1000)
        self.assertEqual(visit.seen, seen)

    def test_in_upload(self) -> None:
        """While the body comes."""
        visit = Visit(self.fake_ollama)
        visit.channel.dataReceived(b"POST /api/chat HTTP/1.1\r\nContent-Length: 9\r\n\r\nabcd")
        self.assert_stopped(visit, "receiving")
        self.assertEqual((self.last.body, self.last.body_length), (b"abcd", 4))

    def test_before_the_head(self) -> None:
        """While nothing is sent yet."""
        self.fake_ollama.script("/api/chat", Script(delay_before_head=5))
        self.assert_stopped(self.chat(), "waiting")

    def test_in_loading(self) -> None:
        """While the model loads; it is then not loaded."""
        self.fake_ollama.script("/api/chat", Script(load_seconds=300))
        visit = self.chat()
        self.clock.advance(10)
        self.assert_stopped(visit, "loading")
        self.assertEqual(self.visit("GET", "/api/ps").json["models"], [])

    def test_in_streaming(self) -> None:
        """Between two lines."""
        self.fake_ollama = self.made(word_interval=1)
        visit = self.chat()
        self.clock.advance(1)
        self.assert_stopped(visit, "answering")
        self.assertEqual(self.last.lines_sent, 2)

    def test_in_an_unstreamed_wait(self) -> None:
        """While an answer that is not streamed is being made."""
        self.fake_ollama = self.made(word_interval=1)
        visit = self.chat(stream=False)
        self.clock.advance(1)
        self.assert_stopped(visit, "answering")
        self.assertEqual(self.last.status, None)


class RecordTests(FakeOllamaCase):
    def test_what_came_is_written_down(self) -> None:
        """A record has the request as it came and what was answered."""
        self.clock.advance(5)
        self.visit("POST", "/api/chat?x=1", CHAT, Authorization="Bearer t")
        record = self.last
        self.assertEqual((record.method, record.target), ("POST", "/api/chat?x=1"))
        self.assertEqual(record.header("authorization"), "Bearer t")
        self.assertEqual(json.loads(record.body or b""), CHAT)
        self.assertEqual((record.status, record.lines_sent), (200, 12))
        self.assertEqual((record.started, record.closed_at), (5, 5))

    def test_waiting_for_the_end(self) -> None:
        """Everybody who awaits `closed` gets the record, before or after the end."""
        self.fake_ollama.script("/api/chat", Script(load_seconds=1))
        self.chat()
        first, second = self.last.closed, self.last.closed
        self.assertNoResult(first)
        self.clock.advance(1)
        self.assertIs(self.successResultOf(first), self.last)
        self.assertIs(self.successResultOf(second), self.last)
        self.assertIs(self.successResultOf(self.last.closed), self.last)

    def test_waiting_for_what_fits(self) -> None:
        """`wait_for` fires with the first record that fits, and can be given up."""
        self.fake_ollama = self.made(word_interval=1)
        waiting = self.fake_ollama.wait_for(lambda record: record.lines_sent == 2)
        given_up = self.fake_ollama.wait_for(lambda record: record.lines_sent == 2)
        given_up.cancel()
        self.failureResultOf(given_up)
        self.chat()
        self.assertNoResult(waiting)
        self.clock.advance(1)
        self.assertIs(self.successResultOf(waiting), self.last)

    def test_reset(self) -> None:
        """A reset forgets scripts and records and has the first models again."""
        self.fake_ollama.script("/api/chat", Script(error_before=(500, "", {})))
        self.visit("DELETE", "/api/delete", {"model": "demo:echo"})
        self.fake_ollama.reset()
        self.assertEqual(
            (len(self.fake_ollama.requests), self.fake_ollama.models), (0, ["demo:echo"])
        )
        self.assertEqual(self.chat().status, 200)


class ControlTests(FakeOllamaCase):
    def test_scripts_and_records_over_http(self) -> None:
        """With control on, scripts are given and records read over HTTP, unrecorded themselves."""
        self.fake_ollama = self.made(control=True)
        script = {"error_before": [503, "busy", {}]}
        order = {"path": "/api/chat", "contains": "hello", "times": 1, "script": script}
        self.assertEqual(self.visit("POST", "/fake/scripts", order).status, 204)
        self.assertEqual([self.chat().status for _ in range(2)], [503, 200])
        records = self.visit("GET", "/fake/requests").json
        self.assertEqual([each["status"] for each in records], [503, 200])
        self.assertEqual(json.loads(records[0]["body"]), CHAT)

    def test_misspelt_script_is_refused(self) -> None:
        """A field that no script has is an error, not silence."""
        self.fake_ollama = self.made(control=True)
        order = {"path": "/api/chat", "script": {"linez": 1}}
        self.assertEqual(self.visit("POST", "/fake/scripts", order).status, 400)

    def test_off_by_default(self) -> None:
        """Without control there is no such page."""
        self.assertEqual(self.visit("GET", "/fake/requests").status, 404)
