"""What a desktop takes from its cloud, which may be hostile."""

from __future__ import annotations

import gzip
import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop import cloud_client as module
from ctllm.desktop.cloud_client import MAX_RESPONSE, REQUEST_TIMEOUT, CloudClient, parse_invite_link
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


class Case(SynchronousTestCase):
    """A cloud that answers as the test says."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.status, self.body = 200, b""
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
        self.asked: list[tuple[RequestHead, bytes]] = []
        self.silent = False
        self.served = ServedEndpoint(self.answer, self.clock)
        self.patch(module, "endpoint_for_url", lambda url, reactor: self.served)
        self.client = CloudClient("https://cloud.example/base", self.clock)

    async def answer(self, incoming: ServerRequest) -> None:
        self.asked.append((incoming.head, await incoming.read_body(10_000)))
        if self.silent:
            await Deferred()
        incoming.respond(self.status, self.body, self.headers)

    def doing(self, work: Any) -> Deferred[Any]:
        doing = Deferred.fromCoroutine(work)
        self.served.flush()
        return doing

    def says(self, value: object) -> None:
        self.body = json.dumps(value).encode()

    def failed(self, work: Any, kind: type[Exception]) -> str:
        return str(self.failureResultOf(self.doing(work), kind).value)


class Asking(Case):
    """Calls."""

    def test_a_call(self) -> None:
        """Below the cloud's address; nothing compressed is asked for, no connection stays."""
        self.says(TOKEN)
        token = self.successResultOf(self.doing(self.client.redeem_invite("word")))
        self.assertEqual((token.user.name, token.refresh), ("ann", "abc-_"))
        ((head, body),) = self.asked
        self.assertEqual((head.method, head.target), (b"POST", b"/base/ctllm/session"))
        self.assertEqual(get_header(head.headers, b"host"), b"cloud.example")
        self.assertEqual(get_header(head.headers, b"accept-encoding"), b"identity")
        self.assertEqual(json.loads(body), {"invite": "word", "client": "desktop"})
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertTrue(all(pump.clientIO.disconnected for pump in self.served.pumps))

    def test_nobody_there(self) -> None:
        self.served.refusal = OSError("no route")
        said = self.failed(self.client.redeem_invite("word"), BadGateway)
        self.assertIn("https://cloud.example/base", said)
        self.assertIn("no route", said)

    def test_silence(self) -> None:
        """Not for long."""
        self.silent = True
        doing = self.doing(self.client.redeem_invite("word"))
        self.clock.advance(REQUEST_TIMEOUT)
        self.failureResultOf(doing, BadGateway)
        self.served.flush()


class Answers(Case):
    """What comes back."""

    def test_tokens_that_are_none(self) -> None:
        """Of no value anything would be made that acts: no header, no file, no terminal."""
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
            self.says({**TOKEN, name: value})
            said = self.failed(self.client.redeem_invite("word"), BadGateway)
            self.assertIn("does not answer like a ctllm cloud", said, (name, value))
        self.body = json.dumps(TOKEN).replace("600", "1e999").encode()
        self.failed(self.client.redeem_invite("word"), BadGateway)

    def test_invitations_that_are_none(self) -> None:
        """One with a line break would be a second command of the window's process."""
        for invite in ("x\nopen file:///etc/passwd", "x\n", "x y", "x&view=y", "", "x" * 300):
            self.says({"invite": invite})
            self.failed(self.client.create_login_code("token"), BadGateway)
        self.says({"invite": "good_-1"})
        self.assertEqual(
            self.successResultOf(self.doing(self.client.create_login_code("token"))), "good_-1"
        )

    def test_errors(self) -> None:
        """Their text is cut, and steers no terminal; their codes are those that there are."""
        self.status = 403
        for control in CONTROLS:
            self.says({"error": {"code": "forbidden", "message": f"no{control}" + "x" * 9000}})
            said = self.failed(self.client.redeem_invite("word"), Forbidden)
            self.assertTrue(said.isprintable())
            self.assertLessEqual(len(said), 1000)
        self.says({"error": {"code": "x\n", "message": "m"}})
        self.failed(self.client.redeem_invite("word"), BadGateway)
        self.status = 401
        self.body = b"\x1b[2J"
        self.assertTrue(self.failed(self.client.redeem_invite("word"), Unauthorized).isprintable())

    def test_compressed(self) -> None:
        """Nothing is inflated, whatever it would become."""
        self.body = gzip.compress(json.dumps(TOKEN).encode())
        self.headers = ((b"Content-Encoding", b"gzip"),)
        self.failed(self.client.redeem_invite("word"), BadGateway)

    def test_too_large(self) -> None:
        """It is given up while it comes."""
        self.body = b" " * MAX_RESPONSE + json.dumps(TOKEN).encode()
        self.failed(self.client.redeem_invite("word"), BadGateway)

    def test_nested(self) -> None:
        self.body = b'{"x": ' + b"[" * 30_000
        self.failed(self.client.redeem_invite("word"), BadGateway)


class Links(SynchronousTestCase):
    """What is pasted."""

    def test_good(self) -> None:
        for link, url in (
            ("https://cloud.example/#invite=a_-1", "https://cloud.example"),
            (" https://cloud.example:8443/base/#invite=a\n", "https://cloud.example:8443/base"),
            ("http://[2001:db8::1]:1/#invite=a", "http://[2001:db8::1]:1"),
            ("http://127.0.0.1:8080/#invite=a", "http://127.0.0.1:8080"),
        ):
            self.assertEqual(parse_invite_link(link)[0], url)

    def test_bad(self) -> None:
        """Nothing in one that acts anywhere else."""
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
