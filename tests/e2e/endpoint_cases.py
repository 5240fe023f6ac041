"""Every endpoint that Ollama has, with a request that it answers, and some that it has not."""

from __future__ import annotations

import base64
import hashlib

from tests.e2e.mirrored_requests import Ask

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

#: Ollama's own dialect: all that its description lists.
OLLAMA = (
    Ask("POST", "/api/generate", _GENERATE),
    Ask("POST", "/api/generate", {**_GENERATE, "stream": False}),
    Ask("POST", "/api/generate", {**_GENERATE, "images": [PNG], "think": True, "format": SCHEMA}),
    Ask("POST", "/api/generate", {"model": MODEL}),
    Ask("POST", "/api/chat", _CHAT),
    Ask("POST", "/api/chat", {**_CHAT, "stream": False}),
    Ask("POST", "/api/chat", {**_CHAT, "tools": [{"type": "function", "function": TOOL}]}),
    Ask("POST", "/api/chat", {**_CHAT, "think": True, "format": "json", "keep_alive": 0}),
    Ask("POST", "/api/embed", {"model": MODEL, "input": ["one", "two"], "dimensions": 32}),
    Ask("GET", "/api/tags"),
    Ask("GET", "/api/ps"),
    Ask("POST", "/api/show", {"model": MODEL, "verbose": True}),
    Ask("POST", "/api/create", {"model": "mine", "from": MODEL, "system": "Be brief."}),
    Ask("POST", "/api/create", {"model": "mine", "from": MODEL, "stream": False}),
    Ask("POST", "/api/copy", {"source": MODEL, "destination": "other"}),
    Ask("POST", "/api/pull", {"model": "tiny"}),
    Ask("POST", "/api/pull", {"model": "tiny", "stream": False}),
    Ask("POST", "/api/push", {"model": MODEL}),
    Ask("POST", "/api/push", {"model": MODEL, "stream": False}),
    Ask("DELETE", "/api/delete", {"model": MODEL}),
    Ask("GET", "/api/version"),
)
#: What Ollama has besides: the older ones, blobs, and the dialects of others.
OTHERS = (
    Ask("GET", "/"),
    Ask("POST", "/api/embeddings", {"model": MODEL, "prompt": "one"}),
    Ask("POST", BLOB_PATH, BLOB),
    Ask("POST", "/v1/chat/completions", _CHAT),
    Ask("POST", "/v1/chat/completions", {**_CHAT, "stream": True}),
    Ask("POST", "/v1/completions", _GENERATE),
    Ask("POST", "/v1/completions", {**_GENERATE, "stream": True}),
    Ask("POST", "/v1/embeddings", {"model": MODEL, "input": "one", "encoding_format": "base64"}),
    Ask("GET", "/v1/models"),
    Ask("GET", f"/v1/models/{MODEL}"),
    Ask("POST", "/v1/responses", {"model": MODEL, "input": "hello"}),
    Ask("POST", "/v1/responses", {"model": MODEL, "input": "hello", "stream": True}),
    Ask("POST", "/v1/messages", {**_CHAT, "max_tokens": 99}),
    Ask("POST", "/v1/messages", {**_CHAT, "max_tokens": 99, "stream": True}),
)
#: HEAD of all that answers GET, and of what streams: its refusal.
HEADS = (
    *(Ask("HEAD", ask.target) for ask in (*OLLAMA, *OTHERS) if ask.method == "GET"),
    Ask("HEAD", "/api/chat"),
    Ask("HEAD", "/v1/messages"),
    Ask("HEAD", BLOB_PATH),
    Ask("HEAD", "/api/future"),
)
#: Paths, queries and methods of a future Ollama, or of none.
UNKNOWN = (
    Ask("GET", "/api/future"),
    Ask("POST", "/api/future", {"model": MODEL, "more": [1, 2]}),
    Ask("PUT", "/api/future", b"\x00\xff\r\n\r\n0\r\n\r\n"),
    Ask("PATCH", "/api/future", {"op": "replace"}),
    Ask("DELETE", "/api/future", {"why": "with a body"}),
    Ask("DELETE", "/api/future"),
    Ask("OPTIONS", "/api/chat"),
    Ask("PROPFIND", "/api/future", b"<a/>"),
    Ask("PUT", "/api/tags"),
    Ask("PATCH", "/api/chat", {"model": MODEL}),
    Ask("GET", "/api/chat"),
    Ask("DELETE", "/v1/models/llama3.2"),
    Ask("GET", "/api/tags?"),
    Ask("GET", "/api/tags?a=1&b=%20%2F%2f&&c&=d;e=+&a=2"),
    Ask("GET", "/api/version?redirect=http://elsewhere.example/?x=%23#"),
    Ask("GET", "/api/future/%2e%2e/%2F%00%ff%e2%98%83"),
    Ask("GET", "/a;b=c,d:e@f!$&'()*+=~_-."),
    Ask("GET", '/odd"<>\\^`{|}'),
    Ask("GET", "/v1/models/team%2Fmodel:latest"),
    Ask("GET", "/" + "long/" * 1500 + "?" + "q" * 8000),
    Ask("POST", "/api/tags"),
    Ask("GET", "/api/version", b"a body that nobody wants"),
)
#: Ways to write a path that Ollama's server, and so every check before it, reads as /api/tags.
WRITTEN = (
    "/api/%74ags",
    "/api/../api/./tags",
    "//api//tags//",
    "/api/tags/",
    "/health/../api/tags",
)
