"""`ctllm.cloud.refusals`: what is remembered of a refusal, and for how long."""

from __future__ import annotations

import weakref

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.refusals import LIFETIME, Refusal, Refusals
from ctllm.errors import Unauthorized
from ctllm.http.message.head import RequestHead


class _Request:
    """What handles a request."""


class RefusalsTests(SynchronousTestCase):
    """Refusals that clients fetch, or not."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.refusals = Refusals(self.clock.seconds)

    def take(self, ticket: bytes) -> Refusal | None:
        return self.refusals.take(RequestHead(b"GET", b"/", ((b"ctllm-refusal", ticket),)))

    def test_a_refusal_is_taken_once(self) -> None:
        refusal = Refusal(Unauthorized("Log in."), None)
        ticket = self.refusals.add(refusal)
        self.assertIs(self.take(ticket), refusal)
        self.assertIsNone(self.take(ticket))

    def test_refusals_that_nobody_fetches_are_forgotten(self) -> None:
        for _ in range(10):
            ticket = self.refusals.add(Refusal(Unauthorized("Log in."), None))
        self.clock.advance(LIFETIME)
        self.assertIsNone(self.take(ticket))
        self.refusals.add(Refusal(Unauthorized("Log in."), None))
        self.assertEqual(len(self.refusals), 1)

    def test_a_refusal_does_not_keep_its_request(self) -> None:
        self.assertIsNone(self.refuse()())

    def refuse(self) -> weakref.ref[_Request]:
        """Refuse a request, with an error that has a cause."""
        request = _Request()
        try:
            try:
                raise ValueError("It is damaged.")
            except ValueError as error:
                raise Unauthorized("Log in.") from error
        except Unauthorized as error:
            self.refusals.add(Refusal(error, None))
        return weakref.ref(request)
