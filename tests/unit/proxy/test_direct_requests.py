"""Requests that a reverse proxy sends to a streaming proxy, and the cloud's control of them."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from typing import Any

from ctllm.auth.session_assertions import LIFETIME_SECONDS, SERVE, USE
from ctllm.cloud.identity import AssertionSigner
from ctllm.errors import CtllmError, TooManyRequests
from ctllm.http.header_policy import request_to_tunnel
from ctllm.http.message.head import RequestHead, encode_request_head
from ctllm.http.request_envelope import seal_envelope
from ctllm.proxy.app import MAX_TUNNELS
from ctllm.proxy.direct_requests import MAX_REFUSED_GRANTS, DirectRequests
from ctllm.tunnel.websocket.protocols import ENDED_ACCESS_GRACE
from tests.unit.fakes import FakeDesktop, MemoryTransport
from tests.unit.proxy.test_app import ELSEWHERE, HERE, Case

GRANT, OTHER = "sealed-1", "sealed-2"
CHAT = "POST /api/chat"


def ended(*grants: str) -> object:
    """Return the body of a request to abort."""
    message = "You are logged out."
    return {"ended": [{"grant": g, "code": "unauthenticated", "message": message} for g in grants]}


class DirectCase(Case):
    """A proxy with a desktop, and requests in envelopes."""

    def setUp(self) -> None:
        super().setUp()
        self.desktop = FakeDesktop(self.registry, 1, "home", "up", "llama")

    def envelope(
        self,
        line: str = CHAT,
        grant: str | None = GRANT,
        assertion: str = "",
        max_requests: int = 0,
        more: tuple[tuple[bytes, bytes], ...] = (),
    ) -> str:
        method, target = line.encode().split(b" ")
        signer = AssertionSigner(self.key, self.clock.seconds)
        signed = assertion or signer.sign(HERE, frozenset((USE,)), max_requests=max_requests)
        headers = (*more, (b"Ctllm-Assertion", signed.encode()))
        if grant is not None:
            headers += ((b"Ctllm-Grant", grant.encode()),)
        return seal_envelope(RequestHead(method, target, headers)).decode()

    def start(self, envelope: str, line: str = CHAT, more: str = "") -> MemoryTransport:
        """Send a request on a new connection."""
        wire = self.wire = self.connect()
        head = f"{line} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n{more}"
        wire.protocol.dataReceived(f"{head}Ctllm-Request: {envelope}\r\n\r\n{{}}".encode())
        self.desktop.settle()
        return wire

    def control(self, line: str, body: object = None) -> tuple[int, object]:
        """Send a request as the cloud does."""
        raw = b"" if body is None else json.dumps(body).encode()
        assertion = AssertionSigner(self.key, self.clock.seconds).sign_control(HERE)
        self.wire = self.connect()
        head = f"{line} HTTP/1.1\r\nHost: x\r\nCtllm-Assertion: {assertion}\r\n"
        self.wire.protocol.dataReceived(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        return self.answer()

    def direct(self) -> object:
        self.wire = self.connect()
        _, health = self.ask("GET /health")
        assert isinstance(health, dict)
        return health["direct"]


class EnvelopeTests(DirectCase):
    """What is in the envelope counts, and nothing beside it."""

    def test_relays_the_head_in_the_envelope(self) -> None:
        more = ((b"X_Under", b"a"), (b"x-twice", b"1"), (b"X-Twice", b"2"))
        self.start(self.envelope("POST /api/chat?x=1", more=more), "POST /else", "X-Outer: 1\r\n")
        (head,) = self.desktop.heads
        self.assertEqual((head.method, head.target), (b"POST", b"/api/chat?x=1"))
        names = [name for name, _ in head.headers]
        self.assertEqual(names[:3], [b"X_Under", b"x-twice", b"X-Twice"])
        for hidden in (b"Ctllm-Assertion", b"Ctllm-Grant", b"Ctllm-Request", b"X-Outer", b"Host"):
            self.assertNotIn(hidden, names)

    def test_refuses_what_is_in_doubt(self) -> None:
        good = self.envelope()
        for envelope, more in (
            (good, f"Ctllm-Assertion: {self.sign(USE)}\r\n"),
            (good, f"ctllm-request: {good}\r\n"),
            (self.envelope(grant=None), ""),
            (self.envelope(grant=""), ""),
            (self.envelope("GET /api/chat"), ""),
            (urlsafe_b64encode(b"{}").decode(), ""),
            ("", ""),
        ):
            self.start(envelope, more=more)
            self.assertEqual(self.answer()[0], 400, (envelope, more))
        self.assertEqual(self.desktop.heads, [])

    def test_an_envelope_needs_an_assertion_for_this_proxy(self) -> None:
        signer = AssertionSigner(self.key, self.clock.seconds)
        for assertion in (
            signer.sign(ELSEWHERE, frozenset((USE,))),
            "x",
            signer.sign_control(ELSEWHERE),
        ):
            self.start(self.envelope(assertion=assertion))
            self.assertEqual(self.answer()[0], 401)
        self.start(self.envelope(assertion=signer.sign_control(HERE)))
        self.assertEqual(self.answer()[0], 403)
        replayed = self.envelope()
        self.clock.advance(LIFETIME_SECONDS + 60)
        self.start(replayed)
        self.assertEqual(self.answer()[0], 401)
        self.assertEqual(self.desktop.heads, [])

    def test_a_request_of_the_cloud_has_no_envelope_and_is_not_counted(self) -> None:
        self.ask("POST /api/chat", self.sign(USE), "Content-Length: 0\r\nCtllm-Grant: x\r\n")
        self.desktop.settle()
        self.assertEqual(self.direct(), {"in_progress": 0, "outcomes": {}})
        self.assertEqual(len(self.desktop.heads), 1)


class CountTests(DirectCase):
    """Requests in progress are counted and limited."""

    def test_limits_the_requests_in_progress(self) -> None:
        first = self.start(self.envelope(max_requests=2))
        self.start(self.envelope(max_requests=2))
        for line, key in ((CHAT, str), ("POST /v1/messages", dict)):
            self.start(self.envelope(line, max_requests=2))
            status, body = self.answer()
            assert isinstance(body, dict)
            self.assertEqual((status, type(body["error"])), (429, key))
        first.disconnect()
        self.start(self.envelope(max_requests=2))
        self.assertEqual(self.answer(), (0, b""))

    def test_hands_over_once_whose_requests_it_has_refused(self) -> None:
        self.start(self.envelope(max_requests=1))
        for grant in (GRANT, OTHER, OTHER):
            self.start(self.envelope(grant=grant, max_requests=1))
            self.assertEqual(self.answer()[0], 429)
        asked = self.control("GET /ctllm/control/requests")
        self.assertEqual(asked, (200, {"grants": [GRANT], "refused": 3}))
        self.assertEqual(
            self.control("POST /ctllm/control/refusals"),
            (200, {"refusals": {GRANT: 1, OTHER: 2}}),
        )
        self.assertEqual(self.control("POST /ctllm/control/refusals"), (200, {"refusals": {}}))
        asked = self.control("GET /ctllm/control/requests")
        self.assertEqual(asked, (200, {"grants": [GRANT], "refused": 0}))

    def test_the_refusals_of_many_grants_take_no_memory_without_limit(self) -> None:
        requests = DirectRequests(self.clock.seconds)
        requests.in_progress = 1
        for number in range(MAX_REFUSED_GRANTS + 2):
            for _ in range(2):
                request: Any = None
                self.assertRaises(TooManyRequests, requests.add_request, request, b"%d" % number, 1)
        taken = requests.take_refusals()
        self.assertEqual(len(taken), MAX_REFUSED_GRANTS + 1)
        self.assertEqual((taken[b""], taken[b"0"]), (4, 2))

    def test_reports_what_is_in_progress_and_how_requests_ended(self) -> None:
        self.start(self.envelope())
        self.start(self.envelope()).disconnect()
        self.start(self.envelope("POST /ctllm/else"), "POST /ctllm/else")
        self.assertEqual(
            self.direct(),
            {"in_progress": 1, "outcomes": {"client_disconnected": 1, "refused": 1}},
        )


class ControlTests(DirectCase):
    """The cloud asks for grants, and has requests aborted."""

    def test_lists_the_grants_in_use(self) -> None:
        wire = self.start(self.envelope())
        self.start(self.envelope())
        self.start(self.envelope(grant=OTHER)).disconnect()
        self.assertEqual(
            self.control("GET /ctllm/control/requests"), (200, {"grants": [GRANT], "refused": 0})
        )
        wire.disconnect()

    def test_aborts_what_has_a_grant_and_refuses_it_later(self) -> None:
        aborted, kept = self.start(self.envelope()), self.start(self.envelope(grant=OTHER))
        answer = self.control("POST /ctllm/control/aborts", ended(GRANT, "unknown"))
        self.assertEqual(answer, (200, {"aborted": 1}))
        response = aborted.take_written()
        self.assertIn(b" 401 ", response)
        self.assertIn(b"You are logged out.", response)
        self.assertEqual(kept.take_written(), b"")
        self.desktop.settle()
        self.assertIsNotNone(self.desktop.request_sinks[0].error)
        self.assertIsNone(self.desktop.request_sinks[1].error)
        self.start(self.envelope())
        self.assertEqual(self.answer()[0], 401)
        self.assertEqual(
            self.control("GET /ctllm/control/requests"), (200, {"grants": [OTHER], "refused": 0})
        )

    def test_needs_the_scope_control_and_no_envelope(self) -> None:
        for line in ("GET /ctllm/control/requests", "POST /ctllm/control/aborts"):
            self.wire = self.connect()
            self.assertEqual(self.ask(line)[0], 401)
            self.wire = self.connect()
            self.assertEqual(self.ask(line, self.sign(USE), "Content-Length: 0\r\n")[0], 403)
            self.start(self.envelope(line), line)
            self.assertEqual(self.answer()[0], 404)

    def test_refuses_what_it_does_not_know(self) -> None:
        self.assertEqual(self.control("GET /ctllm/control/aborts")[0], 404)
        bodies: tuple[object, ...] = (
            [], {}, {"ended": [1]}, {"ended": [], "more": 1}, {"ended": [{"grant": "a"}]},
        )  # fmt: skip
        for body in bodies:
            self.assertEqual(self.control("POST /ctllm/control/aborts", body)[0], 400, body)

    def open_tunnel(self, is_direct: bool) -> MemoryTransport:
        """Open a tunnel that has a grant, as a reverse proxy does, or as the cloud does."""
        head = RequestHead(
            b"GET",
            b"/ws/tunnel",
            (
                (b"Sec-WebSocket-Version", b"13"),
                (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
                (b"Sec-WebSocket-Protocol", b"ctllm.tunnel.v1"),
            ),
        )
        forwarded = request_to_tunnel(head, self.sign(USE, SERVE).encode())
        headers = (*forwarded.headers, (b"Ctllm-Grant", GRANT.encode()))
        forwarded = RequestHead(b"GET", b"/ws/tunnel", headers)
        if is_direct:
            envelope = (b"Host", b"x"), (b"Ctllm-Request", seal_envelope(forwarded))
            forwarded = RequestHead(b"GET", b"/ws/tunnel", envelope)
        wire = self.wire = self.connect()
        wire.protocol.dataReceived(encode_request_head(forwarded))
        return wire

    def test_ends_a_tunnel(self) -> None:
        """That of a reverse proxy as that of the cloud; and refuses it later."""
        for is_direct in (True, False):
            self.setUp()
            wire = self.open_tunnel(is_direct)
            self.assertIn(b" 101 ", wire.take_written())
            asked = self.control("GET /ctllm/control/requests")
            self.assertEqual(asked, (200, {"grants": [GRANT], "refused": 0}))
            self.control("POST /ctllm/control/aborts", ended(GRANT))
            close_frame = b"\x88\x02\x03\xe9"
            self.assertEqual((wire.take_written(), wire.closed), (close_frame, ""))
            self.clock.advance(ENDED_ACCESS_GRACE)
            self.assertEqual(wire.closed, "abort")
            wire.deliver_abort()
            asked = self.control("GET /ctllm/control/requests")
            self.assertEqual(asked, (200, {"grants": [], "refused": 0}))
            for _ in range(MAX_TUNNELS + 1):  # what is refused does not count as connected
                self.open_tunnel(is_direct)
                self.assertEqual(self.answer()[0], 401)

    def test_requests_end_with_their_own_error_before_the_tunnel_that_they_are_on(self) -> None:
        wire, tunnels = self.start(self.envelope()), list[str]()

        def end_tunnel(error: CtllmError) -> None:
            tunnels.append(error.message)
            self.assertIn(b" 401 ", wire.take_written())

        self.direct_requests.add_tunnel(OTHER.encode(), end_tunnel)
        self.control("POST /ctllm/control/aborts", ended(OTHER, GRANT))
        self.assertEqual(tunnels, ["You are logged out."])
