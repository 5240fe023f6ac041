"""`ctllm.http.subprotocols`: the token of a browser's WebSocket."""

from __future__ import annotations

from base64 import urlsafe_b64encode

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import BadRequest
from ctllm.http.credentials import presented_tokens
from ctllm.http.header_policy import request_to_tunnel
from ctllm.http.message.head import Headers, RequestHead
from ctllm.http.subprotocols import without_subprotocol_token

UPGRADE = (b"Upgrade", b"WebSocket")
NAME = b"Sec-WebSocket-Protocol"


def entry(token: bytes) -> bytes:
    return b"ctllm.bearer." + urlsafe_b64encode(token).rstrip(b"=")


def handshake(*offers: bytes, upgrade: Headers = (UPGRADE,)) -> RequestHead:
    offered = tuple((NAME, offer) for offer in offers)
    return RequestHead(b"GET", b"/ws/tunnel", (*upgrade, *offered))


class SubprotocolTests(SynchronousTestCase):
    def test_the_token_is_that_which_was_encoded(self) -> None:
        """Wherever it is in the list, and in one header or several."""
        for offers in (
            (b"ctllm.tunnel.v1, " + entry(b"a.b-c_d"),),
            (entry(b"a.b-c_d") + b" ,ctllm.tunnel.v1",),
            (b"ctllm.tunnel.v1", entry(b"a.b-c_d")),
        ):
            self.assertEqual(presented_tokens(handshake(*offers)), ("a.b-c_d",))

    @given(st.binary(max_size=60))
    def test_any_bytes_are_decoded_or_ignored(self, encoded: bytes) -> None:
        """And never forwarded, however they are written."""
        head = handshake(b"Ctllm.Bearer." + encoded.replace(b",", b""))
        self.assertIsInstance(presented_tokens(head), tuple)
        self.assertEqual(without_subprotocol_token(head.headers), (UPGRADE,))

    def test_a_request_that_is_no_handshake_has_no_such_token(self) -> None:
        head = handshake(entry(b"secret"), upgrade=())
        self.assertEqual(presented_tokens(head), ())

    def test_two_tokens_are_refused(self) -> None:
        for offers in ((entry(b"a") + b", " + entry(b"b"),), (entry(b"a"), entry(b"a"))):
            with self.assertRaises(BadRequest):
                presented_tokens(handshake(*offers))

    def test_a_proxy_is_offered_the_other_subprotocols_only(self) -> None:
        head = handshake(b"a , " + entry(b"secret") + b",b", entry(b"secret"), b"c")
        forwarded = request_to_tunnel(head, b"signed").headers
        self.assertEqual([value for name, value in forwarded if name == NAME], [b"a, b", b"c"])
