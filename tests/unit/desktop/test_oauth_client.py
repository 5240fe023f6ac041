"""Requests to a provider, which may be hostile."""

from __future__ import annotations

import gzip
import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.http_request import REQUEST_TIMEOUT
from ctllm.desktop.oauth.provider import MAX_DOCUMENT
from ctllm.desktop.oauth.tokens import OAuthClientId, refresh_request
from ctllm.desktop.oauth_client import OAuthClient
from ctllm.errors import BadGateway
from ctllm.http.message.head import RequestHead, get_header
from ctllm.http.server.request import ServerRequest
from tests.unit.desktop.oauth.provider_values import CLIENT, ISSUER, METADATA, PROVIDER
from tests.unit.fakes import ServedEndpoint

DOCUMENT = {"issuer": ISSUER, "token_endpoint": METADATA.token_endpoint}


class OAuthClientTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.status, self.body = 200, json.dumps(DOCUMENT).encode()
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
        self.requests: list[tuple[RequestHead, bytes]] = []
        self.urls: list[str] = []
        self.is_silent = False
        self.served = ServedEndpoint(self.handle_request, self.clock)
        self.client = OAuthClient(self.clock, self.endpoint_for)
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))

    def endpoint_for(self, url: str) -> Any:
        self.urls.append(url)
        return self.served

    async def handle_request(self, request: ServerRequest) -> None:
        self.requests.append((request.head, await request.read_body(10_000)))
        if self.is_silent:
            await Deferred()
        request.respond(self.status, self.body, self.headers)

    def run_request(self, work: Any) -> Deferred[Any]:
        running = Deferred.fromCoroutine(work)
        self.served.flush()
        return running

    def failure_of_discovery(self) -> str:
        running = self.run_request(self.client.discover(PROVIDER))
        return str(self.failureResultOf(running, BadGateway).value)

    def test_discovers_at_the_issuer(self) -> None:
        found = self.successResultOf(self.run_request(self.client.discover(PROVIDER)))
        self.assertEqual(found.token_endpoint, METADATA.token_endpoint)
        ((head, _),) = self.requests
        self.assertEqual((head.method, head.target), (b"GET", b"/.well-known/openid-configuration"))
        self.assertEqual(self.urls, [f"{ISSUER}.well-known/openid-configuration"])

    def test_sends_a_form_with_the_clients_credentials(self) -> None:
        request = refresh_request(OAuthClientId("desktop", "s"), METADATA.token_endpoint, "r")
        status, _ = self.successResultOf(self.run_request(self.client.post(request)))
        ((head, body),) = self.requests
        self.assertEqual((status, head.method, head.target), (200, b"POST", b"/token"))
        self.assertEqual(get_header(head.headers, b"host"), b"login.example")
        self.assertEqual(
            get_header(head.headers, b"content-type"), b"application/x-www-form-urlencoded"
        )
        self.assertEqual(get_header(head.headers, b"authorization"), b"Basic ZGVza3RvcDpz")
        self.assertIn(b"refresh_token=r", body)

    def test_a_public_client_sends_no_authorization(self) -> None:
        request = refresh_request(CLIENT, f"{METADATA.token_endpoint}?p=1", "r")
        self.successResultOf(self.run_request(self.client.post(request)))
        ((head, _),) = self.requests
        self.assertIsNone(get_header(head.headers, b"authorization"))
        self.assertEqual(head.target, b"/token?p=1")

    def test_follows_no_redirect(self) -> None:
        self.status, self.headers = 302, ((b"Location", b"https://evil.example/"),)
        self.assertIn("302", self.failure_of_discovery())
        self.assertEqual(len(self.requests), 1)

    def test_bounds_size_and_time_and_does_not_decompress(self) -> None:
        self.body = b" " * (MAX_DOCUMENT + 1)
        self.assertIn("exceeds", self.failure_of_discovery())
        self.body = gzip.compress(b" " * 1_000_000 + json.dumps(DOCUMENT).encode())
        self.headers = ((b"Content-Encoding", b"gzip"),)
        self.assertIn("not valid", self.failure_of_discovery())
        self.is_silent = True
        running = self.run_request(self.client.discover(PROVIDER))
        self.clock.advance(REQUEST_TIMEOUT)
        self.failureResultOf(running, BadGateway)
        self.served.flush()

    def test_an_error_of_the_connection_names_the_provider(self) -> None:
        self.served.refusal = OSError("no route")
        self.assertIn("https://login.example", self.failure_of_discovery())
