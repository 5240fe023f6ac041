"""`ctllm.http.request_envelope`: a head in one header."""

from __future__ import annotations

from base64 import urlsafe_b64encode

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import BadRequest
from ctllm.http.message.head import RequestHead
from ctllm.http.request_envelope import open_envelope, seal_envelope

OUTER = RequestHead(b"POST", b"/", ((b"Host", b"x"), (b"content-Length", b"7")))


def envelope(json: bytes) -> bytes:
    return urlsafe_b64encode(json)


class EnvelopeTests(SynchronousTestCase):
    """What is sealed is opened, and nothing else."""

    @given(st.lists(st.tuples(st.sampled_from((b"X-A", b"x_a", b"Accept")), st.binary(max_size=9))))
    def test_preserves_every_byte_of_the_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        safe = tuple((name, value.translate(None, b"\r\n\0")) for name, value in headers)
        head = RequestHead(b"POST", b"/api/chat?a=%20", safe)
        opened = open_envelope(seal_envelope(head), OUTER)
        framing = ((b"content-Length", b"7"),)
        self.assertEqual(opened, RequestHead(b"POST", b"/api/chat?a=%20", safe + framing))

    def test_the_framing_is_that_of_the_request_which_carries_it(self) -> None:
        head = RequestHead(b"POST", b"/x", ((b"Content-Length", b"9"), (b"A", b"b")))
        chunked = RequestHead(b"POST", b"/y", ((b"Transfer-Encoding", b"chunked"), (b"B", b"c")))
        self.assertEqual(
            open_envelope(seal_envelope(head), chunked).headers,
            ((b"A", b"b"), (b"Transfer-Encoding", b"chunked")),
        )

    def test_refuses_what_is_no_head(self) -> None:
        for value in (
            b"", b"?", b"!!!!", "é".encode(), b"A", envelope(b"[]"), envelope(b"{}"),
            envelope(b'{"method":"POST","target":"api","headers":[]}'),
            envelope(b'{"method":"POST","target":"/a b","headers":[]}'),
            envelope(b'{"method":"PO ST","target":"/","headers":[]}'),
            envelope(b'{"method":"GET","target":"/","headers":[]}'),
            envelope(b'{"method":"POST","target":"/","headers":[["A","b\\r\\nC: d"]]}'),
            envelope(b'{"method":"POST","target":"/","headers":[["A: b","c"]]}'),
            envelope(b'{"method":"POST","target":"/","headers":[["Content-Length","9"]]}'),
            envelope(b'{"method":"POST","target":"/","headers":[["transfer-encoding","x"]]}'),
        ):  # fmt: skip
            with self.assertRaises(BadRequest, msg=value):
                open_envelope(value, OUTER)
