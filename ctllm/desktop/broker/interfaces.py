"""What a brokered request has on its two sides: the broker's ways."""

from __future__ import annotations

from typing import Protocol

from ctllm.desktop.broker.routing_policy import Route
from ctllm.errors import CtllmError
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import Headers, RequestHead


class RequestRoutes(Protocol):
    """What a request needs of the broker."""

    async def start_request(
        self, route: Route, head: RequestHead, sink: ResponseSink
    ) -> RequestSink:
        """Begin the exchange there; raises CtllmError."""

    def choose_route(self, head: RequestHead, model: str | None) -> Route:
        """The side to ask first."""

    def failover_route(self, failed: Route) -> Route | None:
        """The side to ask after that failed, or None."""

    def response_headers(self, route: Route, model: str | None) -> Headers:
        """What the answer says of who gave it."""

    def explain_error(self, head: RequestHead, error: CtllmError) -> CtllmError:
        """The error that is told of a request that failed with `error`."""

    def route_failed(self, route: Route) -> None:
        """A request that went there failed before it was answered."""

    def request_finished(self, request: RequestSink) -> None:
        """There is nothing more to do."""
