"""Decodes the JSON of requests, and finds the texts and images in messages."""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import TypeVar

import msgspec

from ctllm.common.json_decoder import InvalidJson, JsonObject, decode_json
from ctllm.errors import BadRequest
from ctllm.http.message.content_coding import load_zstd

T = TypeVar("T")
#: The limits of Ollama for a compressed body: its decompressed size in bytes, and its window.
_MAX_DECOMPRESSED = 20 * 1024 * 1024
_WINDOW_LOG = 23
#: How deeply the contents of messages may be nested.
_MAX_DEPTH = 16


class OfferedFunction(msgspec.Struct):
    """A function that the model may call, with the JSON Schema of its arguments."""

    name: str = ""
    parameters: JsonObject | None = None


class OfferedTool(msgspec.Struct):
    """A tool in a chat request of Ollama or OpenAI."""

    function: OfferedFunction


def decode_request(body: bytes, kind: type[T]) -> T:
    """Decode a body as a request of type `kind`. Raises BadRequest, which says what is wrong."""
    if not body.strip():
        raise BadRequest("missing request body")
    try:
        return decode_json(body, kind, max_size=len(body))  # limited when it was received
    except InvalidJson as error:
        raise BadRequest(str(error)) from None


def decompress_zstd(body: bytes) -> bytes:
    """Decompress a body that is compressed with zstd. Raises BadRequest."""
    zstd = load_zstd()
    largest = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
    try:
        content: bytes = zstd.ZstdDecompressor(options=largest).decompress(
            body, _MAX_DECOMPRESSED + 1
        )
    except zstd.ZstdError:
        raise BadRequest("failed to decompress zstd body") from None
    if len(content) > _MAX_DECOMPRESSED:
        raise BadRequest("http: request body too large")
    return content


def text_of(content: object, depth: int = 0) -> str:
    """Return the text of a message's content: a string, or a list of parts.

    A tool result is a part with such a content of its own. Raises BadRequest.
    """
    if depth > _MAX_DEPTH:
        raise BadRequest("message content is nested too deeply")
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise BadRequest("invalid message content type")
    inner = (part.get("text", part.get("content")) for part in content)
    return "\n".join(text_of(each, depth + 1) for each in inner if each is not None)


def count_images(content: object) -> int:
    """Count and check the images among the parts of a message. Raises BadRequest."""
    parts = content if isinstance(content, list) else []
    data = [found for part in parts if (found := _image_data(part)) is not None]
    for each in data:
        _check_base64(each)
    return len(data)


def _image_data(part: JsonObject) -> str | None:
    """Return the base64 of an image in any dialect, or None for another part."""
    match part:
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            return _data_of_url(url)
        case {"type": "image_url" | "input_image", "image_url": str(url)}:
            return _data_of_url(url)
        case {"type": "image", "source": {"type": "base64", "data": str(data)}}:
            return data
        case {"type": "image_url" | "input_image" | "image"}:
            raise BadRequest("invalid image input")
    return None


def _data_of_url(url: str) -> str:
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise BadRequest("invalid image input")
    return data


def _check_base64(data: str) -> None:
    try:
        b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("invalid image input") from None
