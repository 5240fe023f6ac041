"""The APIs of OpenAI and Anthropic of the demo and the fake Ollama."""

from __future__ import annotations

import json
from typing import Any

from tests.fake_ollama import Script
from tests.unit.demo.test_server import CHAT, FakeOllamaCase, Visit

ECHO = "This is ctllm's demo, not a model. You said: hello there"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
HELLO: dict[str, Any] = {"model": "demo:echo", "input": "hello there"}


def sse_events(visit: Visit) -> list[tuple[str, Any]]:
    """Return the name and data of each server-sent event; each chunk has one."""
    found = []
    for chunk in visit.chunks[:-1]:
        name, _, data = chunk.decode().rpartition("data: ")
        assert data.endswith("\n\n")
        found.append((name.removeprefix("event: ").strip(), data.strip()))
    return [(n, d if d == "[DONE]" else json.loads(d)) for n, d in found]


class ChatCompletionTests(FakeOllamaCase):
    def post(self, **more: Any) -> Visit:
        return self.visit("POST", "/v1/chat/completions", CHAT | more)

    def test_a_stream_has_the_text_then_the_finish_reason_then_done(self) -> None:
        visit = self.post(stream=True)
        self.assertIn(b"Content-Type: text/event-stream", visit.head)
        *chunks, last, done = [data for _, data in sse_events(visit)]
        text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
        self.assertEqual(text, ECHO)
        self.assertEqual(last["choices"][0]["finish_reason"], "stop")
        self.assertEqual(done, "[DONE]")

    def test_a_stream_reports_usage_only_if_requested(self) -> None:
        """The chunk before `[DONE]` has it."""
        response = self.post(stream=True, stream_options={"include_usage": True})
        usage = sse_events(response)[-2][1]
        self.assertEqual((usage["choices"], usage["usage"]["total_tokens"]), ([], 13))
        self.assertNotIn(b'"usage"', self.post(stream=True).received)

    def test_does_not_stream_by_default(self) -> None:
        response = self.post().json
        self.assertEqual(response["object"], "chat.completion")
        self.assertEqual(response["choices"][0]["message"]["content"], ECHO)

    def test_a_tool_call_has_its_arguments_as_a_json_string(self) -> None:
        tool = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
        choice = self.post(tools=[tool]).json["choices"][0]
        function = choice["message"]["tool_calls"][0]["function"]
        self.assertEqual(json.loads(function["arguments"]), {"city": "hello there"})
        self.assertEqual(choice["finish_reason"], "tool_calls")

    def test_a_structured_response_matches_the_schema(self) -> None:
        response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
        response = self.post(response_format=response_format).json
        content = response["choices"][0]["message"]["content"]
        self.assertEqual(json.loads(content), {"city": "hello there"})

    def test_errors_have_the_format_of_openai(self) -> None:
        """Those of Ollama's own handlers, such as for a missing model, are of one type."""
        visit = self.post(model="x")
        error = {"message": "model 'x' not found", "type": "api_error"}
        self.assertEqual(visit.json, {"error": error | {"param": None, "code": None}})
        self.assertEqual(self.post(messages=[]).json["error"]["type"], "invalid_request_error")

    def test_json_is_a_line_without_a_charset(self) -> None:
        """Except in an error that the layer for this dialect finds itself."""
        for visit in (self.post(), self.post(model="x")):
            self.assertIn(b"content-type: application/json\r\n", visit.head.lower() + b"\r\n")
            self.assertEqual(visit.body[-1:], b"\n")
        refused = self.post(messages=[])
        self.assertIn(b"application/json; charset=utf-8", refused.head)
        self.assertEqual(refused.body[-1:], b"}")

    def test_an_error_during_the_stream_is_an_empty_chunk_and_an_end_without_done(self) -> None:
        self.fake_ollama.script("/v1/chat/completions", Script(error_in_stream=(1, "boom")))
        visit = self.post(stream=True)
        [choice] = sse_events(visit)[-1][1]["choices"]
        self.assertEqual((choice["delta"]["content"], choice["finish_reason"]), ("", None))
        self.assertNotIn(b"boom", visit.body)
        self.assertNotIn(b"[DONE]", visit.body)

    def test_an_image_that_is_not_base64_gets_400(self) -> None:
        url = {"url": "data:image/png;base64,***"}
        message = {"role": "user", "content": [{"type": "image_url", "image_url": url}]}
        self.assertEqual(self.post(messages=[message]).status, 400)
        url["url"] = "data:image/png;base64,aGk="
        self.assertEqual(self.post(messages=[message]).status, 200)

    def test_embeddings_are_numbers_or_base64_of_floats(self) -> None:
        plain = self.visit("POST", "/v1/embeddings", HELLO).json["data"][0]["embedding"]
        body = HELLO | {"encoding_format": "base64"}
        encoded = self.visit("POST", "/v1/embeddings", body).json["data"][0]["embedding"]
        self.assertEqual((len(plain), len(encoded)), (64, 344))


class ResponsesTests(FakeOllamaCase):
    def post(self, **more: Any) -> Visit:
        return self.visit("POST", "/v1/responses", HELLO | more)

    def test_events_are_ordered_numbered_and_named_by_their_type(self) -> None:
        events = sse_events(self.post(stream=True))
        self.assertEqual([n for n, _ in events], [data["type"] for _, data in events])
        self.assertEqual([d["sequence_number"] for _, d in events], list(range(len(events))))
        structure = [n.removeprefix("response.") for n, _ in events if not n.endswith(".delta")]
        begins = ["created", "in_progress", "output_item.added", "content_part.added"]
        ends = ["output_text.done", "content_part.done", "output_item.done", "completed"]
        self.assertEqual(structure, begins + ends)
        self.assertEqual("".join(d["delta"] for n, d in events if n.endswith(".delta")), ECHO)
        self.assertEqual(events[-1][1]["response"]["output"][0]["content"][0]["text"], ECHO)

    def test_a_tool_call_is_an_output_item(self) -> None:
        tool = {"type": "function", "name": "weather", "parameters": SCHEMA}
        item = sse_events(self.post(stream=True, tools=[tool]))[-1][1]["response"]["output"][0]
        self.assertEqual(item["type"], "function_call")
        self.assertEqual(json.loads(item["arguments"]), {"city": "hello there"})

    def test_a_response_cut_by_the_token_limit_is_incomplete(self) -> None:
        self.assertEqual(self.post(max_output_tokens=2).json["status"], "incomplete")

    def test_an_error_during_the_stream_ends_it(self) -> None:
        self.fake_ollama.script("/v1/responses", Script(error_in_stream=(3, "boom")))
        self.assertEqual(len(sse_events(self.post(stream=True))), 3)


class MessagesTests(FakeOllamaCase):
    def post(self, **more: Any) -> Visit:
        return self.visit("POST", "/v1/messages", CHAT | {"max_tokens": 99} | more)

    def test_a_streamed_message_has_one_content_block(self) -> None:
        events = sse_events(self.post(stream=True))
        names = [n for n, _ in events if n != "content_block_delta"]
        begins = ["message_start", "content_block_start"]
        self.assertEqual(names, [*begins, "content_block_stop", "message_delta", "message_stop"])
        texts = [d["delta"]["text"] for n, d in events if n == "content_block_delta"]
        self.assertEqual("".join(texts), ECHO)

    def test_thinking_is_a_block_before_the_text(self) -> None:
        blocks = self.post(thinking={"type": "enabled", "budget_tokens": 9}).json["content"]
        self.assertEqual([block["type"] for block in blocks], ["thinking", "text"])

    def test_a_tool_call_is_a_block_and_the_stop_reason(self) -> None:
        response = self.post(tools=[{"name": "weather", "input_schema": SCHEMA}]).json
        self.assertEqual(response["content"][0]["input"], {"city": "hello there"})
        self.assertEqual(response["stop_reason"], "tool_use")

    def test_errors_have_the_format_of_anthropic(self) -> None:
        """A missing `max_tokens` is one."""
        visit = self.post(model="x")
        error = {"type": "not_found_error", "message": "model 'x' not found"}
        self.assertEqual((visit.status, visit.json), (404, {"type": "error", "error": error}))
        self.assertEqual(self.post(max_tokens=0).status, 400)

    def test_an_error_during_the_stream_ends_it(self) -> None:
        self.fake_ollama.script("/v1/messages", Script(error_in_stream=(3, "boom")))
        self.assertEqual(len(sse_events(self.post(stream=True))), 3)
