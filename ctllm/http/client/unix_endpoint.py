"""A client endpoint for UNIX sockets that checks which process listens before it sends data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Factory, Protocol

from ctllm.http.splice import replace_protocol
from ctllm.reactor.endpoints import unix_client_endpoint
from ctllm.system.unix_sockets import NotASocket, PeerCredentials, peer_credentials, pinned_path

_placeholder_factory = Factory.forProtocol(Protocol)
_placeholder_factory.noisy = False


class UnexpectedPeer(Exception):
    """Another process listens than the expected one, or the path is not a socket."""


class VerifiedUNIXEndpoint:
    """An IStreamClientEndpoint for the socket at `path`, if `accepts_peer` accepts its listener.

    Otherwise connecting fails with UnexpectedPeer, and `on_refused` is called with the reason.
    Where the system does not report the listener's credentials (not Linux), every listener is
    accepted.
    """

    def __init__(
        self,
        reactor: object,
        path: str,
        accepts_peer: Callable[[PeerCredentials], bool],
        on_refused: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._accepts_peer = accepts_peer
        self._on_refused = on_refused

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        """Connect; fires with the protocol of `factory`, built after the check."""
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: IProtocolFactory) -> object:
        try:
            with pinned_path(self._path) as path:
                # The path is needed until the connection is made, which may take several turns.
                placeholder = await unix_client_endpoint(self._reactor, path).connect(
                    _placeholder_factory
                )
        except NotASocket as error:
            raise self._refuse(str(error)) from error
        except ConnectingCancelledError as error:  # whoever cancels expects Twisted's usual error
            raise CancelledError from error
        transport = placeholder.transport
        peer = peer_credentials(transport.getHandle())
        if peer is not None and not self._accepts_peer(peer):
            transport.abortConnection()
            raise self._refuse(f"process {peer.pid} of user {peer.uid} listens at {self._path}")
        protocol = factory.buildProtocol(transport.getPeer())
        assert isinstance(protocol, Protocol)
        replace_protocol(transport, protocol)
        return protocol

    def _refuse(self, reason: str) -> UnexpectedPeer:
        self._on_refused(reason)
        return UnexpectedPeer(reason)
