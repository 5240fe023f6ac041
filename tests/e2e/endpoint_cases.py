"""A request to every endpoint of Ollama, and requests to unknown endpoints."""

from __future__ import annotations

import base64
import hashlib

from tests.e2e.mirrored_requests import RawRequest

MODEL = "llama3.2"
MESSAGES = [{"role": "user", "content": "hello ünïcode \N{SNOWMAN}"}]
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(64)).decode()
BLOB = bytes(range(256)) * 300
BLOB_PATH = f"/api/blobs/sha256:{hashlib.sha256(BLOB).hexdigest()}"
TOOL = {
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}}

_CHAT = {"model": MODEL, "messages": MESSAGES}
_GENERATE = {"model": MODEL, "prompt": "hello"}

#: Ollama's own API: every endpoint of its documentation.
OLLAMA = (
    RawRequest("POST", "/api/generate", _GENERATE),
    RawRequest("POST", "/api/generate", {**_GENERATE, "stream": False}),
    RawRequest(
        "POST", "/api/generate", {**_GENERATE, "images": [PNG], "think": True, "format": SCHEMA}
    ),
    RawRequest("POST", "/api/generate", {"model": MODEL}),
    RawRequest("POST", "/api/chat", _CHAT),
    RawRequest("POST", "/api/chat", {**_CHAT, "stream": False}),
    RawRequest("POST", "/api/chat", {**_CHAT, "tools": [{"type": "function", "function": TOOL}]}),
    RawRequest("POST", "/api/chat", {**_CHAT, "think": True, "format": "json", "keep_alive": 0}),
    RawRequest("POST", "/api/embed", {"model": MODEL, "input": ["one", "two"], "dimensions": 32}),
    RawRequest("GET", "/api/tags"),
    RawRequest("GET", "/api/ps"),
    RawRequest("POST", "/api/show", {"model": MODEL, "verbose": True}),
    RawRequest("POST", "/api/create", {"model": "mine", "from": MODEL, "system": "Be brief."}),
    RawRequest("POST", "/api/create", {"model": "mine", "from": MODEL, "stream": False}),
    RawRequest("POST", "/api/copy", {"source": MODEL, "destination": "other"}),
    RawRequest("POST", "/api/pull", {"model": "tiny"}),
    RawRequest("POST", "/api/pull", {"model": "tiny", "stream": False}),
    RawRequest("POST", "/api/push", {"model": MODEL}),
    RawRequest("POST", "/api/push", {"model": MODEL, "stream": False}),
    RawRequest("DELETE", "/api/delete", {"model": MODEL}),
    RawRequest("GET", "/api/version"),
)
#: Deprecated endpoints, blobs, and the APIs of OpenAI and Anthropic.
COMPATIBLE = (
    RawRequest("GET", "/"),
    RawRequest("POST", "/api/embeddings", {"model": MODEL, "prompt": "one"}),
    RawRequest("POST", BLOB_PATH, BLOB),
    RawRequest("POST", "/v1/chat/completions", _CHAT),
    RawRequest("POST", "/v1/chat/completions", {**_CHAT, "stream": True}),
    RawRequest("POST", "/v1/completions", _GENERATE),
    RawRequest("POST", "/v1/completions", {**_GENERATE, "stream": True}),
    RawRequest(
        "POST", "/v1/embeddings", {"model": MODEL, "input": "one", "encoding_format": "base64"}
    ),
    RawRequest("GET", "/v1/models"),
    RawRequest("GET", f"/v1/models/{MODEL}"),
    RawRequest("POST", "/v1/responses", {"model": MODEL, "input": "hello"}),
    RawRequest("POST", "/v1/responses", {"model": MODEL, "input": "hello", "stream": True}),
    RawRequest("POST", "/v1/messages", {**_CHAT, "max_tokens": 99}),
    RawRequest("POST", "/v1/messages", {**_CHAT, "max_tokens": 99, "stream": True}),
)
#: HEAD of every endpoint with GET, and of endpoints that refuse it.
HEADS = (
    *(RawRequest("HEAD", ask.target) for ask in (*OLLAMA, *COMPATIBLE) if ask.method == "GET"),
    RawRequest("HEAD", "/api/chat"),
    RawRequest("HEAD", "/v1/messages"),
    RawRequest("HEAD", BLOB_PATH),
    RawRequest("HEAD", "/api/future"),
)
#: Paths, queries and methods that ctllm does not know.
UNKNOWN = (
    RawRequest("GET", "/api/future"),
    RawRequest("POST", "/api/future", {"model": MODEL, "more": [1, 2]}),
    RawRequest("PUT", "/api/future", b"\x00\xff\r\n\r\n0\r\n\r\n"),
    RawRequest("PATCH", "/api/future", {"op": "replace"}),
    RawRequest("DELETE", "/api/future", {"why": "with a body"}),
    RawRequest("DELETE", "/api/future"),
    RawRequest("OPTIONS", "/api/chat"),
    RawRequest("PROPFIND", "/api/future", b"<a/>"),
    RawRequest("PUT", "/api/tags"),
    RawRequest("PATCH", "/api/chat", {"model": MODEL}),
    RawRequest("GET", "/api/chat"),
    RawRequest("DELETE", "/v1/models/llama3.2"),
    RawRequest("GET", "/api/tags?"),
    RawRequest("GET", "/api/tags?a=1&b=%20%2F%2f&&c&=d;e=+&a=2"),
    RawRequest("GET", "/api/version?redirect=http://elsewhere.example/?x=%23#"),
    RawRequest("GET", "/api/future/%2e%2e/%2F%00%ff%e2%98%83"),
    RawRequest("GET", "/a;b=c,d:e@f!$&'()*+=~_-."),
    RawRequest("GET", '/odd"<>\\^`{|}'),
    RawRequest("GET", "/v1/models/team%2Fmodel:latest"),
    RawRequest("GET", "/" + "long/" * 1500 + "?" + "q" * 8000),
    RawRequest("POST", "/api/tags"),
    RawRequest("GET", "/api/version", b"an unexpected body"),
)
#: Paths that Ollama's server, and so ctllm's access checks, normalise to /api/tags.
TAGS_PATHS = (
    "/api/%74ags",
    "/api/../api/./tags",
    "//api//tags//",
    "/api/tags/",
    "/health/../api/tags",
)
