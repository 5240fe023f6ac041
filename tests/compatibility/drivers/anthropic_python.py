"""Drives `anthropic`, Anthropic's own client for Python."""

from __future__ import annotations

from typing import Any

import anthropic

from tests.compatibility.drivers.common import MODEL, PARAMETERS, PNG, SCHEMA, serve, user_messages

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}


def make_client(base: str, key: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=base, api_key=key, max_retries=0)


def create_message(client: anthropic.Anthropic, content: Any, **options: Any) -> Any:
    return client.messages.create(
        model=MODEL, max_tokens=999, messages=user_messages(content), **options
    )


CALLS = {
    "POST /v1/messages whole": create_message,
    "POST /v1/messages streamed": lambda c, text: iter(create_message(c, text, stream=True)),
    "POST /v1/messages tools": lambda c, text: create_message(
        c, text, tools=[{"name": "weather", "description": "It", "input_schema": PARAMETERS}]
    ),
    "POST /v1/messages images": lambda c, text: create_message(
        c, [{"type": "text", "text": text}, IMAGE]
    ),
    "POST /v1/messages thinking": lambda c, text: iter(
        create_message(c, text, thinking={"type": "enabled", "budget_tokens": 512}, stream=True)
    ),
    "POST /v1/messages structured": lambda c, text: create_message(
        c, text, extra_body={"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
    ),
}

if __name__ == "__main__":
    serve(make_client, CALLS)
