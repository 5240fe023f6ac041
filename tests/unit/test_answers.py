"""Errors in the words of each dialect, as its own clients read them."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import (
    BadRequest,
    DesktopLost,
    Forbidden,
    NotFound,
    OllamaDown,
    TooLarge,
    TooManyRequests,
    Unauthenticated,
)
from ctllm.wire.answers import Dialect, dialect_of, error_body, error_in_stream

NDJSON = b"application/x-ndjson"
SSE = b"text/event-stream; charset=utf-8"
LOST = DesktopLost("it went away")


class Dialects(SynchronousTestCase):
    """Which words belong to which path."""

    def test_paths(self) -> None:
        """Ollama's are the rest: whatever Ollama has or will have."""
        for path, dialect in {
            b"/": Dialect.OLLAMA,
            b"/api/chat": Dialect.OLLAMA,
            b"/v1": Dialect.OLLAMA,
            b"/v2/x": Dialect.OLLAMA,
            b"/v1/chat/completions": Dialect.OPENAI,
            b"/v1/models": Dialect.OPENAI,
            b"/v1/responses": Dialect.RESPONSES,
            b"/v1/messages": Dialect.ANTHROPIC,
            b"/v1/messages/count_tokens": Dialect.ANTHROPIC,
            b"/ctllm/session": Dialect.CTLLM,
            b"/ws/tunnel": Dialect.CTLLM,
            b"/health": Dialect.CTLLM,
        }.items():
            self.assertIs(dialect_of(path), dialect, path)


class BeforeTheAnswer(SynchronousTestCase):
    """Whole answers that are errors."""

    def body(self, dialect: Dialect, error: Exception) -> object:
        return json.loads(error_body(dialect, error))  # type: ignore[arg-type]

    def test_ollama(self) -> None:
        """A sentence under "error"."""
        self.assertEqual(self.body(Dialect.OLLAMA, LOST), {"error": "it went away"})

    def test_openai(self) -> None:
        """Message, type, param and code, and the type follows the status."""
        for dialect in (Dialect.OPENAI, Dialect.RESPONSES):
            for error, kind in (
                (Unauthenticated("m"), "authentication_error"),
                (Forbidden("m"), "permission_error"),
                (NotFound("m"), "not_found_error"),
                (BadRequest("m"), "invalid_request_error"),
                (TooManyRequests("m"), "rate_limit_error"),
                (OllamaDown("m"), "api_error"),
            ):
                told = {"message": "m", "type": kind, "param": None, "code": error.code}
                self.assertEqual(self.body(dialect, error), {"error": told})

    def test_anthropic(self) -> None:
        """Type "error" around type and message."""
        for error, kind in (
            (Unauthenticated("m"), "authentication_error"),
            (TooLarge("m"), "request_too_large"),
            (BadRequest("m"), "invalid_request_error"),
            (TooManyRequests("m"), "rate_limit_error"),
            (OllamaDown("m"), "overloaded_error"),
            (LOST, "api_error"),
        ):
            expected = {"type": "error", "error": {"type": kind, "message": error.message}}
            self.assertEqual(self.body(Dialect.ANTHROPIC, error), expected)

    def test_ctllm(self) -> None:
        """Code and sentence."""
        expected = {"error": {"code": "desktop_lost", "message": "it went away"}}
        self.assertEqual(self.body(Dialect.CTLLM, LOST), expected)


class InTheStream(SynchronousTestCase):
    """Last words in an answer that breaks off."""

    def test_ndjson(self) -> None:
        """One more line, on a line of its own; with parameters and in any case."""
        for kind in (NDJSON, b"Application/X-NDJSON; charset=utf-8"):
            self.assertEqual(
                error_in_stream(Dialect.OLLAMA, kind, LOST), b'{"error":"it went away"}\n'
            )

    def test_events(self) -> None:
        """Each dialect's error event, with its fields."""
        for dialect, start in (
            (Dialect.OPENAI, b"data: "),
            (Dialect.OLLAMA, b"data: "),
            (Dialect.ANTHROPIC, b"event: error\ndata: "),
            (Dialect.RESPONSES, b"event: error\ndata: "),
        ):
            said = error_in_stream(dialect, SSE, LOST)
            self.assertTrue(said.startswith(start) and said.endswith(b"\n\n"), said)
            json.loads(said.removeprefix(start))
        said = error_in_stream(Dialect.RESPONSES, SSE, LOST).partition(b"data: ")[2]
        expected = {"type": "error", "code": "desktop_lost", "message": "it went away"}
        self.assertEqual(json.loads(said), {**expected, "param": None})

    def test_no_words_where_none_are_heard(self) -> None:
        """In JSON, a blob or a page they would only be rubbish."""
        for kind in (b"", b"application/json", b"application/octet-stream", b"text/html"):
            self.assertEqual(error_in_stream(Dialect.OLLAMA, kind, LOST), b"")

    def test_a_line_that_had_begun_is_ended_first(self) -> None:
        """Half an object and an error on one line would be neither."""
        for kind, last, start in (
            (NDJSON, b'{"half":', b"\n{"),
            (NDJSON, b'{"a":1}\n', b"{"),
            (SSE, b"data: {", b"\n\ndata: "),
            (SSE, b"data: {}\n\n", b"data: "),
            (SSE, b"data: {}\n", b"\n\ndata: "),
        ):
            said = error_in_stream(Dialect.OPENAI, kind, LOST, last)
            self.assertTrue(said.startswith(start), (kind, last, said))

    @given(st.text(), st.sampled_from(list(Dialect)))
    def test_whatever_the_message(self, message: str, dialect: Dialect) -> None:
        """No message breaks out of its line, its event or its JSON."""
        error = DesktopLost(message)
        line = error_in_stream(dialect, NDJSON, error)
        self.assertEqual(line.count(b"\n"), 1)
        json.loads(line)
        event = error_in_stream(dialect, SSE, error)
        self.assertEqual(event.count(b"\n\n"), 1)
        json.loads(event.rpartition(b"data: ")[2] if message.find("data: ") < 0 else b"0")
