"""What a brokered request has on its two sides: the broker's ways."""

from __future__ import annotations

from typing import Protocol

from ctllm.desktop.broker.routing_policy import Side
from ctllm.errors import CtllmError
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import Headers, RequestHead


class Ways(Protocol):
    """What a request needs of the broker."""

    async def open(self, side: Side, head: RequestHead, caller: ResponseSink) -> RequestSink:
        """Begin the exchange there; raises CtllmError."""

    def first(self, head: RequestHead, model: str | None) -> Side:
        """The side to ask first."""

    def second(self, tried: Side) -> Side | None:
        """The side to ask after that failed, or None."""

    def signed(self, side: Side, model: str | None) -> Headers:
        """What the answer says of who gave it."""

    def explained(self, head: RequestHead, error: CtllmError) -> CtllmError:
        """The error that is told of a request that failed with `error`."""

    def failed(self, side: Side) -> None:
        """A request that went there failed before it was answered."""

    def over(self, brokered: RequestSink) -> None:
        """There is nothing more to do."""
