"""Twisted's services with type annotations, which `twisted.application.service` lacks."""

from __future__ import annotations

from typing import Any

from twisted.application import service
from twisted.internet.defer import Deferred


class Service(service.Service):
    """A `twisted.application.service.Service` whose methods are typed."""

    def setServiceParent(self, parent: service.MultiService) -> None:
        """Add this service to `parent`, and start it if `parent` is running."""
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def privilegedStartService(self) -> None:
        """Do what needs the privileges that the process drops afterwards."""
        super().privilegedStartService()  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        """Start the service."""
        super().startService()  # type: ignore[no-untyped-call]

    def stopService(self) -> Deferred[Any] | None:
        """Stop the service; a Deferred fires when that is done."""
        return super().stopService()  # type: ignore[no-any-return, no-untyped-call]


class MultiService(service.MultiService, Service):
    """A `twisted.application.service.MultiService` whose methods are typed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def setServiceParent(self, parent: service.MultiService) -> None:
        """Add this service to `parent`, and start it if `parent` is running."""
        super().setServiceParent(parent)

    def privilegedStartService(self) -> None:
        """Do what needs the privileges that the process drops afterwards."""
        super().privilegedStartService()  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        """Start the service and its children."""
        super().startService()  # type: ignore[no-untyped-call]

    def stopService(self) -> Deferred[Any] | None:
        """Stop the service and its children; a Deferred fires when that is done."""
        return super().stopService()  # type: ignore[no-any-return, no-untyped-call]
