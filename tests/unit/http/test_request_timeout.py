"""`ctllm.http.request_timeout`: the remaining time is sent from stage to stage."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase as TestCase

from ctllm.http.header_policy import request_to_cloud, request_to_ollama, request_to_proxy
from ctllm.http.message.head import RequestHead, get_header
from ctllm.http.request_timeout import deduct_elapsed, get_timeout, set_timeout


def head(*values: bytes) -> RequestHead:
    headers = tuple((b"ctllm-TIMEOUT", value) for value in values)
    return RequestHead(b"GET", b"/api/tags", headers)


class RequestTimeoutTests(TestCase):
    def test_takes_whole_milliseconds_up_to_the_maximum(self) -> None:
        for value, seconds in (
            (b"2500", 2.5), (b"0", 0.0), (b"999999", 3.0),
            (b"", 3.0), (b"-1", 3.0), (b"+1", 3.0), (b"1e3", 3.0), (b"1_000", 3.0), (b" 1", 3.0),
            (b"1000000", 3.0), (b"9" * 5000, 3.0), ("\u0663".encode(), 3.0), (b"inf", 3.0),
        ):  # fmt: skip
            self.assertEqual(get_timeout(head(value), 3.0), seconds, value)
        self.assertEqual(get_timeout(head(), 3.0), 3.0)
        self.assertEqual(get_timeout(head(b"1", b"2000"), 3.0), 0.001)

    def test_replaces_the_headers_of_the_client(self) -> None:
        timed = set_timeout(head(b"1", b"2"), 2.5)
        self.assertEqual(timed.headers, ((b"Ctllm-Timeout", b"2500"),))
        self.assertEqual(get_timeout(set_timeout(head(), -1.0), 3.0), 0.0)

    def test_deducts_elapsed_time_only_if_there_is_a_timeout(self) -> None:
        self.assertEqual(get_timeout(deduct_elapsed(head(b"2500"), 1.0), 9.0), 1.5)
        self.assertEqual(get_timeout(deduct_elapsed(head(b"2500"), 5.0), 9.0), 0.0)
        self.assertEqual(deduct_elapsed(head(), 1.0), head())
        self.assertEqual(deduct_elapsed(head(b"x"), 1.0), head(b"x"))

    def test_is_sent_to_cloud_and_proxy_but_not_to_ollama(self) -> None:
        for value, expected in ((b"2500", b"2500"), (b"x", None)):
            sent = request_to_cloud(head(value), b"cloud", "token", "desktop")
            self.assertEqual(get_header(sent.headers, b"ctllm-timeout"), expected)
        proxied = request_to_proxy(head(b"2500"), b"signed")
        self.assertEqual(get_timeout(proxied, 9.0), 2.5)
        self.assertEqual(request_to_ollama(proxied, b"o").headers, ((b"Host", b"o"),))
