"""Connections to UNIX sockets: who listens is checked before a byte is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol

from ctllm.http.splice import replace_protocol
from ctllm.reactor.endpoints import unix_client_endpoint
from ctllm.system.unix_sockets import NotASocket, PeerCredentials, peer_credentials, pinned_path

_placeholder_factory = Factory.forProtocol(Protocol)
_placeholder_factory.noisy = False


class UnexpectedPeer(Exception):
    """Somebody else listens than who should, or what has the socket's name is no socket."""


class VerifiedUNIXEndpoint:
    """Connects to the socket at `path` if it is one, and `accepts` says so of who listens there.

    Else the connection fails with WrongPeer, and `refused` hears why. Where the system does not
    tell who listens (not Linux), nobody is asked.
    """

    def __init__(
        self,
        reactor: Any,
        path: str,
        accepts_peer: Callable[[PeerCredentials], bool],
        on_refused: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._reactor, self._path, self._accepts_peer, self._on_refused = (
            reactor,
            path,
            accepts_peer,
            on_refused,
        )

    def connect(self, factory: Any) -> Deferred[Any]:
        """Connect; fires with the protocol of `factory`, which exists only once all is checked."""
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: Any) -> Any:
        try:
            with pinned_path(self._path) as path:
                # Until the connection is made: that takes several turns when many want one.
                silent = await unix_client_endpoint(self._reactor, path).connect(
                    _placeholder_factory
                )
        except NotASocket as error:
            raise self._refuse(str(error)) from error
        transport = silent.transport
        peer = peer_credentials(transport.getHandle())
        if peer is not None and not self._accepts_peer(peer):
            transport.abortConnection()
            raise self._refuse(f"process {peer.pid} of user {peer.uid} listens at {self._path}")
        protocol = factory.buildProtocol(transport.getPeer())
        replace_protocol(transport, protocol)
        return protocol

    def _refuse(self, reason: str) -> UnexpectedPeer:
        self._on_refused(reason)
        return UnexpectedPeer(reason)
