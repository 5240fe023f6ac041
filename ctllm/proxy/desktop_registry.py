"""Where one user's desktops and clients meet: which tunnel does a request go down?"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from twisted.logger import Logger

from ctllm.common.memory_budget import MemoryBudget
from ctllm.errors import DesktopOffline, NotFound, ProtocolViolation
from ctllm.http.header_policy import (
    DESKTOP,
    EXCLUDE_DESKTOP,
    REQUEST_ID,
    quote_name,
    response_from_desktop,
)
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import Headers, RequestHead, get_header
from ctllm.ollama.api import changes_models
from ctllm.proxy.desktop_selection import ConnectedDesktop, rank_desktops, select_for_model
from ctllm.proxy.resumption import (
    ResumableRequest,
    ResumableStreams,
    ResumedRequest,
    ResumedResponseSink,
    parse_resume_seconds,
)
from ctllm.reactor.interfaces import Clock
from ctllm.relay.completion_observer import CompletionObserver
from ctllm.tunnel.frames import (
    CONNECTION_ID,
    Desktop,
    FrameKind,
    Hello,
    Reason,
    decode_json_payload,
    encode_json_frame,
    split_frames,
)
from ctllm.tunnel.initiator import Initiator, InitiatorStream
from ctllm.tunnel.peer import validate_hello
from ctllm.tunnel.websocket.protocols import ProxyWebSocket

#: Most desktops one user may have connected.
MAX_DESKTOPS = 32

_DESKTOP_ID = re.compile(r"[0-9a-f]{32}")
_REPLACED_FRAME = encode_json_frame(
    FrameKind.BYE, CONNECTION_ID, Reason("replaced", "a newer connection of this desktop took over")
)


class DesktopRegistry:
    """All desktops of the user, and where their exchanges are."""

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        window: int,
        grace: float,
        max_streams: int,
        max_resume_seconds: int,
        budget: MemoryBudget | None = None,
    ) -> None:
        self._clock = clock
        self._budget = budget
        self._tunnel_limits = (window, grace, max_streams)
        self._max_resume_seconds = max_resume_seconds
        self._resumable = ResumableStreams()
        self._desktops: dict[str, ConnectedDesktop] = {}
        self._last_active = clock.seconds()

    # -- desktops come and go

    def hello_received(self, socket: ProxyWebSocket, message: bytes) -> None:
        """Take a bridge's first message, which must begin with HELLO; ProtocolViolation if not."""
        kind, _, payload = next(split_frames(message), (0, b"", b""))
        if kind != FrameKind.HELLO:
            raise ProtocolViolation("the first frame of a tunnel must be HELLO")
        hello = decode_json_payload(payload, Hello)
        desktop = hello.desktop
        if (
            desktop is None
            or not _DESKTOP_ID.fullmatch(desktop.id)
            or not desktop.name.isprintable()
        ):
            raise ProtocolViolation("a bridge must say which desktop it is of")
        validate_hello(hello)  # before it takes the place of a connection that works
        stream_ids = [_parse_stream_id(id) for id in hello.streams]
        connected = self._find_or_add(desktop)
        self._replace_connection(connected, socket)
        connected.initiator.receive_message(message)
        for id in stream_ids:
            self._resumable.add(id, connected.initiator)

    def _find_or_add(self, desktop: Desktop) -> ConnectedDesktop:
        known = self._desktops.get(desktop.id)
        if known is None:
            if len(self._desktops) >= MAX_DESKTOPS:
                raise ProtocolViolation(f"{MAX_DESKTOPS} desktops are connected already")
            known = ConnectedDesktop(
                desktop,
                Initiator(
                    *self._tunnel_limits, filter_response=response_from_desktop, budget=self._budget
                ),
            )
            self._desktops[desktop.id] = known
        known.identity = Desktop(desktop.id, desktop.name[:100].strip())
        return known

    def _replace_connection(self, desktop: ConnectedDesktop, socket: ProxyWebSocket) -> None:
        """The newest connection of a desktop is the one: the older may be dead without knowing."""
        older = desktop.socket
        if older is not None:
            older.tunnel = None
            older.close_gracefully(_REPLACED_FRAME)
            desktop.initiator.connection_lost(self._clock.seconds())
        desktop.socket = socket
        desktop.connected_at = self._clock.seconds()
        socket.attach_tunnel(desktop.initiator, partial(self._connection_closed, desktop, socket))
        self._log.info("desktop {name} is connected", name=desktop.identity.name)

    def _connection_closed(self, desktop: ConnectedDesktop, socket: ProxyWebSocket) -> None:
        if desktop.socket is socket:
            desktop.socket = None
            self._log.info("desktop {name} left", name=desktop.identity.name)

    def remove_expired(self) -> None:
        """Once a second: give up what nobody came back for, forget desktops that left."""
        now = self._clock.seconds()
        for id, desktop in list(self._desktops.items()):
            desktop.initiator.remove_expired(now)
            if desktop.socket is None and not desktop.initiator.streams:
                del self._desktops[id]
        if self._desktops:
            self._last_active = now

    def close(self) -> None:
        """Tell every bridge that this proxy goes away."""
        for desktop in self._desktops.values():
            if desktop.socket is not None:
                desktop.socket.close_gracefully()

    # -- requests go to one of them

    def candidates(self, head: RequestHead) -> list[ConnectedDesktop]:
        """The desktops that may answer `head`, the best first; none where it names one itself."""
        if get_header(head.headers, DESKTOP.lower()) is not None:
            return []
        return [each for each in self._ranked(head) if each.rank]

    def start_request(
        self, head: RequestHead, sink: ResponseSink, model: str | None = None
    ) -> InitiatorStream:
        """Begin an exchange with the desktop that `Ctllm-Desktop` names, else with the best one.

        With a `model`, that is the best of those that have it. Raises DesktopOffline, NotFound,
        Overloaded or BadRequest.
        """
        resume_seconds = parse_resume_seconds(head, self._max_resume_seconds)
        self._last_active = self._clock.seconds()
        selector = get_header(head.headers, DESKTOP.lower())
        desktop = (
            self._select(head, model)
            if selector is None
            else self._find_by_name(_decode_header(selector))
        )
        if changes_models(head):
            sink = CompletionObserver(sink, lambda: self._models_changed(desktop))
        stream = desktop.initiator.start_request(head, sink, resume_seconds)
        if resume_seconds:
            self._resumable.add(stream.id, desktop.initiator)
        return stream

    def _models_changed(self, desktop: ConnectedDesktop) -> None:
        desktop.models_changed_at = self._clock.seconds()

    def resume_stream(self, id: bytes, offset: int, sink: ResponseSink) -> InitiatorStream:
        """Give `caller` an answer again, from `offset`; raises NotFound or DesktopOffline."""
        stream = self._resumable.find_initiator(id).resume_stream(
            id, offset, ResumedResponseSink(sink, offset)
        )
        stream.resume_seconds = stream.resume_seconds or self._max_resume_seconds
        return stream

    def request_sink(self, stream: InitiatorStream, is_resumed: bool = False) -> RequestSink:
        """What a client holds of its exchange: it may leave and come back, if it said so."""
        if not stream.resume_seconds:
            return stream
        return (ResumedRequest if is_resumed else ResumableRequest)(stream, self._clock)

    def response_headers(self, stream: InitiatorStream) -> Headers:
        """What the client is told of its exchange: its id, and who answers it."""
        id = stream.id
        names = [m.identity.name for m in self._desktops.values() if id in m.initiator.streams]
        desktop = tuple((DESKTOP, quote_name(name)) for name in names)
        return ((REQUEST_ID, id.hex().encode()), *desktop)

    def _ranked(self, head: RequestHead) -> list[ConnectedDesktop]:
        ranked = rank_desktops(self._desktops.values())
        excluded = get_header(head.headers, EXCLUDE_DESKTOP.lower())
        return (
            ranked
            if excluded is None
            else [each for each in ranked if each.identity.id != _decode_header(excluded)]
        )

    def _select(self, head: RequestHead, model: str | None) -> ConnectedDesktop:
        ranked = self._ranked(head)
        if not ranked:
            other = "" if get_header(head.headers, EXCLUDE_DESKTOP.lower()) is None else "other "
            raise DesktopOffline(f"none of your {other}desktops is connected; start ctllm on one")
        return (
            ranked[0] if model is None else select_for_model(ranked, model, self._clock.seconds())
        )

    def _find_by_name(self, selector: str) -> ConnectedDesktop:
        for desktop in self._desktops.values():
            if (
                selector in (desktop.identity.id, desktop.identity.name)
                and desktop.initiator.is_established
            ):
                return desktop
        raise NotFound(f"no desktop called {selector!r} is connected")

    # -- what is known

    @property
    def stream_count(self) -> int:
        """How many are under way."""
        return sum(len(meeting.initiator.streams) for meeting in self._desktops.values())

    @property
    def idle_seconds(self) -> float:
        """Since the last exchange or connected desktop; 0 while there is one."""
        if self._desktops:
            return 0.0
        return self._clock.seconds() - self._last_active

    def describe_desktops(self) -> list[dict[str, Any]]:
        """Each desktop for the API: who, since when (seconds ago), its Ollama, its models."""
        now = self._clock.seconds()
        return [
            each.describe(now) for each in self._desktops.values() if each.initiator.is_established
        ]


def _decode_header(value: bytes) -> str:
    """A header's value as text: programs send UTF-8, browsers Latin-1."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _parse_stream_id(text: str) -> bytes:
    try:
        id = bytes.fromhex(text)
    except ValueError:
        id = b""
    if len(id) != len(CONNECTION_ID):
        raise ProtocolViolation("an exchange id that is not 32 hexadecimal digits")
    return id
