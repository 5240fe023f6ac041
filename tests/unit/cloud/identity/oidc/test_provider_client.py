"""`ctllm.cloud.identity.oidc.provider_client`: requests to a provider, which may be hostile."""

from __future__ import annotations

import gzip
import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.identity.oidc.metadata import PATH
from ctllm.cloud.identity.oidc.provider_client import (
    MAX_RESPONSE,
    METADATA_TTL,
    REQUEST_TIMEOUT,
    FetchedKeys,
    ProviderClient,
)
from ctllm.errors import BadGateway
from ctllm.http.message.head import get_header
from ctllm.http.server.request import ServerRequest
from tests.unit.cloud.identity.oidc.tokens import jwk, key_set, rsa_key
from tests.unit.fakes import ServedEndpoint

ISSUER = "https://login.example"
DOCUMENT = json.dumps({"issuer": ISSUER, "jwks_uri": "https://keys.example/keys?x=1"}).encode()
KEYS = key_set(jwk(rsa_key()))


class ClientCase(SynchronousTestCase):
    """A client of a provider whose responses (status, body, headers) a test sets by target."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.requests: list[Any] = []
        self.urls: list[str] = []
        self.is_silent = False
        self.responses: dict[str, tuple[Any, ...]] = {
            PATH: (200, DOCUMENT, ()),
            "/keys?x=1": (200, KEYS, ((b"ETag", b'"1"'),)),
        }
        self.served = ServedEndpoint(self.handle_request, self.clock)
        self.client = ProviderClient(ISSUER, self.clock, self.endpoint_for)

    def endpoint_for(self, url: str) -> Any:
        self.urls.append(url)
        return self.served

    async def handle_request(self, request: ServerRequest) -> None:
        self.requests.append(request.head)
        if self.is_silent:
            await Deferred()
        request.respond(*self.responses[request.head.target.decode()])

    def run_request(self, work: Any) -> Deferred[Any]:
        running = Deferred.fromCoroutine(work)
        for _ in range(3):
            self.served.flush()
        return running

    def fetched(self, known: FetchedKeys | None = None) -> FetchedKeys:
        found: FetchedKeys = self.successResultOf(self.run_request(self.client.fetch_keys(known)))
        return found

    def refused(self) -> str:
        running = self.run_request(self.client.fetch_keys(None))
        failure = self.failureResultOf(running, BadGateway)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return str(failure.value)


class FetchTests(ClientCase):
    def test_discovers_the_keys_at_the_issuer(self) -> None:
        found = self.fetched()
        self.assertEqual([key.id for key in found.keys], ["k1"])
        self.assertEqual(self.urls, [f"{ISSUER}{PATH}", "https://keys.example/keys?x=1"])
        discovery, keys = self.requests
        self.assertEqual(get_header(discovery.headers, b"host"), b"login.example")
        self.assertEqual(get_header(keys.headers, b"host"), b"keys.example")
        for head in self.requests:
            self.assertEqual(get_header(head.headers, b"accept-encoding"), b"identity")
            self.assertIsNone(get_header(head.headers, b"cookie"))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_asks_whether_the_keys_have_changed(self) -> None:
        found = self.fetched()
        self.responses["/keys?x=1"] = (304, None, ())
        self.assertIs(self.fetched(found), found)
        self.assertEqual(get_header(self.requests[-1].headers, b"if-none-match"), b'"1"')
        self.assertEqual(len(self.requests), 3)

    def test_reads_the_discovery_document_again_after_an_hour_and_after_a_failure(self) -> None:
        self.fetched()
        self.fetched()
        self.assertEqual(len(self.requests), 3)
        self.clock.advance(METADATA_TTL)
        self.fetched()
        self.assertEqual(len(self.requests), 5)
        self.responses["/keys?x=1"] = (404, None, ())
        self.assertIn("404", self.refused())
        moved = {"issuer": ISSUER, "jwks_uri": "https://keys.example/new"}
        self.responses[PATH] = (200, json.dumps(moved).encode(), ())
        self.responses["/new"] = (200, KEYS, ())
        self.assertEqual(self.fetched().entity_tag, b"")

    def test_knows_the_metadata_while_the_provider_is_down(self) -> None:
        """A failure of the keys alone must not keep anybody from logging in."""
        self.fetched()
        self.responses = dict.fromkeys(self.responses, (503, None, ()))
        self.assertIn("503", self.refused())
        self.assertIn("503", self.refused())
        known = self.successResultOf(self.run_request(self.client.metadata()))
        self.assertEqual(known.jwks_uri, "https://keys.example/keys?x=1")

    def test_sends_a_form_with_its_length(self) -> None:
        self.responses["/token"] = (400, b'{"error":"invalid_grant"}', ())
        url = "https://login.example/token"
        running = self.run_request(self.client.request("POST", url, (), b"a=b"))
        head, body = self.successResultOf(running)
        self.assertEqual((head.status, body), (400, b'{"error":"invalid_grant"}'))
        self.assertEqual(get_header(self.requests[-1].headers, b"content-length"), b"3")


class HostileProviderTests(ClientCase):
    def test_refuses_other_statuses_and_redirects(self) -> None:
        for status in (204, 301, 302, 304, 307, 401, 429, 500):
            headers = ((b"Location", b"https://evil.example/"),)
            self.responses[PATH] = (status, None, headers)
            self.assertIn(str(status), self.refused())
        self.assertEqual(set(self.urls), {f"{ISSUER}{PATH}"})

    def test_refuses_keys_that_have_not_changed_without_having_any(self) -> None:
        self.responses["/keys?x=1"] = (304, None, ())
        self.assertIn("304", self.refused())

    def test_refuses_a_large_response(self) -> None:
        self.responses["/keys?x=1"] = (200, b" " * (MAX_RESPONSE + 1), ())
        self.assertIn("exceeds", self.refused())

    def test_does_not_decompress(self) -> None:
        body = gzip.compress(DOCUMENT)
        self.responses[PATH] = (200, body, ((b"Content-Encoding", b"gzip"),))
        self.assertIn("another coding", self.refused())

    def test_refuses_html_and_the_document_of_another_issuer(self) -> None:
        self.responses[PATH] = (200, b"<html>", ())
        self.refused()
        other = {"issuer": "https://evil.example", "jwks_uri": "https://keys.example/keys"}
        self.responses[PATH] = (200, json.dumps(other).encode(), ())
        self.assertIn("another issuer", self.refused())
        self.assertEqual(set(self.urls), {f"{ISSUER}{PATH}"})

    def test_a_silent_provider_times_out(self) -> None:
        self.is_silent = True
        running = self.run_request(self.client.fetch_keys(None))
        self.clock.advance(REQUEST_TIMEOUT)
        self.failureResultOf(running, BadGateway)

    def test_cancelling_closes_the_connection(self) -> None:
        self.is_silent = True
        running = self.run_request(self.client.fetch_keys(None))
        running.cancel()
        self.failureResultOf(running)
        self.served.flush()
        self.assertTrue(all(pump.clientIO.disconnected for pump in self.served.pumps))

    def test_an_unreachable_provider_is_named(self) -> None:
        self.served.refusal = OSError("no route")
        self.assertIn("login.example", self.refused())
