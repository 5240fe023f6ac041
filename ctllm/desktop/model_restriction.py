"""Restricts a request to the models that its API key may use.

The cloud and the proxy do not read bodies, so the patterns of the key come with the request
(`Ctllm-Allowed-Models`), and this desktop enforces them. What is not understood is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ctllm.auth.model_patterns import ModelPatterns, parse_patterns
from ctllm.common.json_decoder import InvalidJson, decode_object_pairs
from ctllm.common.memory_budget import BufferBudget
from ctllm.desktop.checked_request import CheckedRequest
from ctllm.errors import BadRequest, CtllmError, Forbidden
from ctllm.http.header_policy import ALLOWED_MODELS
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import RequestHead, get_header, without_headers
from ctllm.ollama.endpoints import (
    Scope,
    accepts_form,
    describe_request,
    find_endpoint,
    model_in_path,
)
from ctllm.ollama.model_lists import find_list_format
from ctllm.ollama.requested_model import ModelSniffer, create_model_sniffer
from ctllm.relay.filtered_list import FilteredList

StartRequest = Callable[[RequestHead, ResponseSink], RequestSink]

#: What says nothing of models and changes nothing.
_WITHOUT_MODELS = frozenset((b"/", b"/api/version"))
#: The endpoints that change models, whose whole body is checked.
_CHANGES = frozenset((b"/api/pull", b"/api/push", b"/api/create", b"/api/copy", b"/api/delete"))
#: The members of their bodies that name a model, and those that bring something of another one.
_NAMES = frozenset(("model", "name", "from", "source", "destination"))
_OTHER_SOURCES = frozenset(("files", "adapters", "modelfile", "path"))
#: The types of a body in which every parser finds the same model, where forms are accepted.
_CANONICAL_TYPES = re.compile(
    rb"application/json(?:; ?charset=utf-8)?"
    rb"|multipart/form-data; ?boundary=(?:[0-9A-Za-z'()+_,./:=?-]{1,70}"
    rb"|\"[0-9A-Za-z'()+_,./:=?-]{1,70}\")",
    re.IGNORECASE,
)
#: Headers with which Ollama's list would not be one that can be filtered.
_LIST_HEADERS = (b"accept-encoding", b"range", b"if-range", b"if-none-match", b"if-modified-since")


def find_restriction(head: RequestHead, buffer_budget: BufferBudget) -> ModelRestriction | None:
    """Return the restriction of the client of a request, or None without one.

    `buffer_budget` limits what is buffered of compressed bodies. Raises Forbidden for a header that
    cannot be understood.
    """
    values = [value for name, value in head.headers if name.lower() == ALLOWED_MODELS.lower()]
    if not values:
        return None
    try:
        patterns = parse_patterns(value.strip() for value in values[0].decode("ascii").split(","))
    except (ValueError, BadRequest):
        patterns = None
    if patterns is None or len(values) > 1:
        raise Forbidden("The models that this API key may use cannot be understood.")
    return ModelRestriction(patterns, buffer_budget)


@dataclass(frozen=True)
class ModelRestriction:
    """The models that match `patterns`, of which one is enough."""

    patterns: ModelPatterns
    buffer_budget: BufferBudget

    def start(
        self, head: RequestHead, sink: ResponseSink, start_request: StartRequest
    ) -> RequestSink:
        """Start a request, and check its model; raises Forbidden where its head is enough.

        A request that changes models must be checked by `check_change` before.
        """
        if find_list_format(head) is not None:
            return self._start_list(head, sink, start_request)
        self._check_head(head)
        if self.is_change(head):
            return start_request(head, sink)
        sniffer = create_model_sniffer(head, self.buffer_budget, read_whole_body=True)
        if sniffer is None:
            return start_request(head, sink)

        def check(sniffer: ModelSniffer, is_complete: bool) -> CtllmError | None:
            return self._check_body(sniffer, is_complete)

        return CheckedRequest(sniffer, check, start_request(head, sink), sink)

    def is_change(self, head: RequestHead) -> bool:
        """Return whether a request changes models, so that its whole body must be checked."""
        endpoint = find_endpoint(head)
        return endpoint is not None and endpoint.scope is Scope.MANAGE and head.path in _CHANGES

    def check_change(self, request: str, body: bytes) -> None:
        """Raise Forbidden unless every model in `body` may be used, and there is one.

        Raises BadRequest if it is not a JSON object. `request` is described in the error.
        """
        try:
            members = [(name.casefold(), value) for name, value in decode_object_pairs(body)]
        except InvalidJson:
            raise BadRequest("The body is not a JSON object.") from None
        models = [value for name, value in members if name in _NAMES and value]
        if not models:
            raise self._unreadable()
        for model in models:
            self._check_model(model)
        for name, value in members:
            if name in _OTHER_SOURCES and value:
                raise Forbidden(
                    f"{request} with `{name}` is not allowed with this API key, which may use some "
                    "models only. Use `from`."
                )

    def _check_head(self, head: RequestHead) -> None:
        endpoint = find_endpoint(head)
        model = model_in_path(head)
        if model is not None:
            self._check_model(model)
            is_known = head.method == b"GET"
        elif head.path in _WITHOUT_MODELS:
            is_known = head.method in (b"GET", b"HEAD")
        else:
            has_model = endpoint is not None and bool(endpoint.model_fields)
            is_known = has_model or self.is_change(head)
        if not is_known or endpoint is None or endpoint.scope is Scope.CLOSED:
            raise Forbidden(
                f"{describe_request(head)} is not allowed with this API key, which may use some "
                "models only."
            )
        if accepts_form(head) and not _is_canonical_form(head):
            raise self._unreadable()

    def _check_body(self, sniffer: ModelSniffer, is_complete: bool) -> CtllmError | None:
        name = sniffer.name
        if name is not None and not self.patterns.match(name):
            return self._forbidden(name)
        is_final = is_complete or sniffer.is_settled
        return self._unreadable() if is_final and not (name and sniffer.is_certain) else None

    def _check_model(self, model: object) -> None:
        if not isinstance(model, str):
            raise self._unreadable()
        if not self.patterns.match(model):
            raise self._forbidden(model)

    def _forbidden(self, model: str) -> Forbidden:
        return Forbidden(f"This API key may not use the model {model[:100]!r}.")

    def _unreadable(self) -> Forbidden:
        return Forbidden(
            "Cannot read the model of this request, and this API key may use some models only."
        )

    def _start_list(
        self, head: RequestHead, sink: ResponseSink, start_request: StartRequest
    ) -> RequestSink:
        list_format = find_list_format(head)
        assert list_format is not None
        plain = RequestHead(head.method, head.target, without_headers(head.headers, _LIST_HEADERS))
        filtered = FilteredList(list_format, self.patterns.match, sink, self.buffer_budget)
        return filtered.attach_request(start_request(plain, filtered))


def _is_canonical_form(head: RequestHead) -> bool:
    """Return whether every parser finds the same in a body that may be a form."""
    content_type = get_header(head.headers, b"content-type") or b""
    is_single = sum(name.lower() == b"content-type" for name, _ in head.headers) == 1
    return is_single and b"?" not in head.target and bool(_CANONICAL_TYPES.fullmatch(content_type))
