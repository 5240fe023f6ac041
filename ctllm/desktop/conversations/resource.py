"""The requests for conversations: docs/conversations.md is the protocol."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.common.memory_budget import BufferBudget
from ctllm.desktop.conversations.preconditions import (
    IsAbsent,
    Precondition,
    format_etag,
    parse_precondition,
    require_precondition,
)
from ctllm.desktop.conversations.service import Conversations
from ctllm.desktop.conversations.store import DEFAULT_LIMITS
from ctllm.desktop.resources.json_exchange import (
    JsonExchange,
    Response,
    error_response,
    json_response,
    refuse,
)
from ctllm.errors import (
    BadRequest,
    CtllmError,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    PreconditionFailed,
)
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import Headers, RequestHead, get_header

PATH = b"/ctllm/desktop/conversations"
#: The bytes of all documents that are on their way, in both directions.
MAX_BUFFERED = 128 << 20

_LIST_TARGET = re.compile(rb"/ctllm/desktop/conversations(?:\?since=([0-9]{1,16}))?")
_TARGET = re.compile(rb"/ctllm/desktop/conversations/([0-9a-f]{32})")


class ConversationsResource:
    """The resource `conversations`. An `Upstream`.

    `get_conversations` returns those of the present user, to which a request keeps until its end;
    None: this desktop stores no conversations.
    """

    def __init__(
        self,
        get_conversations: Callable[[], Conversations] | None,
        *,
        max_document: int = DEFAULT_LIMITS.document_bytes,
        max_buffered: int = MAX_BUFFERED,
    ) -> None:
        self._get_conversations = get_conversations
        self._max_document = max_document
        self._budget = BufferBudget(max_buffered)

    def start_request(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        """Start a request. Its refusals are responses, which every proxy passes on."""
        try:
            return self._start(head, sink)
        except CtllmError as error:
            return refuse(sink, error)

    def _start(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        if self._get_conversations is None:
            raise Forbidden(
                "This desktop stores no conversations: desktop.conversations is off in its "
                "configuration. They stay in this browser."
            )
        conversations = self._get_conversations()
        if head.path == PATH:
            return self._start_list(conversations, head, sink)
        found = _TARGET.fullmatch(head.target)
        if found is None:
            raise NotFound(
                "A conversation is at /ctllm/desktop/conversations/<id>, with an id of 32 "
                "hexadecimal digits."
            )
        return self._start_one(_Conversation(conversations, found[1].decode()), head, sink)

    def _start_list(
        self, conversations: Conversations, head: RequestHead, sink: ResponseSink
    ) -> RequestSink:
        if head.method != b"GET":
            raise MethodNotAllowed("Conversations are listed here.", allow="GET")
        found = _LIST_TARGET.fullmatch(head.target)
        if found is None:
            raise BadRequest("The only parameter is since=<revision>.")
        since = int(found[1] or 0)
        return JsonExchange(sink, 0, lambda _: _list(conversations, since), self._budget)

    def _start_one(
        self, conversation: _Conversation, head: RequestHead, sink: ResponseSink
    ) -> RequestSink:
        if head.method == b"GET":
            return JsonExchange(sink, 0, lambda _: conversation.read(), self._budget)
        condition = parse_precondition(
            get_header(head.headers, b"if-match"), get_header(head.headers, b"if-none-match")
        )
        if head.method == b"DELETE":
            return JsonExchange(sink, 0, lambda _: conversation.delete(condition), self._budget)
        if head.method != b"PUT":
            raise MethodNotAllowed(
                "A conversation can be read, written and deleted.", allow="GET, PUT, DELETE"
            )
        required = require_precondition(condition)
        return JsonExchange(
            sink,
            self._max_document,
            lambda body: conversation.write(body, required),
            self._budget,
        )


async def _list(conversations: Conversations, since: int) -> Response:
    revision, changes, damaged = await conversations.changes_since(since)
    return json_response(200, {"revision": revision, "conversations": changes, "damaged": damaged})


class _Conversation:
    """The requests for the conversation `id`."""

    def __init__(self, conversations: Conversations, id: str) -> None:
        self._conversations = conversations
        self._id = id

    async def read(self) -> Response:
        document = await self._conversations.read(self._id)
        return json_response(200, document.content, _etag(document.revision))

    async def write(self, body: bytes, precondition: Precondition) -> Response:
        _check_document(body)
        try:
            revision = await self._conversations.write(self._id, body, precondition)
        except PreconditionFailed as error:
            return _precondition_failed(error)
        status = 201 if isinstance(precondition, IsAbsent) else 200
        return json_response(status, {"revision": revision}, _etag(revision))

    async def delete(self, precondition: Precondition | None) -> Response:
        if isinstance(precondition, IsAbsent):
            raise BadRequest('A conversation is deleted with If-Match: "REVISION", or without it.')
        try:
            await self._conversations.delete(self._id, precondition)
        except PreconditionFailed as error:
            return _precondition_failed(error)
        return Response(204)


def _precondition_failed(error: PreconditionFailed) -> Response:
    return error_response(error, () if error.revision is None else _etag(error.revision))


def _etag(revision: int) -> Headers:
    return ((b"ETag", format_etag(revision)),)


def _check_document(body: bytes) -> None:
    """Raise BadRequest unless `body` is a JSON object; nothing in it is looked at."""
    is_object = body.lstrip(b" \t\r\n").startswith(b"{")
    try:
        decode_json(body, msgspec.Raw, max_size=len(body))
    except InvalidJson:
        is_object = False
    if not is_object:
        raise BadRequest("A conversation is stored as a JSON object.")
