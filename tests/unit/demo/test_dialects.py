"""The fake Ollama's wire in OpenAI's and Anthropic's dialects."""

from __future__ import annotations

import json
from typing import Any

from tests.fake_ollama import Script
from tests.unit.demo.test_server import CHAT, FakeOllamaCase, Visit

ECHO = "This is ctllm's demo, not a model. You said: hello there"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
HELLO: dict[str, Any] = {"model": "demo:echo", "input": "hello there"}


def events(visit: Visit) -> list[tuple[str, Any]]:
    """The events of SSE, one from each chunk: name and data."""
    found = []
    for chunk in visit.chunks[:-1]:
        name, _, data = chunk.decode().rpartition("data: ")
        assert data.endswith("\n\n")
        found.append((name.removeprefix("event: ").strip(), data.strip()))
    return [(n, d if d == "[DONE]" else json.loads(d)) for n, d in found]


class ChatCompletionTests(FakeOllamaCase):
    def ask(self, **more: Any) -> Visit:
        return self.visit("POST", "/v1/chat/completions", CHAT | more)

    def test_stream(self) -> None:
        """Chunks say the words, one the reason, then comes `[DONE]`."""
        visit = self.ask(stream=True)
        self.assertIn(b"Content-Type: text/event-stream", visit.head)
        *chunks, last, done = [data for _, data in events(visit)]
        said = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
        self.assertEqual(said, ECHO)
        self.assertEqual(last["choices"][0]["finish_reason"], "stop")
        self.assertEqual(done, "[DONE]")

    def test_usage_only_when_asked_for(self) -> None:
        """The chunk before `[DONE]` counts tokens for who wants it."""
        asked = self.ask(stream=True, stream_options={"include_usage": True})
        usage = events(asked)[-2][1]
        self.assertEqual((usage["choices"], usage["usage"]["total_tokens"]), ([], 13))
        self.assertNotIn(b'"usage"', self.ask(stream=True).seen)

    def test_does_not_stream_by_default(self) -> None:
        """One object, unless a stream is asked for."""
        answer = self.ask().json
        self.assertEqual(answer["object"], "chat.completion")
        self.assertEqual(answer["choices"][0]["message"]["content"], ECHO)

    def test_tool(self) -> None:
        """A call's arguments are JSON in a string, and the reason is the call."""
        tool = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
        choice = self.ask(tools=[tool]).json["choices"][0]
        function = choice["message"]["tool_calls"][0]["function"]
        self.assertEqual(json.loads(function["arguments"]), {"city": "hello there"})
        self.assertEqual(choice["finish_reason"], "tool_calls")

    def test_structured_answer(self) -> None:
        """A schema is kept to."""
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
        content = self.ask(response_format=form).json["choices"][0]["message"]["content"]
        self.assertEqual(json.loads(content), {"city": "hello there"})

    def test_errors(self) -> None:
        """Errors are objects of this dialect, in the stream too."""
        visit = self.ask(model="x")
        error = {"message": "model 'x' not found", "type": "not_found_error"}
        self.assertEqual(visit.json, {"error": error | {"param": None, "code": None}})
        self.fake_ollama.script("/v1/chat/completions", Script(error_in_stream=(1, "boom")))
        self.assertEqual(events(self.ask(stream=True))[-1][1]["error"]["message"], "boom")

    def test_bad_image(self) -> None:
        """An image that is not base64 is a 400."""
        url = {"url": "data:image/png;base64,***"}
        message = {"role": "user", "content": [{"type": "image_url", "image_url": url}]}
        self.assertEqual(self.ask(messages=[message]).status, 400)
        url["url"] = "data:image/png;base64,aGk="
        self.assertEqual(self.ask(messages=[message]).status, 200)

    def test_embeddings_in_base64(self) -> None:
        """Vectors come as numbers or as base64 of floats, and mean the same."""
        plain = self.visit("POST", "/v1/embeddings", HELLO).json["data"][0]["embedding"]
        body = HELLO | {"encoding_format": "base64"}
        encoded = self.visit("POST", "/v1/embeddings", body).json["data"][0]["embedding"]
        self.assertEqual((len(plain), len(encoded)), (64, 344))


class ResponsesTests(FakeOllamaCase):
    def ask(self, **more: Any) -> Visit:
        return self.visit("POST", "/v1/responses", HELLO | more)

    def test_life_of_a_response(self) -> None:
        """Events come in their order, numbered, named as their data says."""
        told = events(self.ask(stream=True))
        self.assertEqual([n for n, _ in told], [data["type"] for _, data in told])
        self.assertEqual([d["sequence_number"] for _, d in told], list(range(len(told))))
        frame = [n.removeprefix("response.") for n, _ in told if not n.endswith(".delta")]
        begins = ["created", "in_progress", "output_item.added", "content_part.added"]
        ends = ["output_text.done", "content_part.done", "output_item.done", "completed"]
        self.assertEqual(frame, begins + ends)
        self.assertEqual("".join(d["delta"] for n, d in told if n.endswith(".delta")), ECHO)
        self.assertEqual(told[-1][1]["response"]["output"][0]["content"][0]["text"], ECHO)

    def test_tool(self) -> None:
        """A call is an item of its own."""
        tool = {"type": "function", "name": "weather", "parameters": SCHEMA}
        item = events(self.ask(stream=True, tools=[tool]))[-1][1]["response"]["output"][0]
        self.assertEqual(item["type"], "function_call")
        self.assertEqual(json.loads(item["arguments"]), {"city": "hello there"})

    def test_limit_makes_it_incomplete(self) -> None:
        """An answer that was cut says so."""
        self.assertEqual(self.ask(max_output_tokens=2).json["status"], "incomplete")

    def test_error_in_stream(self) -> None:
        """An error in mid-stream is an event."""
        self.fake_ollama.script("/v1/responses", Script(error_in_stream=(3, "boom")))
        name, data = events(self.ask(stream=True))[-1]
        self.assertEqual((name, data["message"], data["sequence_number"]), ("error", "boom", 3))


class MessagesTests(FakeOllamaCase):
    def ask(self, **more: Any) -> Visit:
        return self.visit("POST", "/v1/messages", CHAT | {"max_tokens": 99} | more)

    def test_life_of_a_message(self) -> None:
        """A message starts, its block starts, grows and stops, the message ends."""
        told = events(self.ask(stream=True))
        names = [n for n, _ in told if n != "content_block_delta"]
        begins = ["message_start", "content_block_start"]
        self.assertEqual(names, [*begins, "content_block_stop", "message_delta", "message_stop"])
        texts = [d["delta"]["text"] for n, d in told if n == "content_block_delta"]
        self.assertEqual("".join(texts), ECHO)

    def test_thinking_is_a_block_before(self) -> None:
        """Thoughts are a block of their own, before the text."""
        blocks = self.ask(thinking={"type": "enabled", "budget_tokens": 9}).json["content"]
        self.assertEqual([block["type"] for block in blocks], ["thinking", "text"])

    def test_tool(self) -> None:
        """A call is a block, and the reason to stop."""
        answer = self.ask(tools=[{"name": "weather", "input_schema": SCHEMA}]).json
        self.assertEqual(answer["content"][0]["input"], {"city": "hello there"})
        self.assertEqual(answer["stop_reason"], "tool_use")

    def test_errors(self) -> None:
        """Errors are of this dialect; `max_tokens` must be there."""
        visit = self.ask(model="x")
        error = {"type": "not_found_error", "message": "model 'x' not found"}
        self.assertEqual((visit.status, visit.json), (404, {"type": "error", "error": error}))
        self.assertEqual(self.ask(max_tokens=0).status, 400)
        self.fake_ollama.script("/v1/messages", Script(error_in_stream=(3, "boom")))
        name, data = events(self.ask(stream=True))[-1]
        self.assertEqual((name, data["error"]["message"]), ("error", "boom"))
