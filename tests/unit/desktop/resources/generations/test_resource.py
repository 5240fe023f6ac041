"""`ctllm.desktop.resources.generations`: the requests for generations, and their time."""

from __future__ import annotations

from typing import Any

from msgspec import json
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.resources.generations.registry import GenerationLimits, GenerationRegistry
from ctllm.desktop.resources.generations.resource import GenerationsResource
from ctllm.errors import ClientDisconnected, CtllmError, MethodNotAllowed, NotFound, OllamaDown
from ctllm.http.message.head import RequestHead, ResponseHead
from tests.unit.fakes import FakeRequestSink, FakeResponseSink

PATH = "/ctllm/desktop/generations"
ID = "ab" * 16
SCOPES = b"use manage conversations"
HEAD = ResponseHead(200, b"", ((b"Content-Type", b"application/x-ndjson"),))


class ResourceCase(SynchronousTestCase):
    """A desktop whose Ollama does as the test says."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.ollama: list[tuple[RequestHead, Any, Any]] = []
        self.refusal: CtllmError | None = None
        self.is_ollama_stalled = False
        self.make(GenerationLimits(grace=120, retention=600))

    def make(self, limits: GenerationLimits) -> None:
        self.registry = GenerationRegistry(self.start, self.clock, lambda: 1.5e9, limits)
        self.resource = GenerationsResource(lambda: self.registry, max_body=1000)

    def start(self, head: RequestHead, sink: Any) -> Any:
        if self.refusal is not None:
            raise self.refusal
        request = FakeRequestSink()
        if self.is_ollama_stalled:
            sink.pause_request_body()
        self.ollama.append((head, sink, request))
        return request

    def request(self, method: str, target: str, body: bytes = b"", models: bytes = b"") -> Any:
        """Send a request; return its sink, which has its `request`."""
        headers: Any = ((b"Ctllm-Scope", SCOPES), (b"Cookie", b"x"))
        headers += ((b"Ctllm-Allowed-Models", models),) if models else ()
        sink: Any = FakeResponseSink()
        head = RequestHead(method.encode(), target.encode(), headers)
        sink.request = self.resource.start_request(head, sink)
        if body:
            sink.request.write(body)
        sink.request.finish()
        return sink

    def post(self, id: str = ID, models: bytes = b"", **more: object) -> Any:
        body = {"id": id, "path": "/api/chat", "request": {"model": "m", "messages": []}, **more}
        return self.request("POST", PATH, json.encode(body), models)

    def respond(self, *chunks: bytes, index: int = -1) -> Any:
        sink = self.ollama[index][1]
        sink.write_head(HEAD)
        for chunk in chunks:
            sink.write(chunk)
        return sink

    def listed(self) -> list[Any]:
        return list(json.decode(self.request("GET", PATH).data)["generations"])


class StartTests(ResourceCase):
    """POST."""

    def test_sends_the_request_to_ollama_with_what_the_client_may_do(self) -> None:
        sink = self.post(models=b"m*")
        head, _, request = self.ollama[0]
        self.assertEqual((head.method, head.target), (b"POST", b"/api/chat"))
        self.assertEqual(request.data, b'{"model":"m","messages":[]}')
        self.assertTrue(request.is_finished)
        self.assertEqual(
            dict(head.headers),
            {
                b"Content-Type": b"application/json",
                b"Content-Length": b"27",
                b"Accept": b"application/x-ndjson",
                b"Ctllm-Scope": SCOPES,
                b"Ctllm-Allowed-Models": b"m*",
            },
        )
        self.respond(b"{}\n").finish()
        self.assertEqual((sink.head, sink.data, sink.is_finished), (HEAD, b"{}\n", True))

    def test_the_same_id_again_reads_the_same_response(self) -> None:
        self.post()
        self.respond(b"one\n")
        self.assertEqual(self.post().data, b"one\n")
        self.assertEqual(len(self.ollama), 1)

    def test_refuses_what_it_does_not_know(self) -> None:
        for body in (
            b"", b"[]", b"{", b'{"id":"x"}',
            json.encode({"id": ID, "path": "/api/pull", "request": {}}),
            json.encode({"id": ID.upper(), "path": "/api/chat", "request": {}}),
            json.encode({"id": ID + "\n", "path": "/api/chat", "request": {}}),
            json.encode({"id": ID, "path": "/api/chat", "request": {}, "more": 1}),
            json.encode({"id": ID, "path": "/api/chat"}),
        ):  # fmt: skip
            self.assertEqual(self.request("POST", PATH, body).error.code, "bad_request", body)
        self.assertEqual(self.request("POST", PATH, bytes(1001)).error.code, "too_large")
        self.assertEqual((self.ollama, self.listed()), ([], []))

    def test_requests_on_their_way_have_a_budget(self) -> None:
        """Those that are received, and those that Ollama does not read."""
        self.make(GenerationLimits(max_request_bytes=300))
        receiving = self.resource.start_request(
            RequestHead(b"POST", PATH.encode(), ()), FakeResponseSink()
        )
        receiving.write(bytes(300))
        self.assertEqual(self.post().error.code, "overloaded")
        receiving.cancel(ClientDisconnected("gone"))
        self.assertEqual(self.registry.request_bytes.reserved, 0)

        self.is_ollama_stalled = True
        big = {"model": "m", "prompt": "x" * 400}
        self.assertIsNone(self.post("ab" * 16, request=big).error)
        self.assertGreater(self.registry.request_bytes.reserved, 400)
        self.assertEqual(self.post("cd" * 16).error.code, "overloaded")
        self.ollama[0][1].resume_request_body()
        self.assertEqual(self.registry.request_bytes.reserved, 0)
        self.assertTrue(self.ollama[0][2].is_finished)
        self.assertIsNone(self.post("cd" * 16).error)
        self.registry.get("cd" * 16).cancel()
        self.assertEqual(self.registry.request_bytes.reserved, 0)
        self.refusal = OllamaDown("There is no Ollama.")
        self.post("ef" * 16)
        self.assertEqual(self.registry.request_bytes.reserved, 0)

    def test_a_refusal_leaves_nothing_behind(self) -> None:
        self.refusal = OllamaDown("down")
        self.assertEqual(self.post().error.code, "ollama_down")
        self.assertEqual((self.listed(), self.clock.getDelayedCalls()), ([], []))

    def test_limits_how_many_run(self) -> None:
        self.make(GenerationLimits(max_running=2))
        for index in range(2):
            self.post(f"{index:032x}")
        self.assertEqual(self.post().error.code, "too_many_requests")
        self.respond(index=0).finish()
        self.post()
        self.assertEqual(len(self.ollama), 3)

    def test_the_client_may_leave_before_its_request_is_complete(self) -> None:
        sink: Any = FakeResponseSink()
        request = self.resource.start_request(RequestHead(b"POST", PATH.encode(), ()), sink)
        request.write(b"{")
        request.cancel(ClientDisconnected("left"))
        self.assertEqual((self.ollama, self.listed()), ([], []))

    def test_a_client_that_was_paused_before_stays_paused(self) -> None:
        sink: Any = FakeResponseSink()
        request = self.resource.start_request(RequestHead(b"POST", PATH.encode(), ()), sink)
        request.pause_response()
        request.write(json.encode({"id": ID, "path": "/api/chat", "request": {}}))
        request.finish()
        self.respond(b"one\n")
        self.assertEqual(sink.data, b"")
        request.resume_response()
        self.assertEqual(sink.data, b"one\n")


class ReadTests(ResourceCase):
    """GET and DELETE."""

    def test_reads_from_an_offset(self) -> None:
        self.post()
        self.respond(b"one\n", b"two\n")
        sink = self.request("GET", f"{PATH}/{ID}?from=4")
        self.assertEqual(sink.data, b"two\n")
        self.assertEqual(self.request("GET", f"{PATH}/{ID}").data, b"one\ntwo\n")
        self.ollama[0][1].write(b"three\n")
        self.assertEqual(sink.data, b"two\nthree\n")

    def test_an_offset_beyond_the_end_is_refused(self) -> None:
        self.post()
        self.respond(b"one\n")
        self.request("GET", f"{PATH}/{ID}?from=4")
        with self.assertRaises(CtllmError) as caught:
            self.request("GET", f"{PATH}/{ID}?from=5")
        self.assertEqual(caught.exception.status, 416)

    def test_unknown_targets_are_not_found(self) -> None:
        self.post()
        for target in (
            f"/{'cd' * 16}", f"/{ID}x", f"/{ID}?from=-1", f"/{ID}?from=x", f"/{ID}/", "/",
            f"/{ID}?from=1&x=2", f"/{ID}?to=1",
        ):  # fmt: skip
            self.assertRaises(NotFound, self.request, "GET", PATH + target)

    def test_other_methods_are_refused(self) -> None:
        self.post()
        for method, target in (("PUT", PATH), ("DELETE", PATH), ("POST", f"{PATH}/{ID}")):
            self.assertRaises(MethodNotAllowed, self.request, method, target)

    def test_lists_the_generations(self) -> None:
        self.post(conversation="cc" * 16, message="dd" * 16)
        self.respond(b"one\n")
        (listed,) = self.listed()
        self.assertEqual(
            listed,
            {
                "id": ID, "conversation": "cc" * 16, "message": "dd" * 16, "model": "m",
                "state": "running", "bytes": 4, "readers": 1, "started_at": 1.5e9,
            },
        )  # fmt: skip

    def test_delete_stops_a_generation(self) -> None:
        sink = self.post()
        self.respond(b"one\n")
        self.assertEqual(self.request("DELETE", f"{PATH}/{ID}").head.status, 204)
        self.assertIsNotNone(self.ollama[0][2].error)
        self.assertEqual(sink.error.code, "cancelled")
        self.assertEqual(self.listed()[0]["state"], "cancelled")
        self.assertEqual(self.request("DELETE", f"{PATH}/{ID}").head.status, 204)
        self.assertEqual(self.request("DELETE", f"{PATH}/{'cd' * 16}").head.status, 404)


class TimeTests(ResourceCase):
    """Grace, retention, and the budget."""

    def leave(self, sink: Any) -> None:
        sink.request.cancel(ClientDisconnected("left"))

    def test_a_generation_without_readers_is_cancelled_after_the_grace_time(self) -> None:
        self.leave(self.post())
        self.clock.advance(119)
        self.assertIsNone(self.ollama[0][2].error)
        self.clock.advance(1)
        self.assertIsNotNone(self.ollama[0][2].error)
        self.assertEqual(self.listed()[0]["state"], "cancelled")

    def test_a_reader_that_returns_in_time_keeps_it(self) -> None:
        self.leave(self.post())
        self.clock.advance(119)
        again = self.request("GET", f"{PATH}/{ID}")
        self.clock.advance(1000)
        self.assertIsNone(self.ollama[0][2].error)
        self.leave(again)
        self.clock.advance(120)
        self.assertIsNotNone(self.ollama[0][2].error)

    def test_one_of_two_readers_keeps_it(self) -> None:
        first = self.post()
        self.request("GET", f"{PATH}/{ID}")
        self.leave(first)
        self.clock.advance(1000)
        self.assertIsNone(self.ollama[0][2].error)

    def test_a_response_is_retained_for_some_time(self) -> None:
        self.leave(self.post())
        self.respond(b"one\n").finish()
        self.clock.advance(599)
        self.assertEqual(self.request("GET", f"{PATH}/{ID}").data, b"one\n")
        self.clock.advance(599)
        self.assertEqual(self.listed()[0]["state"], "complete")
        self.clock.advance(1)
        self.assertRaises(NotFound, self.request, "GET", f"{PATH}/{ID}")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_slow_reader_is_not_cut_off_at_that_time(self) -> None:
        sink = self.post()
        sink.request.pause_response()
        self.respond(b"one\n").finish()
        self.clock.advance(600)
        sink.request.resume_response()
        self.assertEqual((sink.data, sink.is_finished), (b"one\n", True))
        self.clock.advance(600)
        self.assertEqual(self.listed(), [])

    def test_the_oldest_responses_make_room(self) -> None:
        self.make(GenerationLimits(max_total_bytes=10))
        for index in range(3):
            self.post(f"{index:032x}")
            self.respond(b"1234").finish()
        self.assertEqual([each["id"][-1] for each in self.listed()], ["1", "2"])

    def test_running_responses_are_not_displaced(self) -> None:
        self.make(GenerationLimits(max_total_bytes=10))
        first, second = self.post("0" * 32), self.post("1" * 32)
        self.respond(b"123456", index=0)
        self.respond(b"123456", index=1)
        self.assertEqual((first.error, second.error.code), (None, "overloaded"))
        self.assertIsNotNone(self.ollama[1][2].error)

    def test_bounds_how_many_are_retained(self) -> None:
        self.make(GenerationLimits(max_retained=2))
        for index in range(4):
            self.post(f"{index:032x}")
            self.respond().finish()
        self.assertEqual(len(self.listed()), 2)

    def test_a_request_that_began_before_the_close_starts_nothing(self) -> None:
        """Another user may have logged in, who has the registry that follows."""
        sink: Any = FakeResponseSink()
        request = self.resource.start_request(RequestHead(b"POST", PATH.encode(), ()), sink)
        self.registry.close()
        closed = self.registry
        self.make(GenerationLimits())
        body = {"id": ID, "path": "/api/chat", "request": {"model": "m", "messages": []}}
        request.write(json.encode(body))
        request.finish()
        self.assertEqual((sink.error.code, self.ollama), ("gone", []))
        self.assertEqual((self.listed(), closed.list()), ([], []))

    def test_close_cancels_all(self) -> None:
        self.post()
        self.registry.close()
        self.assertIsNotNone(self.ollama[0][2].error)
        self.assertEqual((self.registry.running, self.clock.getDelayedCalls()), (0, []))
