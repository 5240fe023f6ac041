"""The registry of a user's connected desktops, and the selection of one for each request."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial

from twisted.logger import Logger

from ctllm.common.memory_budget import MemoryBudget
from ctllm.errors import (
    CtllmError,
    DesktopOffline,
    Forbidden,
    NotFound,
    ProtocolViolation,
    Unauthorized,
)
from ctllm.http.header_policy import (
    ALLOWED_MODELS,
    DESKTOP,
    EXCLUDE_DESKTOP,
    REQUEST_ID,
    quote_name,
    response_from_desktop,
)
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import Headers, RequestHead, get_header
from ctllm.ollama.endpoints import changes_models
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
from ctllm.tunnel.response_traffic import ResponseTraffic
from ctllm.tunnel.websocket.protocols import ProxyWebSocket, access_ended_error

#: Maximum number of connected desktops.
MAX_DESKTOPS = 32

#: The prefix of the paths that a desktop itself responds to, instead of its Ollama.
RESOURCES = b"/ctllm/desktop/"

AddTunnel = Callable[[bytes, Callable[[CtllmError], None]], Callable[[], None]]

_DESKTOP_ID = re.compile(r"[0-9a-f]{32}")
_REPLACED_FRAME = encode_json_frame(
    FrameKind.BYE,
    CONNECTION_ID,
    Reason("replaced", "A newer connection of this desktop replaces this one."),
)
_UNAUTHORIZED_FRAME = encode_json_frame(
    FrameKind.BYE,
    CONNECTION_ID,
    Reason(
        Unauthorized.code, "The authorization of this connection has expired and was not renewed."
    ),
)


class DesktopRegistry:
    """All connected desktops of the user, and their streams.

    `window`, `grace` and `max_streams` apply to each desktop's tunnel. `max_resume_seconds` limits
    the time for which a client may disconnect and resume. `budget` counts bytes in memory.
    `verify_authorization` returns until when a session assertion authorizes a tunnel, in the
    seconds of `clock`; raises CtllmError for an invalid one. `add_tunnel` registers a function that
    ends what has a sealed grant, and returns one that unregisters it.
    """

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        window: int,
        grace: float,
        max_streams: int,
        max_resume_seconds: int,
        budget: MemoryBudget | None = None,
        verify_authorization: Callable[[bytes], float] = lambda assertion: math.inf,
        add_tunnel: AddTunnel = lambda grant, end: lambda: None,
    ) -> None:
        self._clock = clock
        self._verify_authorization = verify_authorization
        self._add_tunnel = add_tunnel
        self._budget = budget
        self._tunnel_limits = (window, grace, max_streams)
        self._max_resume_seconds = max_resume_seconds
        self._resumable = ResumableStreams()
        self._desktops: dict[str, ConnectedDesktop] = {}
        self._last_active = clock.seconds()
        #: The responses of all desktops.
        self.traffic = ResponseTraffic()

    # -- connections of desktops

    def hello_received(self, socket: ProxyWebSocket, message: bytes) -> None:
        """Register the desktop that sent `message` first; raises ProtocolViolation.

        A newer connection of a desktop replaces the older one, which may be dead.
        """
        kind, _, payload = next(split_frames(message), (0, b"", b""))
        if kind != FrameKind.HELLO:
            raise ProtocolViolation("The first frame of a tunnel must be HELLO.")
        hello = decode_json_payload(payload, Hello)
        desktop = hello.desktop
        if (
            desktop is None
            or not _DESKTOP_ID.fullmatch(desktop.id)
            or not desktop.name.isprintable()
        ):
            raise ProtocolViolation("HELLO must have the id and the name of the desktop.")
        validate_hello(hello)  # before it replaces a connection that works
        stream_ids = [_parse_stream_id(id) for id in hello.streams]
        connected = self._find_or_add(desktop, socket.max_desktops)
        self._replace_connection(connected, socket)
        connected.initiator.receive_message(message)
        for id in stream_ids:
            self._resumable.add(id, connected.initiator)

    def _find_or_add(self, desktop: Desktop, max_desktops: int) -> ConnectedDesktop:
        known = self._desktops.get(desktop.id)
        self._check_tier(known, max_desktops)
        if known is None:
            if len(self._desktops) >= MAX_DESKTOPS:
                raise ProtocolViolation(f"{MAX_DESKTOPS} desktops are already connected.")
            known = ConnectedDesktop(
                desktop,
                Initiator(
                    *self._tunnel_limits,
                    filter_response=response_from_desktop,
                    budget=self._budget,
                    on_authorization=partial(self._renew_authorization, desktop.id),
                    traffic=self.traffic,
                ),
            )
            self._desktops[desktop.id] = known
        known.identity = Desktop(desktop.id, desktop.name[:100].strip())
        return known

    def _check_tier(self, known: ConnectedDesktop | None, max_desktops: int) -> None:
        """Raise ProtocolViolation if the user may not connect one more desktop."""
        if not max_desktops or (known is not None and known.socket is not None):
            return
        if sum(each.socket is not None for each in self._desktops.values()) >= max_desktops:
            raise ProtocolViolation(f"Your limit of desktops ({max_desktops}) is reached.")

    def _replace_connection(self, desktop: ConnectedDesktop, socket: ProxyWebSocket) -> None:
        older = desktop.socket
        if older is not None:
            older.tunnel = None
            older.close_gracefully(_REPLACED_FRAME)
            desktop.initiator.connection_lost(self._clock.seconds())
        desktop.release_grant()
        desktop.socket = socket
        desktop.connected_at = self._clock.seconds()
        desktop.authorized_until = socket.authorized_until
        socket.attach_tunnel(desktop.initiator, partial(self._connection_closed, desktop, socket))
        self._log.info("Desktop {name} connected", name=desktop.identity.name)

    def _connection_closed(self, desktop: ConnectedDesktop, socket: ProxyWebSocket) -> None:
        if desktop.socket is socket:
            desktop.socket = None
            self._keep_grant(desktop, socket.grant)
            self._log.info("Desktop {name} disconnected", name=desktop.identity.name)

    def _keep_grant(self, desktop: ConnectedDesktop, grant: bytes) -> None:
        """End the streams of a disconnected desktop if the grant of its last connection ends.

        Its clients need not wait for a desktop that may not return.
        """
        if not grant or not desktop.initiator.streams:
            return
        end_streams = partial(_end_streams, desktop)
        try:
            desktop.release_grant = self._add_tunnel(grant, end_streams)
        except CtllmError as error:  # it ended while the connection was closing
            end_streams(error)

    def _renew_authorization(self, desktop_id: str, assertion: bytes) -> None:
        """Extend the authorization of a desktop's tunnel; an invalid assertion changes nothing."""
        desktop = self._desktops[desktop_id]
        try:
            until = self._verify_authorization(assertion)
        except CtllmError as error:
            self._log.warn(
                "Desktop {name} sent an invalid authorization: {error}",
                name=desktop.identity.name,
                error=error.message,
            )
        else:
            desktop.authorized_until = max(desktop.authorized_until, until)

    def _close_unauthorized(self, desktop: ConnectedDesktop) -> None:
        if desktop.socket is not None and not desktop.socket.is_closing:
            self._log.info(
                "Desktop {name} did not renew its authorization", name=desktop.identity.name
            )
            desktop.socket.close_gracefully(_UNAUTHORIZED_FRAME)

    def remove_expired(self) -> None:
        """Fail expired streams, close unauthorized tunnels, remove disconnected desktops.

        Called once a second.
        """
        now = self._clock.seconds()
        for id, desktop in list(self._desktops.items()):
            if desktop.authorized_until <= now:
                self._close_unauthorized(desktop)
            desktop.initiator.remove_expired(now)
            if desktop.socket is None and not desktop.initiator.streams:
                desktop.release_grant()
                del self._desktops[id]
        if self._desktops:
            self._last_active = now

    def close(self) -> None:
        """Close all connections of desktops in order."""
        for desktop in self._desktops.values():
            if desktop.socket is not None:
                desktop.socket.close_gracefully()

    # -- requests

    def candidates(self, head: RequestHead) -> list[ConnectedDesktop]:
        """Return the desktops with an Ollama or demo for `head`, best first; [] if it names one."""
        if get_header(head.headers, DESKTOP.lower()) is not None:
            return []
        return [each for each in self._ranked(head) if each.rank]

    def start_request(
        self,
        head: RequestHead,
        sink: ResponseSink,
        model: str | None = None,
        id: bytes | None = None,
    ) -> InitiatorStream:
        """Open a stream to the desktop named by Ctllm-Desktop, or else to the best one.

        With a `model`, that is the best desktop which has it. `id` is that of the stream. Raises
        DesktopOffline, NotFound, ServiceUnavailable or BadRequest.
        """
        resume_seconds = parse_resume_seconds(head, self._max_resume_seconds)
        self._last_active = self._clock.seconds()
        selector = get_header(head.headers, DESKTOP.lower())
        desktop = (
            self._select(head, model)
            if selector is None
            else self._find_by_name(_decode_header(selector))
        )
        if _is_restricted(head) and not desktop.enforces_allowed_models:
            raise _unenforced_error()
        if head.path.startswith(RESOURCES) and not desktop.has_resources:
            raise NotFound(
                f"The version of ctllm on {desktop.identity.name} keeps no conversations. Update "
                "it there."
            )
        if changes_models(head):
            sink = CompletionObserver(sink, lambda: self._models_changed(desktop))
        stream = desktop.initiator.start_request(head, sink, resume_seconds, self._unused(id))
        if resume_seconds:
            self._resumable.add(stream.id, desktop.initiator)
        return stream

    def _unused(self, id: bytes | None) -> bytes | None:
        """Return `id`, or None if another desktop has its stream."""
        return None if id is None or self._resumable.has(id) else id

    def _models_changed(self, desktop: ConnectedDesktop) -> None:
        desktop.models_changed_at = self._clock.seconds()

    def resume_stream(self, id: bytes, offset: int, sink: ResponseSink) -> InitiatorStream:
        """Send a stored response to `sink` from `offset`; raises NotFound or DesktopOffline."""
        stream = self._resumable.find_initiator(id).resume_stream(
            id, offset, ResumedResponseSink(sink, offset)
        )
        stream.resume_seconds = stream.resume_seconds or self._max_resume_seconds
        return stream

    def request_sink(self, stream: InitiatorStream, is_resumed: bool = False) -> RequestSink:
        """Return the sink for the request of `stream`, resumable if its client asked for that."""
        if not stream.resume_seconds:
            return stream
        return (ResumedRequest if is_resumed else ResumableRequest)(stream, self._clock)

    def response_headers(self, stream: InitiatorStream) -> Headers:
        """Return the headers that state the request's id and the desktop that responds."""
        id = stream.id
        names = [
            each.identity.name for each in self._desktops.values() if id in each.initiator.streams
        ]
        desktop = tuple((DESKTOP, quote_name(name)) for name in names)
        return ((REQUEST_ID, id.hex().encode()), *desktop)

    def _ranked(self, head: RequestHead) -> list[ConnectedDesktop]:
        ranked = rank_desktops(self._desktops.values())
        if _is_restricted(head):
            ranked = [each for each in ranked if each.enforces_allowed_models]
        excluded = get_header(head.headers, EXCLUDE_DESKTOP.lower())
        return (
            ranked
            if excluded is None
            else [each for each in ranked if each.identity.id != _decode_header(excluded)]
        )

    def _select(self, head: RequestHead, model: str | None) -> ConnectedDesktop:
        ranked = self._ranked(head)
        if not ranked and _is_restricted(head) and rank_desktops(self._desktops.values()):
            raise _unenforced_error()
        if not ranked:
            other = "" if get_header(head.headers, EXCLUDE_DESKTOP.lower()) is None else "other "
            raise DesktopOffline(
                f"None of your {other}desktops is connected. Start ctllm on one of them."
            )
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
        raise NotFound(f"No desktop with the name or id {selector!r} is connected.")

    # -- state

    @property
    def stream_count(self) -> int:
        """Number of active streams."""
        return sum(len(each.initiator.streams) for each in self._desktops.values())

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last request or connected desktop; 0 while a desktop is connected."""
        if self._desktops:
            return 0.0
        return self._clock.seconds() - self._last_active

    def describe_desktops(
        self, may_list: Callable[[str], bool] = lambda model: True
    ) -> list[dict[str, object]]:
        """Return the JSON of all connected desktops for the API.

        Of their models it has those for which `may_list` returns True.
        """
        now = self._clock.seconds()
        return [
            each.describe(now, may_list)
            for each in self._desktops.values()
            if each.initiator.is_established
        ]


def _end_streams(desktop: ConnectedDesktop, error: CtllmError) -> None:
    desktop.initiator.fail_all(access_ended_error(error))


def _is_restricted(head: RequestHead) -> bool:
    """Return whether the client of a request may use some models only."""
    return get_header(head.headers, ALLOWED_MODELS.lower()) is not None


def _unenforced_error() -> Forbidden:
    return Forbidden(
        "This API key may use some models only, and the version of ctllm on the connected desktop "
        "cannot enforce that. Update it there."
    )


def _decode_header(value: bytes) -> str:
    """Decode the value of a header: programs send UTF-8, browsers Latin-1."""
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
        raise ProtocolViolation("The id of a stream must be 32 hexadecimal digits.")
    return id
