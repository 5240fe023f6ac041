"""Where one user's desktops and clients meet: which tunnel does a request go down?"""

from __future__ import annotations

import re
from typing import Any

from twisted.logger import Logger

from ctllm.common.memory_budget import MemoryBudget
from ctllm.errors import DesktopOffline, NotFound, ProtocolViolation
from ctllm.http.header_policy import (
    DESKTOP,
    EXCHANGE,
    EXCLUDE_DESKTOP,
    quote_name,
    response_from_desktop,
)
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import Headers, RequestHead, get_header
from ctllm.ollama.api import changes_models
from ctllm.proxy.desktop_selection import ConnectedDesktop, by_preference, holder
from ctllm.proxy.resumption import Again, FromOffset, Remembered, Resumable, wanted_seconds
from ctllm.reactor.interfaces import Clock
from ctllm.relay.completion_observer import CompletionObserver
from ctllm.tunnel.frames import (
    NO_EXCHANGE,
    Desktop,
    Hello,
    Kind,
    Reason,
    from_json,
    json_frame,
    split,
)
from ctllm.tunnel.initiator import Initiator, InitiatorStream
from ctllm.tunnel.peer import check
from ctllm.tunnel.websocket.protocols import ProxyWebSocket

#: Most desktops one user may have connected.
MAX_DESKTOPS = 32

_ID = re.compile(r"[0-9a-f]{32}")
_REPLACED = json_frame(
    Kind.BYE, NO_EXCHANGE, Reason("replaced", "a newer connection of this desktop took over")
)


class DesktopRegistry:
    """All desktops of the user, and where their exchanges are."""

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        window: int,
        grace: float,
        max_exchanges: int,
        max_resume: int,
        budget: MemoryBudget | None = None,
    ) -> None:
        self._clock = clock
        self._budget = budget
        self._limits = (window, grace, max_exchanges)
        self._max_resume = max_resume
        self._remembered = Remembered()
        self._meetings: dict[str, ConnectedDesktop] = {}
        self._busy_until = clock.seconds()

    # -- desktops come and go

    def greeted(self, socket: ProxyWebSocket, message: bytes) -> None:
        """Take a bridge's first message, which must begin with HELLO; ProtocolViolation if not."""
        kind, _, payload = next(split(message), (0, b"", b""))
        if kind != Kind.HELLO:
            raise ProtocolViolation("the first frame of a tunnel must be HELLO")
        hello = from_json(payload, Hello)
        desktop = hello.desktop
        if desktop is None or not _ID.fullmatch(desktop.id) or not desktop.name.isprintable():
            raise ProtocolViolation("a bridge must say which desktop it is of")
        check(hello)  # before it takes the place of a connection that works
        held = [_exchange_id(id) for id in hello.exchanges]
        meeting = self._meeting(desktop)
        self._replace(meeting, socket)
        meeting.opener.receive(message)
        for id in held:
            self._remembered.add(id, meeting.opener)

    def _meeting(self, desktop: Desktop) -> ConnectedDesktop:
        known = self._meetings.get(desktop.id)
        if known is None:
            if len(self._meetings) >= MAX_DESKTOPS:
                raise ProtocolViolation(f"{MAX_DESKTOPS} desktops are connected already")
            known = ConnectedDesktop(
                desktop, Initiator(*self._limits, admit=response_from_desktop, budget=self._budget)
            )
            self._meetings[desktop.id] = known
        known.desktop = Desktop(desktop.id, desktop.name[:100].strip())
        return known

    def _replace(self, meeting: ConnectedDesktop, socket: ProxyWebSocket) -> None:
        """The newest connection of a desktop is the one: the older may be dead without knowing."""
        older = meeting.socket
        if older is not None:
            older.tunnel = None
            older.close_gracefully(_REPLACED)
            meeting.opener.disconnected(self._clock.seconds())
        meeting.socket = socket
        meeting.since = self._clock.seconds()
        socket.attach_tunnel(meeting.opener)
        socket.on_closed = lambda: self._left(meeting, socket)
        self._log.info("desktop {name} is connected", name=meeting.desktop.name)

    def _left(self, meeting: ConnectedDesktop, socket: ProxyWebSocket) -> None:
        if meeting.socket is socket:
            meeting.socket = None
            self._log.info("desktop {name} left", name=meeting.desktop.name)

    def sweep(self) -> None:
        """Once a second: give up what nobody came back for, forget desktops that left."""
        now = self._clock.seconds()
        for id, meeting in list(self._meetings.items()):
            meeting.opener.sweep(now)
            if meeting.socket is None and not meeting.opener.exchanges:
                del self._meetings[id]
        if self._meetings:
            self._busy_until = now

    def close(self) -> None:
        """Tell every bridge that this proxy goes away."""
        for meeting in self._meetings.values():
            if meeting.socket is not None:
                meeting.socket.close_gracefully()

    # -- requests go to one of them

    def able(self, head: RequestHead) -> list[ConnectedDesktop]:
        """The desktops that may answer `head`, the best first; none where it names one itself."""
        if get_header(head.headers, DESKTOP.lower()) is not None:
            return []
        return [each for each in self._here(head) if each.merit]

    def start_request(
        self, head: RequestHead, caller: ResponseSink, model: str | None = None
    ) -> InitiatorStream:
        """Begin an exchange with the desktop that `Ctllm-Desktop` names, else with the best one.

        With a `model`, that is the best of those that have it. Raises DesktopOffline, NotFound,
        Overloaded or BadRequest.
        """
        resume = wanted_seconds(head, self._max_resume)
        self._busy_until = self._clock.seconds()
        wanted = get_header(head.headers, DESKTOP.lower())
        meeting = self._best(head, model) if wanted is None else self._named(_text(wanted))
        if changes_models(head):
            caller = CompletionObserver(caller, lambda: self._changed(meeting))
        asking = meeting.opener.start_request(head, caller, resume)
        if resume:
            self._remembered.add(asking.id, meeting.opener)
        return asking

    def _changed(self, meeting: ConnectedDesktop) -> None:
        meeting.changed = self._clock.seconds()

    def take_up(self, id: bytes, offset: int, caller: ResponseSink) -> InitiatorStream:
        """Give `caller` an answer again, from `offset`; raises NotFound or DesktopOffline."""
        asking = self._remembered.find(id).take_up(id, offset, FromOffset(caller, offset))
        asking.resume_seconds = asking.resume_seconds or self._max_resume
        return asking

    def call(self, asking: InitiatorStream, again: bool = False) -> RequestSink:
        """What a client holds of its exchange: it may leave and come back, if it said so."""
        if not asking.resume_seconds:
            return asking
        return (Again if again else Resumable)(asking, self._clock)

    def told(self, asking: InitiatorStream) -> Headers:
        """What the client is told of its exchange: its id, and who answers it."""
        id = asking.id
        names = [m.desktop.name for m in self._meetings.values() if id in m.opener.exchanges]
        who = tuple((DESKTOP, quote_name(name)) for name in names)
        return ((EXCHANGE, id.hex().encode()), *who)

    def _here(self, head: RequestHead) -> list[ConnectedDesktop]:
        here = by_preference(self._meetings.values())
        asks = get_header(head.headers, EXCLUDE_DESKTOP.lower())
        return here if asks is None else [each for each in here if each.desktop.id != _text(asks)]

    def _best(self, head: RequestHead, model: str | None) -> ConnectedDesktop:
        here = self._here(head)
        if not here:
            other = "" if get_header(head.headers, EXCLUDE_DESKTOP.lower()) is None else "other "
            raise DesktopOffline(f"none of your {other}desktops is connected; start ctllm on one")
        return here[0] if model is None else holder(here, model, self._clock.seconds())

    def _named(self, wanted: str) -> ConnectedDesktop:
        for meeting in self._meetings.values():
            if wanted in (meeting.desktop.id, meeting.desktop.name) and meeting.opener.up:
                return meeting
        raise NotFound(f"no desktop called {wanted!r} is connected")

    # -- what is known

    @property
    def exchanges(self) -> int:
        """How many are under way."""
        return sum(len(meeting.opener.exchanges) for meeting in self._meetings.values())

    @property
    def idle_seconds(self) -> float:
        """Since the last exchange or connected desktop; 0 while there is one."""
        if self._meetings:
            return 0.0
        return self._clock.seconds() - self._busy_until

    def desktops(self) -> list[dict[str, Any]]:
        """Each desktop for the API: who, since when (seconds ago), its Ollama, its models."""
        now = self._clock.seconds()
        return [each.described(now) for each in self._meetings.values() if each.opener.up]


def _text(value: bytes) -> str:
    """A header's value as text: programs send UTF-8, browsers Latin-1."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _exchange_id(text: str) -> bytes:
    try:
        id = bytes.fromhex(text)
    except ValueError:
        id = b""
    if len(id) != len(NO_EXCHANGE):
        raise ProtocolViolation("an exchange id that is not 32 hexadecimal digits")
    return id
