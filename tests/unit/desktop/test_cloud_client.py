"""What a desktop takes from its cloud, which may be hostile."""

from __future__ import annotations

import gzip
import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.cloud_client import MAX_RESPONSE, CloudClient, parse_invite_link
from ctllm.desktop.http_request import REQUEST_TIMEOUT
from ctllm.errors import BadGateway, BadRequest, Forbidden, Unauthorized
from ctllm.http.message.head import RequestHead, get_header
from ctllm.http.server.request import ServerRequest
from tests.unit.fakes import ServedEndpoint

TOKEN = {
    "user": {"name": "ann", "id": "ctllm|ann"},
    "token": "ey.J-0_.x",
    "expires_in": 600,
    "refresh": "abc-_",
}
CONTROLS = ("\n", "\r", "\0", "\x1b[2J", "\x9b2J", "\x7f", "\u202e", "\u2066", "\u2028")


class CloudClientCase(SynchronousTestCase):
    """A client of a cloud that sends `status`, `headers` and `body`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.status, self.body = 200, b""
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
        self.requests: list[tuple[RequestHead, bytes]] = []
        self.is_silent = False
        self.served = ServedEndpoint(self.handle_request, self.clock)
        self.client = CloudClient("https://cloud.example/base", self.clock, lambda url: self.served)

    async def handle_request(self, request: ServerRequest) -> None:
        self.requests.append((request.head, await request.read_body(10_000)))
        if self.is_silent:
            await Deferred()
        request.respond(self.status, self.body, self.headers)

    def run_request(self, work: Any) -> Deferred[Any]:
        running = Deferred.fromCoroutine(work)
        self.served.flush()
        return running

    def respond_with(self, value: object) -> None:
        self.body = json.dumps(value).encode()

    def failure_of(self, work: Any, kind: type[Exception]) -> str:
        return str(self.failureResultOf(self.run_request(work), kind).value)


class RequestTests(CloudClientCase):
    def test_sends_json_below_the_clouds_path_and_closes_the_connection(self) -> None:
        self.respond_with(TOKEN)
        token = self.successResultOf(self.run_request(self.client.redeem_invite("word")))
        self.assertEqual((token.user.name, token.refresh_token), ("ann", "abc-_"))
        ((head, body),) = self.requests
        self.assertEqual((head.method, head.target), (b"POST", b"/base/ctllm/session"))
        self.assertEqual(get_header(head.headers, b"host"), b"cloud.example")
        self.assertEqual(get_header(head.headers, b"accept-encoding"), b"identity")
        self.assertEqual(json.loads(body), {"invite": "word", "client": "desktop"})
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertTrue(all(pump.clientIO.disconnected for pump in self.served.pumps))

    def test_error_of_the_connection_names_the_cloud(self) -> None:
        self.served.refusal = OSError("no route")
        said = self.failure_of(self.client.redeem_invite("word"), BadGateway)
        self.assertIn("https://cloud.example/base", said)
        self.assertIn("no route", said)

    def test_times_out(self) -> None:
        self.is_silent = True
        running = self.run_request(self.client.redeem_invite("word"))
        self.clock.advance(REQUEST_TIMEOUT)
        self.failureResultOf(running, BadGateway)
        self.served.flush()


class ResponseTests(CloudClientCase):
    def test_refuses_malformed_token_responses(self) -> None:
        wrong: list[tuple[str, Any]] = [
            ("expires_in", value) for value in (0, -1, 1e300, True, "600", None)
        ]
        wrong += [(name, f"a{control}b") for name in ("token", "refresh") for control in CONTROLS]
        wrong += [("token", ""), ("token", "a b"), ("token", "a\n"), ("token", "x" * 9000)]
        wrong += [("refresh", "a\n"), ("refresh", 5)]
        for control in CONTROLS:
            wrong.append(("user", {"name": f"a{control}", "id": "i"}))
            wrong.append(("user", {"name": "a", "id": f"i{control}"}))
        wrong += [("user", {"name": "", "id": "i"}), ("user", {"name": "a" * 300, "id": "i"})]
        for name, value in wrong:
            self.respond_with({**TOKEN, name: value})
            said = self.failure_of(self.client.redeem_invite("word"), BadGateway)
            self.assertIn("is not that of a ctllm cloud", said, (name, value))
        self.body = json.dumps(TOKEN).replace("600", "1e999").encode()
        self.failure_of(self.client.redeem_invite("word"), BadGateway)

    def test_refuses_malformed_login_codes(self) -> None:
        for invite in ("x\nopen file:///etc/passwd", "x\n", "x y", "x&view=y", "", "x" * 300):
            self.respond_with({"invite": invite})
            self.failure_of(self.client.create_login_code("token"), BadGateway)
        self.respond_with({"invite": "good_-1"})
        self.assertEqual(
            self.successResultOf(self.run_request(self.client.create_login_code("token"))),
            "good_-1",
        )

    def test_sanitizes_error_messages_and_checks_codes(self) -> None:
        self.status = 403
        for control in CONTROLS:
            self.respond_with(
                {"error": {"code": "forbidden", "message": f"no{control}" + "x" * 9000}}
            )
            said = self.failure_of(self.client.redeem_invite("word"), Forbidden)
            self.assertTrue(said.isprintable())
            self.assertLessEqual(len(said), 1000)
        self.respond_with({"error": {"code": "x\n", "message": "m"}})
        self.failure_of(self.client.redeem_invite("word"), BadGateway)
        self.status = 401
        self.body = b"\x1b[2J"
        self.assertTrue(
            self.failure_of(self.client.redeem_invite("word"), Unauthorized).isprintable()
        )

    def test_refuses_compressed_responses(self) -> None:
        self.body = gzip.compress(json.dumps(TOKEN).encode())
        self.headers = ((b"Content-Encoding", b"gzip"),)
        self.failure_of(self.client.redeem_invite("word"), BadGateway)

    def test_refuses_responses_over_the_limit(self) -> None:
        self.body = b" " * MAX_RESPONSE + json.dumps(TOKEN).encode()
        self.failure_of(self.client.redeem_invite("word"), BadGateway)

    def test_refuses_deeply_nested_json(self) -> None:
        self.body = b'{"x": ' + b"[" * 30_000
        self.failure_of(self.client.redeem_invite("word"), BadGateway)


class InviteLinkTests(SynchronousTestCase):
    def test_parses_invite_links(self) -> None:
        for link, url in (
            ("https://cloud.example/#invite=a_-1", "https://cloud.example"),
            (" https://cloud.example:8443/base/#invite=a\n", "https://cloud.example:8443/base"),
            ("http://[2001:db8::1]:1/#invite=a", "http://[2001:db8::1]:1"),
            ("http://127.0.0.1:8080/#invite=a", "http://127.0.0.1:8080"),
        ):
            self.assertEqual(parse_invite_link(link)[0], url)

    def test_refuses_links_with_credentials_control_characters_or_other_schemes(self) -> None:
        for link in (
            "https://user:password@cloud.example/#invite=a",
            "https://cloud.example/\x1b[2J#invite=a",
            "https://cloud.exa\nmple/#invite=a",
            "https://cloud.example/#invite=a\nb",
            "https://cloud.example/#invite=a&b",
            "https://cloud.example/?x=\u202e#invite=a",
            "javascript://x/#invite=a",
            "https:///#invite=a",
        ):
            self.assertRaises(BadRequest, parse_invite_link, link)
