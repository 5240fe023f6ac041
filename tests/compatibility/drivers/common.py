"""The protocol of the drivers, and what those in Python share.

A line of input is a JSON object: `{"base", "key", "jobs": [{"call", "text"}], "together"}`. The
outcomes are one line of output, a list in the order of the jobs: `{"call", "value"}`, or, if the
client raised, `{"call", "error", "pieces"}` with the chunks of a stream that came before.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

MODEL = "llama3.2"
EMBEDDER = "nomic-embed-text"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(64)).decode()
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather", "parameters": PARAMETERS},
}
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string"}, "sure": {"type": "boolean"}},
    "required": ["answer", "sure"],
    "additionalProperties": False,
}

Call = Callable[[Any, str], Any]


def user_messages(text: Any, **more: Any) -> Any:
    """Return the messages of a conversation with one user message."""
    return [{"role": "user", "content": text, **more}]


def serve(make: Callable[[str, str], Any], calls: Mapping[str, Any]) -> None:
    """Run jobs until the end of input; `make` creates a client for a base URL and a key."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print: keep that out of the outcomes
    for line in sys.stdin:
        order = json.loads(line)
        client = make(order["base"], order["key"])
        with ThreadPoolExecutor(32 if order["together"] else 1) as pool:
            jobs = [pool.submit(_outcome, client, calls, job) for job in order["jobs"]]
            outcomes = [job.result() for job in jobs]
        out.write(json.dumps(outcomes) + "\n")
        out.flush()


def _outcome(client: Any, calls: Mapping[str, Any], job: dict[str, str]) -> dict[str, Any]:
    chunks: list[Any] = []
    outcome: dict[str, Any] = {"call": job["call"]}
    try:
        value = calls[job["call"]](client, job["text"])
        if isinstance(value, Iterator):
            for chunk in value:
                chunks.append(to_json_types(chunk))
            value = chunks
        return {**outcome, "value": to_json_types(value)}
    except Exception as error:
        # Any exception of a client is an outcome.
        return {**outcome, "pieces": chunks, "error": _describe_error(error)}


def _describe_error(error: Exception) -> dict[str, Any]:
    response = getattr(error, "response", None)
    headers = getattr(response, "headers", None) or {}
    return {
        "class": type(error).__name__,
        "status": getattr(error, "status_code", None),
        "message": str(error),
        "retry_after": headers.get("retry-after"),
    }


def to_json_types(value: Any) -> Any:
    """Return a client's value as JSON types."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple):
        return [to_json_types(each) for each in value]
    if isinstance(value, dict):
        return {str(name): to_json_types(each) for name, each in value.items()}
    return value
