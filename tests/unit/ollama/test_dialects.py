"""Errors in the words of each dialect, as its own clients read them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import (
    BadRequest,
    ContentTooLarge,
    DesktopLost,
    Forbidden,
    NotFound,
    OllamaDown,
    TooManyRequests,
    Unauthorized,
)
from ctllm.ollama.dialects import Dialect, dialect_of, error_body, error_in_stream

NDJSON = b"application/x-ndjson"
SSE = b"text/event-stream; charset=utf-8"
LOST = DesktopLost("it went away")


class DialectTests(SynchronousTestCase):
    """The dialect of a path."""

    def test_other_paths_are_of_ollama(self) -> None:
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


class ErrorBodyTests(SynchronousTestCase):
    """The body of a response with an error status."""

    def body(self, dialect: Dialect, error: Exception) -> object:
        return json.loads(error_body(dialect, error))  # type: ignore[arg-type]

    def test_ollama_has_a_sentence(self) -> None:
        self.assertEqual(self.body(Dialect.OLLAMA, LOST), {"error": "it went away"})

    def test_openai_has_message_type_param_and_code(self) -> None:
        for dialect in (Dialect.OPENAI, Dialect.RESPONSES):
            for error, kind in (
                (Unauthorized("m"), "authentication_error"),
                (Forbidden("m"), "permission_error"),
                (NotFound("m"), "not_found_error"),
                (BadRequest("m"), "invalid_request_error"),
                (TooManyRequests("m"), "rate_limit_error"),
                (OllamaDown("m"), "api_error"),
            ):
                told = {"message": "m", "type": kind, "param": None, "code": error.code}
                self.assertEqual(self.body(dialect, error), {"error": told})

    def test_anthropic_has_type_and_message(self) -> None:
        for error, kind in (
            (Unauthorized("m"), "authentication_error"),
            (ContentTooLarge("m"), "request_too_large"),
            (BadRequest("m"), "invalid_request_error"),
            (TooManyRequests("m"), "rate_limit_error"),
            (OllamaDown("m"), "overloaded_error"),
            (LOST, "api_error"),
        ):
            expected = {"type": "error", "error": {"type": kind, "message": error.message}}
            self.assertEqual(self.body(Dialect.ANTHROPIC, error), expected)

    def test_ctllm_has_code_and_message(self) -> None:
        expected = {"error": {"code": "desktop_lost", "message": "it went away"}}
        self.assertEqual(self.body(Dialect.CTLLM, LOST), expected)


class ErrorInStreamTests(SynchronousTestCase):
    """Errors within a streamed response."""

    def test_ndjson_gets_a_line(self) -> None:
        for kind in (NDJSON, b"Application/X-NDJSON; charset=utf-8"):
            self.assertEqual(
                error_in_stream(Dialect.OLLAMA, kind, LOST), b'{"error":"it went away"}\n'
            )

    def test_events_get_the_error_event_of_the_dialect(self) -> None:
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

    def test_other_types_get_nothing(self) -> None:
        for kind in (b"", b"application/json", b"application/octet-stream", b"text/html"):
            self.assertEqual(error_in_stream(Dialect.OLLAMA, kind, LOST), b"")

    def test_incomplete_line_is_completed_with_the_error(self) -> None:
        error = b'"error":"it went away"}\n'
        for last, said in (
            (b'{"a":1}\n', b"{" + error),
            (b'{"a":1}\n{"b', b'":null,' + error),
            (b'{"message":{"content":"He', b'"},' + error),
            (b'{"done":tr', b"ue," + error),
            (b"{", error),
            (b'{"a":1}', b"\n{" + error),
            (b"no JSON", b"\n{" + error),
        ):
            self.assertEqual(error_in_stream(Dialect.OLLAMA, NDJSON, LOST, last), said, last)

    def test_incomplete_event_is_completed_with_the_error(self) -> None:
        for dialect in (Dialect.OPENAI, Dialect.RESPONSES, Dialect.ANTHROPIC):
            for last in (
                b"",
                b"data: {}\n\n",
                b"data: {}\n",
                b'data: {"a":1}',
                b'event: x\ndata: {"type":"message_st',
                b'data: {"choices":[{"delta":{"content":"He',
                b"event: x\ndata: {}\n\nevent: y\n",
                b"event: messa",
                b"event: x\nda",
                b"event: x\ndata",
                b"data:",
                b"data: ",
                b": a comm",
            ):
                whole = last + error_in_stream(dialect, SSE, LOST, last)
                self.assertTrue(whole.endswith(b"\n\n"))
                found = [self.event(each) for each in whole[:-2].split(b"\n\n")]
                name, data = found[-1]
                self.assertIn("it went away", json.dumps(data), whole)
                if dialect is not Dialect.OPENAI:
                    self.assertEqual((name, data["type"]), ("error", "error"), whole)
                if last.endswith(b'"He'):
                    self.assertEqual(found[0][1]["choices"], [{"delta": {"content": "He"}}])
                    self.assertIn("error", found[0][1])
                self.assertEqual(error_in_stream(dialect, SSE, LOST, whole), b"")

    def event(self, raw: bytes) -> tuple[str, dict[str, Any]]:
        """As clients read it (the HTML standard, section 9.2.6)."""
        name, data = "", []
        for line in raw.split(b"\n"):
            field, _, value = line.partition(b":")
            if field == b"event":
                name = value.strip().decode()
            elif field == b"data":
                data.append(value)
        return name, json.loads(b"\n".join(data))

    def test_response_that_ends_with_an_error_gets_no_second(self) -> None:
        for last in (b'{"error":"x"}\n', b'{"a":1,"error":"x"}\n', b'{"a":1}\n{"error":"x"}\n'):
            self.assertEqual(error_in_stream(Dialect.OLLAMA, NDJSON, LOST, last), b"")
        for last in (b'{"error":null}\n', b'{"a":"error"}\n', b'["error"]\n'):
            self.assertNotEqual(error_in_stream(Dialect.OLLAMA, NDJSON, LOST, last), b"")

    @given(st.text(), st.sampled_from(list(Dialect)))
    def test_any_message_is_encoded_safely(self, message: str, dialect: Dialect) -> None:
        error = DesktopLost(message)
        line = error_in_stream(dialect, NDJSON, error)
        self.assertEqual(line.count(b"\n"), 1)
        json.loads(line)
        event = error_in_stream(dialect, SSE, error)
        self.assertEqual(event.count(b"\n\n"), 1)
        json.loads(event.rpartition(b"data: ")[2] if message.find("data: ") < 0 else b"0")
