"""Search for the model in the body of a request: JSON, zstd-compressed JSON, or a form."""

from __future__ import annotations

import math
from typing import Protocol
from urllib.parse import parse_qs

from ctllm.common.memory_budget import BufferBudget
from ctllm.http.message.content_coding import (
    BodyScanner,
    ZstdDecoder,
    is_zstd,
    starts_as_zstd,
)
from ctllm.http.message.form_field_scanner import FormFieldScanner, get_boundary
from ctllm.http.message.head import RequestHead, get_header
from ctllm.ollama.endpoints import accepts_form, model_fields
from ctllm.ollama.model_sniffer import JsonModelSniffer


class ModelSniffer(Protocol):
    """Searches a request's body for the name of the model while it is relayed."""

    @property
    def is_settled(self) -> bool:
        """Whether more of the body cannot change the name."""

    @property
    def is_certain(self) -> bool:
        """Whether the name is final, and not only settled because a limit was reached."""

    @property
    def name(self) -> str | None:
        """The name that was found so far, or None."""

    def feed(self, data: bytes) -> None:
        """Read more of the body."""

    def close(self) -> None:
        """Stop reading."""


def create_model_sniffer(
    head: RequestHead,
    budget: BufferBudget,
    read_whole_body: bool = False,
    fields: tuple[str, ...] = (),
    scanner: BodyScanner | None = None,
) -> ModelSniffer | None:
    """Return a sniffer for the body of a request, or None if its endpoint has no model field.

    With `read_whole_body` it has no limit after which the first name is final, and a form has a
    name only if every parser would find the same. `fields` replace the model fields of the
    endpoint. `scanner` reads the JSON, too.
    """
    fields = fields or model_fields(head)
    if not fields:
        return None
    content_type = get_header(head.headers, b"content-type") if accepts_form(head) else None
    boundary = None if content_type is None else get_boundary(content_type)
    if boundary is not None:
        return _FormModelSniffer(head, fields[0], boundary, read_whole_body)
    name = JsonModelSniffer(fields, math.inf) if read_whole_body else JsonModelSniffer(fields)
    sniffer = name if scanner is None else _ScanningModelSniffer(name, scanner)
    return _ZstdModelSniffer(sniffer, budget) if is_zstd(head) else sniffer


class _ScanningModelSniffer:
    """Searches JSON, which `scanner` reads, too."""

    def __init__(self, sniffer: JsonModelSniffer, scanner: BodyScanner) -> None:
        self._sniffer = sniffer
        self._scanner = scanner
        self.close = sniffer.close

    @property
    def is_settled(self) -> bool:
        return self._sniffer.is_settled and self._scanner.is_settled

    @property
    def is_certain(self) -> bool:
        return self._sniffer.is_certain

    @property
    def name(self) -> str | None:
        return self._sniffer.name

    def feed(self, data: bytes) -> None:
        self._sniffer.feed(data)
        self._scanner.feed(data)


class _ZstdModelSniffer:
    """Searches zstd-compressed JSON, or JSON that is falsely declared to be compressed."""

    def __init__(self, sniffer: ModelSniffer, budget: BufferBudget) -> None:
        self._json = sniffer
        self._decoder = ZstdDecoder(sniffer, budget)
        self._reader: ZstdDecoder | ModelSniffer | None = None

    @property
    def is_settled(self) -> bool:
        return self._json.is_settled or self._decoder.is_settled

    @property
    def is_certain(self) -> bool:
        return self._json.is_certain

    @property
    def name(self) -> str | None:
        return self._json.name

    def feed(self, data: bytes) -> None:
        if self._reader is None and data:
            self._reader = self._decoder if starts_as_zstd(data) else self._json
        if self._reader is not None:
            self._reader.feed(data)

    def close(self) -> None:
        self._decoder.close()


class _FormModelSniffer:
    """Searches a form. A value in the query has precedence, as in Go's `FormValue`."""

    def __init__(self, head: RequestHead, field: str, boundary: bytes, is_strict: bool) -> None:
        query = head.target.partition(b"?")[2].decode("utf-8", "replace")
        self._query_value = next(iter(parse_qs(query, keep_blank_values=True).get(field, ())), None)
        self._scanner = FormFieldScanner(field, boundary, is_strict)

    @property
    def is_settled(self) -> bool:
        return self._query_value is not None or self._scanner.is_settled

    @property
    def is_certain(self) -> bool:
        return self.name is not None

    @property
    def name(self) -> str | None:
        return self._scanner.value if self._query_value is None else self._query_value or None

    def feed(self, data: bytes) -> None:
        if not self.is_settled:
            self._scanner.feed(data)

    def close(self) -> None:
        self._scanner.is_settled = True
