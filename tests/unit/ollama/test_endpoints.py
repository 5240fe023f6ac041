"""Ollama's endpoints and its models' names, as a relay tells them apart."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase as TestCase

from ctllm.errors import Forbidden, MethodNotAllowed
from ctllm.http.message.head import RequestHead
from ctllm.ollama.endpoints import (
    ENDPOINTS,
    Scope,
    can_any_ollama_answer,
    canonical_model,
    canonical_request,
    changes_models,
    find_endpoint,
    model_fields,
    model_in_path,
    refusal_error,
)

#: Ollama's own description, where it lies beside the checkout.
DESCRIPTION = Path(__file__).parents[3] / "shared" / "ollama-api" / "openapi.yaml"
#: Every route that Ollama's server registers, and what is decided about it. The first twelve are
#: those of its description.
DECIDED = {
    "POST /api/generate": "use",
    "POST /api/chat": "use",
    "POST /api/embed": "use",
    "GET /api/tags": "use",
    "GET /api/ps": "use",
    "POST /api/show": "use",
    "POST /api/create": "manage",
    "POST /api/copy": "manage",
    "POST /api/pull": "manage",
    "POST /api/push": "manage",
    "DELETE /api/delete": "manage",
    "GET /api/version": "use",
    "GET /": "use",
    "HEAD /": "use",
    "HEAD /api/version": "use",
    "GET /api/status": "use",
    "HEAD /api/tags": "use",
    "POST /api/embeddings": "use",
    "POST /api/blobs/sha256:00": "manage",
    "HEAD /api/blobs/sha256:00": "manage",
    "POST /api/experimental/web_search": "use",
    "POST /api/experimental/web_fetch": "use",
    "GET /api/experimental/model-recommendations": "use",
    "GET /api/experimental/aliases": "closed",
    "POST /api/experimental/aliases": "closed",
    "DELETE /api/experimental/aliases": "closed",
    "POST /v1/chat/completions": "use",
    "POST /v1/completions": "use",
    "POST /v1/embeddings": "use",
    "GET /v1/models": "use",
    "GET /v1/models/llama3.2": "use",
    "POST /v1/responses": "use",
    "POST /v1/images/generations": "use",
    "POST /v1/images/edits": "use",
    "POST /v1/audio/transcriptions": "use",
    "POST /v1/messages": "use",
    "POST /api/me": "closed",
    "POST /api/signout": "closed",
    "DELETE /api/user/keys/AAAA": "closed",
}


def described() -> list[str]:
    """The method and the path of every operation in Ollama's description."""
    found, path = [], ""
    for line in DESCRIPTION.read_text().splitlines():
        if place := re.match(r"  (/\S*):", line):
            path = place[1]
        elif method := re.match(r"    (get|put|post|delete|options|head|patch|trace):", line):
            found.append(f"{method[1].upper()} {path}")
    return found


def asked(line: str) -> RequestHead:
    """What a request line asks."""
    method, target = line.split(" ")
    return RequestHead(method.encode(), target.encode())


class EndpointTests(TestCase):
    """The table of endpoints."""

    def test_model_fields_depend_on_method_and_path(self) -> None:
        for line, fields in (
            ("POST /api/chat", ("model",)),
            ("POST /v1/chat/completions?beta=true", ("model",)),
            ("POST /v1/messages/count_tokens", ("model",)),
            ("POST /api/show", ("model", "name")),
            ("DELETE /api/delete", ("model", "name")),
            ("POST /api/copy", ("source",)),
            ("GET /api/chat", ()),
            ("POST /api/delete", ()),
            ("POST /api/pull", ()),
            ("POST /api/chat/more", ()),
            ("POST /api/blobs/sha256:00", ()),
        ):
            self.assertEqual(model_fields(asked(line)), fields, line)

    def test_model_in_path_is_decoded(self) -> None:
        for line, model in (
            ("GET /v1/models/llama3.2", "llama3.2"),
            ("GET /v1/models/m%3A1?x=y", "m:1"),
            ("GET /v1/models/hf.co/a/b", "hf.co/a/b"),
            ("GET /v1/models/", None),
            ("GET /v1/models", None),
            ("GET /", None),
        ):
            self.assertEqual(model_in_path(asked(line)), model, line)

    def test_table_has_every_endpoint_of_ollama(self) -> None:
        if DESCRIPTION.exists():
            operations = described()
            self.assertGreater(len(operations), 10)
            self.assertEqual([each for each in operations if each not in DECIDED], [])
        for line, scope in DECIDED.items():
            found = find_endpoint(asked(line))
            assert found is not None, line
            self.assertEqual(found.scope, scope, line)
        decided = {line.partition(" ")[2].rpartition("/")[0] + "/" for line in DECIDED}
        for path in ENDPOINTS:
            there = path.decode() in decided or any(path.decode() in line for line in DECIDED)
            self.assertTrue(there or path == b"/v1/messages/count_tokens", path)

    def test_refuses_other_methods_with_405_and_paths_with_403(self) -> None:
        for line in (
            "GET /debug/pprof/heap", "GET /debug/pprof", "POST /api/future", "POST /v1/rerank",
            "POST /chat/completions", "GET /API/tags", "POST /api/chat/more", "GET /metrics",
            "DELETE /api/user/keys", "POST /api/blobs",
        ):  # fmt: skip
            self.assertIsNone(find_endpoint(asked(line)), line)
            self.assertIsInstance(refusal_error(asked(line), "no"), Forbidden, line)
            self.assertFalse(can_any_ollama_answer(asked(line)))
        for line, allow in (
            ("GET /api/chat", "POST"),
            ("PUT /api/tags", "GET"),
            ("GET /api/blobs/sha256:00", "HEAD, POST"),
        ):
            self.assertIsNone(find_endpoint(asked(line)), line)
            error = refusal_error(asked(line), "no")
            assert isinstance(error, MethodNotAllowed), line
            self.assertEqual(error.allow, allow)
        for line in ("OPTIONS /api/delete", "HEAD /api/ps", "OPTIONS /"):
            found = find_endpoint(asked(line))
            assert found is not None
            self.assertEqual(found.scope, Scope.USE, line)

    def test_normalizes_paths_as_ollama_does(self) -> None:
        for target, meant in (
            ("/api/chat", "/api/chat"),
            ("//api/chat", "/api/chat"),
            ("/api/chat/", "/api/chat"),
            ("//api//chat//?a=%2F%2f", "/api/chat?a=%2F%2f"),
            ("/api/%64elete", "/api/delete"),
            ("/api%2Fdelete", "/api/delete"),
            ("/%61%70%69/%64%65%6c%65%74%65", "/api/delete"),
            ("/api/tags/../delete", "/api/delete"),
            ("/api/tags/%2e%2e/delete", "/api/delete"),
            ("/v1/../api/./me", "/api/me"),
            ("/../../api/me", "/api/me"),
            ("/x/../ctllm/desktops", "/ctllm/desktops"),
            ("/ctllm//session", "/ctllm/session"),
            ("/%68ealth", "/health"),
            ("/v1/models/", "/v1/models"),
            ("/v1/models/team%2Fmodel:latest", "/v1/models/team%2Fmodel:latest"),
            ("/v1//models/a%3Fb", "/v1/models/a%3Fb"),
            ("/v1/models/x/../../../api/me", "/api/me"),
            ("/api/blobs/..%2fme", "/api/me"),
            ("//", "/"),
            ("/.", "/"),
        ):
            head = canonical_request(RequestHead(b"POST", target.encode(), ((b"A", b"b"),)))
            self.assertEqual(head.target.decode(), meant, target)
            self.assertEqual((head.method, head.headers), (b"POST", ((b"A", b"b"),)))
            self.assertEqual(canonical_request(head), head, "reading it again changes nothing")

    def test_keeps_unknown_paths(self) -> None:
        for target in (
            "/api/%2564elete", "/api/delete;x", "/api/delete%00", "/api\\delete", "/api/delete#x",
            "/API/delete", "/api/delete%20", "/api/future/%2e%2e/%2F%00%ff", "*", "/api/%zzchat",
            "/a//b/", "/metrics/", "/v1/models/../../debug/pprof/", "/v1/models/a/../../../x",
            "/v1/models/..%2f..%2fdebug%2fpprof", "/api/blobs/../../debug/pprof",
        ):  # fmt: skip
            for method in (b"DELETE", b"GET", b"POST"):
                head = RequestHead(method, target.encode())
                self.assertEqual(canonical_request(head), head, target)
                self.assertIsNone(find_endpoint(head), target)

    def test_only_some_endpoints_change_models(self) -> None:
        changing = ("POST /api/pull", "POST /api/create", "POST /api/copy", "DELETE /api/delete")
        for line in changing:
            self.assertTrue(changes_models(asked(line)), line)
        for line in ("POST /api/push", "GET /api/pull", "POST /api/delete", "POST /api/show"):
            self.assertFalse(changes_models(asked(line)), line)

    def test_canonical_model_unifies_equivalent_names(self) -> None:
        for name in (
            "llama3.2",
            "Llama3.2:LATEST",
            "library/llama3.2",
            "registry.ollama.ai/library/llama3.2:latest",
            "https://registry.ollama.ai/library/llama3.2",
            " llama3.2\n",
            "llama3.2 : latest",
        ):
            self.assertEqual(canonical_model(name), "llama3.2:latest", name)
        for name, other in (
            ("llama3.2:1b", "llama3.2:1b"),
            ("me/llama3.2", "me/llama3.2:latest"),
            ("host:5000/me/llama3.2", "host:5000/me/llama3.2:latest"),
            ("", ":latest"),
        ):
            self.assertEqual(canonical_model(name), other)
