"""What passes from the tunnel to Ollama of a client that may use some models only."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ctllm.errors import BadRequest, CtllmError, Forbidden
from ctllm.http.interfaces import RequestSink
from ctllm.http.message.content_coding import load_zstd
from ctllm.http.message.head import Headers, RequestHead, ResponseHead
from ctllm.ollama.endpoints import ENDPOINTS, Scope
from tests.unit.desktop.test_tunnel_policy import TunnelPolicyCase
from tests.unit.fakes import FakeResponseSink

JSON = (b"Content-Type", b"application/json")
#: Endpoints whose body names the model that they use.
INFERENCE = [
    path.decode()
    for path, methods in ENDPOINTS.items()
    if "POST" in {method.decode() for method in methods}
    and methods[b"POST"].scope is Scope.USE
    and methods[b"POST"].model_fields
]
FORMS = ("/v1/images/edits", "/v1/audio/transcriptions")


class RestrictionCase(TunnelPolicyCase):
    """A client that may use the models `llama*` and `qwen3`."""

    allowed = b"llama*,qwen3"

    def start(self, line: str, *headers: tuple[bytes, bytes], scope: str = "use") -> RequestSink:
        method, target = line.split(" ", 1)
        own: Headers = (
            (b"Ctllm-Scope", scope.encode()), (b"Ctllm-Allowed-Models", self.allowed)
        )  # fmt: skip
        self.heard = FakeResponseSink()
        head = RequestHead(method.encode(), target.encode(), (*own, *headers))
        return self.policy.start_request(head, self.heard)

    def send(
        self,
        line: str,
        body: bytes | dict[str, Any] = b"",
        *headers: tuple[bytes, bytes],
        scope: str = "use",
        cuts: tuple[int, ...] = (),
    ) -> str:
        """Send a request; return "passed" if Ollama got all of it, else the error's message."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        before = len(self.upstream.requests)
        try:
            request = self.start(line, *(headers or (JSON,)), scope=scope)
            edges = [0, *sorted({cut for cut in cuts if cut < len(raw)}), len(raw)]
            for start, end in pairwise(edges):
                request.write(raw[start:end])
            request.finish()
        except (Forbidden, BadRequest) as error:
            self.assertEqual(len(self.upstream.requests), before, "refused, but started")
            return error.message
        if isinstance(self.heard.outcome, CtllmError):
            for each in self.upstream.requests[before:]:
                self.assertNotIn("end", each.calls)
                self.assertIsInstance(each.calls[-1], CtllmError)
            return self.heard.outcome.message
        if self.heard.head is not None and self.heard.head.status == 405:
            self.assertEqual(len(self.upstream.requests), before, "refused, but started")
            return self.heard.data.decode()
        (upstream,) = self.upstream.requests[before:]
        self.assertEqual(upstream.calls[-1], "end")
        return "passed"

    def assert_refused(self, line: str, body: Any = b"", *headers: Any, **how: Any) -> None:
        said = self.send(line, body, *headers, **how)
        self.assertIn("API key", said, (line, body))


class InferenceTests(RestrictionCase):
    """Requests whose body names the model."""

    def test_passes_allowed_models_and_names_a_refused_one(self) -> None:
        for path in INFERENCE:
            for model in ("llama3.2", "LLAMA3:8b", "qwen3", "library/qwen3:latest"):
                self.assertEqual(self.send(f"POST {path}", {"model": model}), "passed", path)
            for model in ("mistral", "qwen3:4b", "alice/llama3", "evil.example/a/llama3"):
                said = self.send(f"POST {path}", {"model": model})
                self.assertIn(f"may not use the model '{model}'", said, path)

    def test_refuses_the_same_by_every_way_to_write_the_path(self) -> None:
        for path in ("//api/chat", "/api/chat/", "/api/%63hat", "/x/../api/chat", "/api//chat"):
            self.assert_refused(f"POST {path}", {"model": "mistral"})
            self.assertEqual(self.send(f"POST {path}", {"model": "llama3"}), "passed", path)

    def test_refuses_bodies_whose_model_cannot_be_read(self) -> None:
        for body in (
            b"", b"{", b"{}", b"[]", b'"llama3"', b'{"model": ""}', b'{"model": null}', b"null",
            b'{"model": 5}', b'{"model": {"model": "llama3"}}', b'{"model": ["llama3"]}',
            b'{"model": "llama3"', b'\xef\xbb\xbf{"model": "llama3"}', b'x{"model": "llama3"}',
            b'{"Model ": "llama3"}', b'{"options": {"model": "llama3"}}', b"model=llama3",
            b'{"model": "' + b"l" * 5000 + b'"}', '{"model": "llama3"}'.encode("utf-16"),
        ):  # fmt: skip
            self.assert_refused("POST /api/chat", body)

    def test_the_last_of_several_models_counts_as_at_ollama(self) -> None:
        for body in (
            b'{"model": "llama3", "model": "mistral"}',
            b'{"model": "llama3", "MODEL": "mistral"}',
            b'{"model": "llama3", "mod\\u0065l": "mistral"}',
            b'{"model": "llama3", "model": "mi\\u0073tral"}',
            b'{"model": "llama3", "x": "' + b"y" * 200_000 + b'", "model": "mistral"}',
        ):
            self.assert_refused("POST /api/chat", body)
            self.assert_refused("POST /api/chat", body, cuts=tuple(range(0, len(body), 1000)))
        after = b'{"model": "llama3", "prompt": "x"} {"model": "mistral"}'
        self.assertEqual(self.send("POST /api/chat", after), "passed")

    @given(st.lists(st.integers(0, 60), max_size=6))
    def test_refuses_however_the_body_is_cut(self, cuts: list[int]) -> None:
        body = b'{"model": "llama3", "messages": [], "model": "mistral"}'
        self.assert_refused("POST /api/chat", body, cuts=tuple(cuts))

    def test_show_reads_the_name_too(self) -> None:
        self.assertEqual(self.send("POST /api/show", {"name": "llama3"}), "passed")
        self.assert_refused("POST /api/show", {"name": "mistral"})
        self.assert_refused("POST /api/show", {"name": "llama3", "model": "mistral"})

    def test_reads_zstd_and_refuses_what_is_too_long_to_be_read(self) -> None:
        zstd = load_zstd()
        coded = (JSON, (b"Content-Encoding", b"zstd"))
        good, bad = (zstd.compress(b'{"model": "%b"}' % name) for name in (b"llama3", b"mistral"))
        self.assertEqual(self.send("POST /v1/responses", good, *coded), "passed")
        self.assert_refused("POST /v1/responses", bad, *coded)
        self.assert_refused("POST /v1/responses", good[:-4], *coded)
        late = zstd.compress(b'{"x": "' + b"y" * (2 << 20) + b'", "model": "llama3"}')
        self.assert_refused("POST /v1/responses", late, *coded)
        twice = zstd.compress(b'{"model": "llama3",') + zstd.compress(b'"model": "mistral"}')
        self.assert_refused("POST /v1/responses", twice, *coded)
        self.assert_refused("POST /v1/responses", good)  # not declared
        self.assert_refused("POST /v1/responses", b"\x1f\x8b", JSON, (b"Content-Encoding", b"gzip"))


def form(*parts: tuple[str, str], boundary: str = "XX") -> bytes:
    """Return a form; each part is its head, without the final line breaks, and its content."""
    lines = [f"--{boundary}\r\n{head}\r\n\r\n{content}\r\n" for head, content in parts]
    return ("".join(lines) + f"--{boundary}--\r\n").encode()


def named(name: str) -> str:
    return f'Content-Disposition: form-data; name="{name}"'


FILE = (f'{named("file")}; filename="a.wav"\r\nContent-Type: audio/wav', "RIFF")
MULTIPART = (b"Content-Type", b"multipart/form-data; boundary=XX")


class FormTests(RestrictionCase):
    """Forms, which parsers read in different ways: all must find the same."""

    def test_passes_forms_as_clients_write_them(self) -> None:
        for path in FORMS:
            for body in (
                form((named("model"), "llama3")),
                form((named("model"), "llama3"), FILE),
                form(FILE, (named("prompt"), "x"), (named("model"), "llama3")),
            ):
                for cuts in ((), tuple(range(1, len(body)))):
                    passed = self.send(f"POST {path}", body, MULTIPART, cuts=cuts)
                    self.assertEqual(passed, "passed", body)

    def test_refuses_other_models_and_forms_without_one(self) -> None:
        for path in FORMS:
            for body in (
                form((named("model"), "mistral")),
                form(FILE, (named("model"), "mistral"), (named("model"), "llama3")),
                form(FILE), b"", form((named("model"), "llama3"))[:20],
            ):  # fmt: skip
                self.assert_refused(f"POST {path}", body, MULTIPART)

    def test_refuses_forms_that_another_parser_may_read_differently(self) -> None:
        good = (named("model"), "llama3")
        for body in (
            form((f'{named("model")}; filename=""', "mistral"), good),
            form((f'{named("model")}; filename="x"', "mistral"), good),
            form((f'{named("x")}; name="model"', "mistral"), good),
            form((f"{named('x')}; name*=utf-8''model", "mistral"), good),
            form((f"{named('x')}\r\n{named('model')}", "mistral"), good),
            form((f'{named("x")}\r\n ; name="model"', "mistral"), good),
            form(("Content-Disposition: form-data; name=model", "mistral"), good),
            form((f"{named('model')}\r\nContent-Transfer-Encoding: base64", "bGxhbWEz"), good),
            form(("Content-Type: text/plain", "x"), good),
            b'x\r\n--XX\r\nContent-Disposition: form-data; name="model"\r\n\r\nmistral'
            + form(good),
            form(good).replace(b"\r\n", b"\n"),
        ):
            self.assert_refused("POST /v1/audio/transcriptions", body, MULTIPART)
            self.assert_refused(
                "POST /v1/audio/transcriptions", body, MULTIPART, cuts=tuple(range(1, len(body)))
            )

    def test_refuses_a_boundary_that_does_not_begin_a_line(self) -> None:
        """It looks as if it did where the text before it came alone."""
        text = b"x" * 40
        body = text + form((named("model"), "llama3"))
        self.assert_refused(f"POST {FORMS[0]}", body, MULTIPART, cuts=(len(text),))

    def test_refuses_types_that_another_parser_may_read_differently(self) -> None:
        """As JSON the body has an allowed model; as a form, whose first lines do not count, not."""
        body = b'{"model": "llama3"}\r\n' + form((named("model"), "mistral"))
        for kind in (
            b"multipart/form-data; boundary*0=X; boundary*1=X", b"multipart/form-data",
            b"multipart/form-data; boundary*=utf-8''XX", b"Multipart/Form-Data;boundary=XX;a=b",
            b"multipart/form-data; boundary=YY; boundary=XX", b"text/plain", b"",
            b"application/x-www-form-urlencoded",
        ):  # fmt: skip
            self.assert_refused(f"POST {FORMS[0]}", body, (b"Content-Type", kind))
        self.assert_refused(f"POST {FORMS[0]}", body, JSON, MULTIPART)
        self.assert_refused(f"POST {FORMS[0]}?model=llama3", form(FILE), MULTIPART)
        self.assertEqual(self.send(f"POST {FORMS[0]}", {"model": "llama3"}), "passed")


class OtherEndpointTests(RestrictionCase):
    """Requests whose head decides, and changes of models."""

    def test_passes_what_tells_nothing_of_models(self) -> None:
        for line in ("GET /", "HEAD /", "GET /api/version"):
            self.assertEqual(self.send(line), "passed", line)

    def test_refuses_all_else_without_a_model(self) -> None:
        """Also if the desktop allows everything, and whatever its scope."""
        for settings in ({}, {"allowed_requests": ("*",)}):
            self.use(**settings)
            for line in (
                "GET /api/status", "HEAD /api/tags", "HEAD /v1/models", "OPTIONS /api/chat",
                "OPTIONS /v1/models/llama3",
                "POST /api/experimental/web_search", "POST /api/experimental/web_fetch",
                "GET /api/experimental/model-recommendations", "HEAD /api/blobs/sha256:00",
                "POST /api/blobs/sha256:00", "POST /api/me", "POST /api/future",
                "GET /debug/pprof/", "DELETE /v1/models/llama3",
            ):  # fmt: skip
                try:
                    passed = self.send(line, b"", scope="use manage") == "passed"
                except CtllmError:
                    passed = False
                self.assertFalse(passed, line)

    def test_a_model_in_the_path_is_checked(self) -> None:
        for line in ("GET /v1/models/llama3", "GET /v1/models/library/llama3%3A8b"):
            self.assertEqual(self.send(line), "passed", line)
        for name in ("mistral", "m%69stral", "llama3%2F..%2Fmistral", "llama3/../mistral"):
            self.assert_refused(f"GET /v1/models/{name}")

    def test_changes_need_every_model_to_be_allowed(self) -> None:
        manage: Any = {"scope": "use manage"}
        for line, good in (
            ("POST /api/pull", {"model": "llama3"}),
            ("POST /api/push", {"name": "llama3"}),
            ("DELETE /api/delete", {"model": "qwen3"}),
            ("POST /api/copy", {"source": "llama3", "destination": "llama-mine"}),
            ("POST /api/create", {"model": "llama-mine", "from": "llama3", "system": "x"}),
        ):
            self.assertEqual(self.send(line, good, **manage), "passed", line)
            for field in good:
                if field != "system":
                    self.assert_refused(line, {**good, field: "mistral"}, **manage)
            for field in (next(iter(good)), next(iter(good)).upper()):
                twice = json.dumps(good)[:-1] + f', "{field}": "mistral"}}'
                self.assert_refused(line, twice.encode(), **manage)
            self.assert_refused(line, {}, **manage)
            self.assert_refused(line, {next(iter(good)): ["llama3"]}, **manage)
            self.assertNotEqual(self.send(line, b"[1]", **manage), "passed")

    def test_create_takes_nothing_of_other_models(self) -> None:
        for field in ("files", "adapters"):
            body = {"model": "llama-mine", "from": "llama3", field: {"x": "sha256:00"}}
            self.assert_refused("POST /api/create", body, scope="use manage")

    def test_changes_need_the_scope_manage_as_ever(self) -> None:
        self.assertIn("scope manage", self.send("POST /api/copy", {"source": "llama3"}))

    def test_refuses_a_restriction_that_cannot_be_understood(self) -> None:
        for value in (b"", b"llama3,,x", b"[a]", b"\xff", b"a b", b",".join([b"a"] * 17)):
            self.allowed = value
            self.assert_refused("POST /api/chat", {"model": "llama3"})
            self.assert_refused("GET /api/version")
        self.allowed = b"llama3"
        doubled = (JSON, (b"ctllm-allowed-models", b"mistral"))
        self.assert_refused("POST /api/chat", {"model": "llama3"}, *doubled)

    def test_cancelling_cancels_at_ollama(self) -> None:
        request = self.start("POST /api/chat", JSON)
        error = CtllmError("gone")
        request.write(b'{"model"')
        request.cancel(error)
        self.assertIs(self.upstream.requests[-1].calls[-1], error)


class ListTests(RestrictionCase):
    """Lists of models, which the desktop filters."""

    def listed(self, line: str, body: Any, *headers: tuple[bytes, bytes], status: int = 200) -> Any:
        request = self.start(line, (b"Accept-Encoding", b"gzip"), (b"Range", b"bytes=0-5"))
        request.finish()
        sink = self.upstream.sinks[-1]
        sink.write_head(ResponseHead(status, b"", (*headers, (b"Content-Length", b"1000"))))
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        for at in range(0, len(raw), 7):
            sink.write(raw[at : at + 7])
        sink.finish()
        return self.heard

    def test_lists_only_allowed_models(self) -> None:
        for line, body, expected in (
            (
                "GET /api/tags",
                {
                    "models": [
                        {"name": "llama3:8b", "model": "llama3:8b", "size": 1},
                        {"name": "mistral:latest", "model": "mistral:latest"},
                        {"name": "llama3", "model": "mistral"},
                    ],
                    "hidden": ["mistral"],
                },
                {"models": [{"name": "llama3:8b", "model": "llama3:8b", "size": 1}]},
            ),
            ("GET /api/ps", {"models": [{"name": "mistral"}]}, {"models": []}),
            ("GET /api/ps", {"models": None}, {"models": []}),
            (
                "GET /v1/models",
                {"object": "list", "data": [{"id": "mistral"}, {"id": "qwen3"}]},
                {"object": "list", "data": [{"id": "qwen3"}]},
            ),
        ):
            heard = self.listed(line, body)
            self.assertEqual(json.loads(heard.body), expected)
            self.assertEqual(heard.outcome, "end")
            length = dict(heard.head.headers)[b"Content-Length"]
            self.assertEqual(int(length), len(heard.body))
            asked = {name.lower() for name, _ in self.upstream.heads[-1].headers}
            self.assertFalse(asked & {b"accept-encoding", b"range"})

    def test_a_list_that_cannot_be_read_is_an_error(self) -> None:
        for body in (
            b"",
            b"[]",
            b"{}",
            b'{"models": [{"id": "llama3"}]}',
            b'{"models": 5}',
            b"\xff",
        ):
            heard = self.listed("GET /api/tags", body)
            self.assertIsInstance(heard.outcome, CtllmError)
            self.assertEqual(heard.body, b"")
        self.start("GET /api/tags")
        self.upstream.sinks[-1].write_head(ResponseHead(200, b"", ((b"Content-Encoding", b"br"),)))
        self.assertIsInstance(self.heard.outcome, CtllmError)
        self.assertIsInstance(self.upstream.requests[-1].calls[-1], CtllmError)

    def test_errors_of_ollama_pass(self) -> None:
        heard = self.listed("GET /api/tags", {"error": "no"}, status=500)
        self.assertEqual((heard.head.status, json.loads(heard.body)), (500, {"error": "no"}))

    def test_a_huge_list_is_aborted(self) -> None:
        self.start("GET /api/tags")
        sink = self.upstream.sinks[-1]
        sink.write_head(ResponseHead(200))
        for _ in range(80):
            sink.write(b" " * 65536)
        self.assertIsInstance(self.heard.outcome, CtllmError)
        self.assertIsInstance(self.upstream.requests[-1].calls[-1], CtllmError)

    def test_cancelled_and_failed_lists_free_their_memory(self) -> None:
        """More of them than the budget has room for."""
        for number in range(40):
            request = self.start("GET /api/tags")
            sink = self.upstream.sinks[-1]
            sink.write_head(ResponseHead(200))
            sink.write(b" " * (1 << 20))
            if number % 2:
                request.cancel(CtllmError("gone"))
            else:
                sink.fail(CtllmError("broke off"))
        self.assertEqual(self.listed("GET /api/tags", {"models": []}).outcome, "end")
