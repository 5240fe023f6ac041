"""Ollama's endpoints and its models' names, as a relay tells them apart."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase as TestCase

from ctllm.wire.endpoints import canonical, changes_models, model_fields, model_in_path
from ctllm.wire.heads import RequestHead


def asked(line: str) -> RequestHead:
    """What a request line asks."""
    method, target = line.split(" ")
    return RequestHead(method.encode(), target.encode())


class Endpoints(TestCase):
    def test_where_a_body_names_its_model(self) -> None:
        """By the method and the path together, whatever the query."""
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

    def test_where_a_path_names_it(self) -> None:
        """Written as paths write it."""
        for line, model in (
            ("GET /v1/models/llama3.2", "llama3.2"),
            ("GET /v1/models/m%3A1?x=y", "m:1"),
            ("GET /v1/models/hf.co/a/b", "hf.co/a/b"),
            ("GET /v1/models/", None),
            ("GET /v1/models", None),
            ("GET /", None),
        ):
            self.assertEqual(model_in_path(asked(line)), model, line)

    def test_what_changes_models(self) -> None:
        """Pushing does not; reading does not."""
        changing = ("POST /api/pull", "POST /api/create", "POST /api/copy", "DELETE /api/delete")
        for line in changing:
            self.assertTrue(changes_models(asked(line)), line)
        for line in ("POST /api/push", "GET /api/pull", "POST /api/delete", "POST /api/show"):
            self.assertFalse(changes_models(asked(line)), line)

    def test_names(self) -> None:
        """All that Ollama takes for the same model is the same; nothing else is."""
        for name in (
            "llama3.2",
            "Llama3.2:LATEST",
            "library/llama3.2",
            "registry.ollama.ai/library/llama3.2:latest",
            "https://registry.ollama.ai/library/llama3.2",
        ):
            self.assertEqual(canonical(name), "llama3.2:latest", name)
        for name, other in (
            ("llama3.2:1b", "llama3.2:1b"),
            ("me/llama3.2", "me/llama3.2:latest"),
            ("host:5000/me/llama3.2", "host:5000/me/llama3.2:latest"),
            ("", ":latest"),
        ):
            self.assertEqual(canonical(name), other)
