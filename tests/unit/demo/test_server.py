"""The demo's API of Ollama, and the scripts and records of the fake Ollama."""

from __future__ import annotations

import json
import tempfile
from hashlib import sha256
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.fake_ollama import FakeOllama, Record, Script

CHAT = {"model": "demo:echo", "messages": [{"role": "user", "content": "hello there"}]}


class Visit:
    """A client's connection in memory."""

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

    def disconnect(self) -> None:
        self.channel.connectionLost(Failure(ConnectionDone()))

    @property
    def received(self) -> bytes:
        return self.transport.value()

    @property
    def head(self) -> bytes:
        return self.received.partition(b"\r\n\r\n")[0]

    @property
    def status(self) -> int:
        return int(self.received.split(b" ", 2)[1])

    @property
    def body(self) -> bytes:
        return self.received.partition(b"\r\n\r\n")[2]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def chunks(self) -> list[bytes]:
        """The received chunks; the last one is empty if the response ended in order."""
        found, rest = [], self.body
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            found.append(rest[: int(size, 16)])
            rest = rest[int(size, 16) + 2 :]
        return found


class FakeOllamaCase(SynchronousTestCase):
    """A fake Ollama that sends each word at once, with a clock that tests advance."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.fake_ollama = self.create_ollama()

    def create_ollama(self, **options: Any) -> FakeOllama:
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
    def test_streams_by_default_with_each_line_in_a_chunk(self) -> None:
        visit = self.chat()
        self.assertIn(b"Content-Type: application/x-ndjson", visit.head)
        *lines, end = visit.chunks
        self.assertEqual(end, b"")
        self.assertTrue(all(line.endswith(b"}\n") and line.count(b"\n") == 1 for line in lines))
        objects = [json.loads(line) for line in lines]
        self.assertEqual([each["done"] for each in objects], [False] * (len(objects) - 1) + [True])
        text = "".join(each["message"]["content"] for each in objects)
        self.assertEqual(text, "This is ctllm's demo, not a model. You said: hello there")

    def test_the_last_line_has_the_reason_the_durations_and_the_counts(self) -> None:
        self.fake_ollama.script("/api/chat", Script(load_seconds=2))
        visit = self.chat()
        self.clock.advance(2)
        last = json.loads(visit.chunks[-2])
        self.assertEqual(last["done_reason"], "stop")
        self.assertEqual((last["load_duration"], last["total_duration"]), (2 * 10**9,) * 2)
        self.assertEqual((last["prompt_eval_count"], last["eval_count"]), (2, 11))

    def test_a_response_without_streaming_has_a_content_length(self) -> None:
        visit = self.chat(stream=False)
        self.assertIn(b"Content-Length: %d" % len(visit.body), visit.head)
        self.assertIn(b"application/json; charset=utf-8", visit.head)
        self.assertTrue(visit.json["message"]["content"].endswith("hello there"))

    def test_the_end_of_a_transfer_without_streaming_has_no_charset(self) -> None:
        visit = self.visit("POST", "/api/pull", {"model": "new", "stream": False})
        self.assertIn(b"application/json\r\n", visit.head + b"\r\n")
        self.assertEqual(visit.body, b'{"status":"success"}')

    def test_calls_the_first_tool_with_the_last_message(self) -> None:
        schema = {"properties": {"n": {"type": "integer"}, "city": {"type": "string"}}}
        tool = {"type": "function", "function": {"name": "weather", "parameters": schema}}
        message = self.chat(tools=[tool], stream=False).json["message"]
        function = message["tool_calls"][0]["function"]
        self.assertEqual((function["name"], message["content"]), ("weather", ""))
        self.assertEqual(function["arguments"], {"city": "hello there"})

    def test_a_tool_result_is_answered_with_text(self) -> None:
        messages = [*CHAT["messages"], {"role": "tool", "content": "sunny"}]
        tool = {"type": "function", "function": {"name": "weather"}}
        message = self.chat(messages=messages, tools=[tool], stream=False).json["message"]
        self.assertTrue(message["content"].endswith("sunny"))

    def test_thinking_is_separate_from_the_content(self) -> None:
        lines = [json.loads(line)["message"] for line in self.chat(think=True).chunks[:-1]]
        self.assertIn("thinking", lines[0])
        self.assertEqual(lines[0]["content"], "")
        self.assertNotIn("thinking", lines[-2])

    def test_an_image_that_is_not_base64_gets_400(self) -> None:
        messages = [{"role": "user", "content": "see", "images": ["***"]}]
        self.assertEqual(self.chat(messages=messages).status, 400)
        messages[0]["images"] = ["aGVsbG8="]
        self.assertEqual(self.chat(messages=messages).status, 200)

    def test_a_chat_without_messages_loads_or_unloads_the_model(self) -> None:
        self.assertEqual(self.chat(messages=[]).json["done_reason"], "load")
        self.assertEqual(len(self.visit("GET", "/api/ps").json["models"]), 1)
        self.assertEqual(self.chat(messages=[], keep_alive=0).json["done_reason"], "unload")
        self.assertEqual(self.visit("GET", "/api/ps").json["models"], [])

    def test_a_model_is_unloaded_after_keep_alive(self) -> None:
        self.chat(keep_alive="1m")
        self.clock.advance(59)
        self.assertEqual(len(self.visit("GET", "/api/ps").json["models"]), 1)
        self.clock.advance(2)
        self.assertEqual(self.visit("GET", "/api/ps").json["models"], [])

    def test_a_pull_reports_progress_and_adds_the_model_at_its_end(self) -> None:
        self.fake_ollama.script("/api/pull", Script(pause_after=(3, 5)))
        visit = self.visit("POST", "/api/pull", {"model": "new"})
        self.assertEqual(self.fake_ollama.models, ["demo:echo"])
        self.clock.advance(5)
        steps = [json.loads(line) for line in visit.chunks[:-1]]
        self.assertEqual(steps[-1], {"status": "success"})
        self.assertLess(steps[1]["completed"], steps[1]["total"])
        self.assertEqual(self.fake_ollama.models, ["demo:echo", "new:latest"])

    def test_copy_and_delete_change_the_list(self) -> None:
        body = {"source": "demo:echo", "destination": "two"}
        self.assertEqual(self.visit("POST", "/api/copy", body).status, 200)
        self.assertEqual(self.visit("DELETE", "/api/delete", {"model": "demo:echo"}).status, 200)
        names = [model["name"] for model in self.visit("GET", "/api/tags").json["models"]]
        self.assertEqual(names, ["two:latest"])

    def test_the_list_and_the_details_call_the_model_a_demo(self) -> None:
        model = self.visit("GET", "/api/tags").json["models"][0]
        shown = self.visit("POST", "/api/show", {"model": "demo:echo"}).json
        self.assertEqual(model["details"]["family"], "demo")
        self.assertEqual(shown["details"]["family"], "demo")
        self.assertIn("not a model", shown["details"]["description"])


class BlobTests(FakeOllamaCase):
    def test_a_blob_with_the_correct_hash_is_stored(self) -> None:
        target = f"/api/blobs/sha256:{sha256(b'abc').hexdigest()}"
        self.assertEqual(self.visit("HEAD", target).status, 404)
        self.assertEqual(self.visit("POST", target, b"abc").status, 201)
        self.assertEqual(self.visit("HEAD", target).status, 200)

    def test_a_blob_with_a_wrong_hash_gets_400(self) -> None:
        target = f"/api/blobs/sha256:{'0' * 64}"
        self.assertEqual(self.visit("POST", target, b"abc").status, 400)
        self.assertEqual(self.visit("HEAD", target).status, 404)

    def test_a_large_blob_is_neither_written_to_a_file_nor_recorded(self) -> None:
        def fail(*_: object, **__: object) -> None:
            self.fail("The body is written to a file.")

        self.patch(tempfile, "TemporaryFile", fail)
        body = bytes(200_000)
        target = f"/api/blobs/sha256:{sha256(body).hexdigest()}"
        self.assertEqual(self.visit("POST", target, body).status, 201)
        self.assertEqual((self.last.body, self.last.body_length), (None, 200_000))
        self.assertEqual(self.last.body_sha256, sha256(body).hexdigest())


class HttpTests(FakeOllamaCase):
    def test_the_root_and_unknown_paths_are_plain_text(self) -> None:
        self.assertEqual(self.visit("GET", "/").body, b"Ollama is running")
        self.assertEqual(self.visit("HEAD", "/").body, b"")
        unknown, wrong = self.visit("GET", "/nope"), self.visit("GET", "/api/chat")
        self.assertEqual((unknown.status, unknown.body), (404, b"404 page not found"))
        self.assertIn(b"Content-Type: text/plain", unknown.head)
        self.assertEqual(wrong.status, 405)
        self.assertIn(b"Allow: POST", wrong.head)

    def test_errors_have_the_status_and_format_of_ollama(self) -> None:
        for body, status in ((b"{", 400), ({}, 400), (CHAT | {"model": "x"}, 404)):
            visit = self.visit("POST", "/api/chat", body)
            self.assertEqual(visit.status, status)
            self.assertIn("error", visit.json)
        self.assertEqual(visit.json, {"error": "model 'x' not found"})

    def test_rejects_other_hosts_and_origins_and_accepts_local_ones(self) -> None:
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

    def test_accepts_any_host_without_the_guard(self) -> None:
        self.fake_ollama = self.create_ollama(guard_host=False)
        self.assertEqual(self.visit("GET", "/api/tags", Host="evil.com").status, 200)


class ScriptTests(FakeOllamaCase):
    def script(self, **fields: Any) -> None:
        self.fake_ollama.script("/api/chat", Script(**fields))

    def test_error_before_sets_the_status_the_body_and_headers(self) -> None:
        self.script(error_before=(503, '{"error":"busy"}', {"Retry-After": "7"}))
        visit = self.chat()
        self.assertEqual((visit.status, visit.json), (503, {"error": "busy"}))
        self.assertIn(b"Retry-After: 7", visit.head)

    def test_verbatim_sends_its_bytes_and_closes_only_with_break_after(self) -> None:
        response = "HTTP/1.1 299 Odd\r\nX-Name: \xe9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        for script, closed in (
            (Script(verbatim=response), False),
            (Script(verbatim=response, break_after=0), True),
        ):
            self.fake_ollama.script("/api/tags", script, times=1)
            visit = self.visit("GET", "/api/tags")
            self.assertEqual(visit.received, response.encode("latin-1"))
            self.assertEqual(visit.transport.disconnecting, closed)

    def test_error_in_stream_follows_that_many_lines(self) -> None:
        """The response ends in order."""
        self.script(error_in_stream=(2, "boom"))
        self.assertEqual(self.chat().chunks[2:], [b'{"error":"boom"}\n', b""])

    def test_error_in_stream_is_a_500_without_streaming(self) -> None:
        self.script(error_in_stream=(2, "boom"))
        visit = self.chat(stream=False)
        self.assertEqual((visit.status, visit.json), (500, {"error": "boom"}))

    def test_break_after_closes_the_connection_after_that_many_lines(self) -> None:
        self.script(break_after=2)
        visit = self.chat()
        self.assertEqual(len(visit.chunks), 2)
        self.assertNotIn(b"", visit.chunks)
        self.assertTrue(visit.transport.disconnecting)
        self.assertEqual(self.last.closed_by, "server")

    def test_the_newest_script_applies_for_its_number_of_requests(self) -> None:
        self.script(error_before=(500, "old", {}))
        self.fake_ollama.script("/api/chat", Script(error_before=(503, "new", {})), times=1)
        self.assertEqual([self.chat().status for _ in range(3)], [503, 500, 500])

    def test_a_predicate_selects_requests_by_their_record(self) -> None:
        self.fake_ollama.script(
            lambda record: b"hello" in (record.body or b""), Script(lines=("x",))
        )
        self.assertEqual(self.chat(stream=False).json["message"]["content"], "x")
        other = [{"role": "user", "content": "bye"}]
        self.assertIn("demo", self.chat(stream=False, messages=other).json["message"]["content"])

    def test_line_interval_keeps_its_pace_when_the_clock_is_late(self) -> None:
        self.script(lines=5, line_interval=0.05)
        visit = self.chat()
        self.assertEqual(len(visit.chunks), 1)
        self.clock.advance(0.06)
        self.assertEqual(len(visit.chunks), 2)
        self.clock.advance(0.04)
        self.assertEqual(len(visit.chunks), 3)

    def test_a_pause_after_zero_lines_follows_the_head(self) -> None:
        self.script(pause_after=(0, 9))
        visit = self.chat()
        self.assertEqual((visit.status, visit.chunks), (200, []))
        self.clock.advance(9)
        self.assertEqual(visit.chunks[-1], b"")

    def test_a_pause_precedes_a_break_after_the_same_line(self) -> None:
        self.script(pause_after=(2, 9), break_after=2)
        visit = self.chat()
        self.assertFalse(visit.transport.disconnecting)
        self.clock.advance(9)
        self.assertTrue(visit.transport.disconnecting)
        self.assertEqual(len(visit.chunks), 2)

    def test_line_bytes_sets_the_length_of_lines(self) -> None:
        self.script(lines=3, line_bytes=200)
        self.assertEqual([len(line) for line in self.chat().chunks[:3]], [200] * 3)

    def test_a_paused_consumer_pauses_the_response(self) -> None:
        self.script(size=2 * 10**9)
        visit = self.chat()
        received = len(visit.received)
        self.assertLess(received, 10**6)
        assert visit.transport.producer is not None
        visit.transport.producer.pauseProducing()
        self.clock.pump([0, 0, 0])
        self.assertEqual(len(visit.received), received)
        visit.transport.producer.resumeProducing()
        self.assertGreater(len(visit.received), received)
        visit.disconnect()
        self.assertEqual((self.last.closed_by, self.clock.getDelayedCalls()), ("client", []))

    def test_receive_pause_pauses_reading_the_body(self) -> None:
        self.fake_ollama.script("/api/blobs/x", Script(receive_pause=(4, 3)))
        visit = Visit(self.fake_ollama)
        visit.channel.dataReceived(b"POST /api/blobs/x HTTP/1.1\r\nContent-Length: 9\r\n\r\nabcd")
        self.assertEqual(visit.transport.producerState, "paused")
        self.clock.advance(3)
        self.assertEqual(visit.transport.producerState, "producing")

    def test_receive_pause_ends_with_the_connection(self) -> None:
        self.fake_ollama.script("/api/blobs/x", Script(receive_pause=(4, 3)))
        visit = Visit(self.fake_ollama)
        visit.channel.dataReceived(b"POST /api/blobs/x HTTP/1.1\r\nContent-Length: 9\r\n\r\nabcd")
        visit.disconnect()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class AbortTests(FakeOllamaCase):
    """When the client disconnects, work stops; the record has the time and the phase."""

    def assert_stopped(self, visit: Visit, phase: str) -> None:
        visit.disconnect()
        received = visit.received
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual((self.last.closed_by, self.last.phase), ("client", phase))
        self.assertEqual(self.last.closed_at, self.clock.seconds())
        self.clock.advance(1000)
        self.assertEqual(visit.received, received)

    def test_disconnect_during_the_upload_stops_reading(self) -> None:
        visit = Visit(self.fake_ollama)
        visit.channel.dataReceived(b"POST /api/chat HTTP/1.1\r\nContent-Length: 9\r\n\r\nabcd")
        self.assert_stopped(visit, "receiving")
        self.assertEqual((self.last.body, self.last.body_length), (b"abcd", 4))

    def test_disconnect_before_the_head_stops_the_wait(self) -> None:
        self.fake_ollama.script("/api/chat", Script(delay_before_head=5))
        self.assert_stopped(self.chat(), "waiting")

    def test_disconnect_during_loading_stops_the_loading(self) -> None:
        """The model is then not loaded."""
        self.fake_ollama.script("/api/chat", Script(load_seconds=300))
        visit = self.chat()
        self.clock.advance(10)
        self.assert_stopped(visit, "loading")
        self.assertEqual(self.visit("GET", "/api/ps").json["models"], [])

    def test_disconnect_between_two_lines_stops_the_stream(self) -> None:
        self.fake_ollama = self.create_ollama(word_interval=1)
        visit = self.chat()
        self.clock.advance(1)
        self.assert_stopped(visit, "answering")
        self.assertEqual(self.last.lines_sent, 2)

    def test_disconnect_before_an_unstreamed_response_stops_the_work(self) -> None:
        self.fake_ollama = self.create_ollama(word_interval=1)
        visit = self.chat(stream=False)
        self.clock.advance(1)
        self.assert_stopped(visit, "answering")
        self.assertEqual(self.last.status, None)


class RecordTests(FakeOllamaCase):
    def test_a_record_has_the_request_and_the_outcome(self) -> None:
        self.clock.advance(5)
        self.visit("POST", "/api/chat?x=1", CHAT, Authorization="Bearer t")
        record = self.last
        self.assertEqual((record.method, record.target), ("POST", "/api/chat?x=1"))
        self.assertEqual(record.header("authorization"), "Bearer t")
        self.assertEqual(json.loads(record.body or b""), CHAT)
        self.assertEqual((record.status, record.lines_sent), (200, 12))
        self.assertEqual((record.started, record.closed_at), (5, 5))

    def test_closed_fires_with_the_record_before_and_after_the_end(self) -> None:
        self.fake_ollama.script("/api/chat", Script(load_seconds=1))
        self.chat()
        first, second = self.last.closed, self.last.closed
        self.assertNoResult(first)
        self.clock.advance(1)
        self.assertIs(self.successResultOf(first), self.last)
        self.assertIs(self.successResultOf(second), self.last)
        self.assertIs(self.successResultOf(self.last.closed), self.last)

    def test_wait_for_fires_with_the_first_match_and_can_be_cancelled(self) -> None:
        self.fake_ollama = self.create_ollama(word_interval=1)
        waiting = self.fake_ollama.wait_for(lambda record: record.lines_sent == 2)
        cancelled = self.fake_ollama.wait_for(lambda record: record.lines_sent == 2)
        cancelled.cancel()
        self.failureResultOf(cancelled)
        self.chat()
        self.assertNoResult(waiting)
        self.clock.advance(1)
        self.assertIs(self.successResultOf(waiting), self.last)

    def test_reset_removes_scripts_and_records_and_restores_the_models(self) -> None:
        self.fake_ollama.script("/api/chat", Script(error_before=(500, "", {})))
        self.visit("DELETE", "/api/delete", {"model": "demo:echo"})
        self.fake_ollama.reset()
        self.assertEqual(
            (len(self.fake_ollama.requests), self.fake_ollama.models), (0, ["demo:echo"])
        )
        self.assertEqual(self.chat().status, 200)


class ControlTests(FakeOllamaCase):
    def test_takes_scripts_and_lists_records_over_http(self) -> None:
        """These requests are not recorded."""
        self.fake_ollama = self.create_ollama(control=True)
        script = {"error_before": [503, "busy", {}]}
        order = {"path": "/api/chat", "contains": "hello", "times": 1, "script": script}
        self.assertEqual(self.visit("POST", "/fake/scripts", order).status, 204)
        self.assertEqual([self.chat().status for _ in range(2)], [503, 200])
        records = self.visit("GET", "/fake/requests").json
        self.assertEqual([each["status"] for each in records], [503, 200])
        self.assertEqual(json.loads(records[0]["body"]), CHAT)

    def test_a_script_with_an_unknown_field_gets_400(self) -> None:
        self.fake_ollama = self.create_ollama(control=True)
        order = {"path": "/api/chat", "script": {"linez": 1}}
        self.assertEqual(self.visit("POST", "/fake/scripts", order).status, 400)

    def test_is_disabled_by_default(self) -> None:
        self.assertEqual(self.visit("GET", "/fake/requests").status, 404)
