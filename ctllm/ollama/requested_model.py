"""Which model a request is for, whatever its body is: JSON, JSON within zstd, or a form."""

from __future__ import annotations

import math
from typing import Protocol
from urllib.parse import parse_qs

from ctllm.common.memory_budget import BufferBudget
from ctllm.http.message.content_coding import ZstdDecoder, is_zstd, starts_as_zstd
from ctllm.http.message.head import RequestHead, get_header
from ctllm.http.message.multipart import FormFieldScanner, get_boundary
from ctllm.ollama.api import is_form, model_fields
from ctllm.ollama.model_sniffer import ModelName


class ModelFinder(Protocol):
    """Reads a request's body for the model's name, in passing."""

    @property
    def settled(self) -> bool:
        """Whether more of the body would change nothing."""

    @property
    def certain(self) -> bool:
        """Whether it is settled because all that counts was read, and not because too much was."""

    @property
    def name(self) -> str | None:
        """The name as far as it is known."""

    def feed(self, piece: bytes) -> None:
        """The body goes on with `piece`."""

    def close(self) -> None:
        """Nothing more is read of the body."""


def model_finder(
    head: RequestHead, room: BufferBudget, thorough: bool = False
) -> ModelFinder | None:
    """What finds the model in the body of this request, or None where that names none.

    With `thorough` it reads on for a second name, however long the body is.
    """
    fields = model_fields(head)
    if not fields:
        return None
    content_type = get_header(head.headers, b"content-type") if is_form(head) else None
    boundary = None if content_type is None else get_boundary(content_type)
    if boundary is not None:
        return _ModelInForm(head, fields[0], boundary)
    name = ModelName(fields, math.inf) if thorough else ModelName(fields)
    return _Compressed(name, room) if is_zstd(head) else name


class _Compressed:
    """The model's name in JSON that is compressed; or that only claims to be, which JSON tells."""

    def __init__(self, name: ModelName, room: BufferBudget) -> None:
        self._json = name
        self._decoder = ZstdDecoder(name, room)
        self._reader: ZstdDecoder | ModelName | None = None

    @property
    def settled(self) -> bool:
        return self._json.settled or self._decoder.settled

    @property
    def certain(self) -> bool:
        return self._json.settled

    @property
    def name(self) -> str | None:
        return self._json.name

    def feed(self, piece: bytes) -> None:
        if self._reader is None and piece:
            self._reader = self._decoder if starts_as_zstd(piece) else self._json
        if self._reader is not None:
            self._reader.feed(piece)

    def close(self) -> None:
        self._decoder.close()


class _ModelInForm:
    """The model's name in a form. The query's counts first, as it does in Go's `FormValue`."""

    def __init__(self, head: RequestHead, field: str, boundary: bytes) -> None:
        query = head.target.partition(b"?")[2].decode("utf-8", "replace")
        self._asked = next(iter(parse_qs(query, keep_blank_values=True).get(field, ())), None)
        self._field = FormFieldScanner(field, boundary)

    @property
    def settled(self) -> bool:
        return self._asked is not None or self._field.settled

    @property
    def certain(self) -> bool:
        return self.name is not None

    @property
    def name(self) -> str | None:
        return self._field.value if self._asked is None else self._asked or None

    def feed(self, piece: bytes) -> None:
        if not self.settled:
            self._field.feed(piece)

    def close(self) -> None:
        self._field.settled = True
