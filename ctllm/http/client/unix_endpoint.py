"""Connections to UNIX sockets: who listens is checked before a byte is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.protocol import Factory, Protocol

from ctllm.http.splice import hand_over
from ctllm.system.unix_sockets import Credentials, NotASocket, peer_credentials, pinned

_silent = Factory.forProtocol(Protocol)
_silent.noisy = False


class WrongPeer(Exception):
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
        accepts: Callable[[Credentials], bool],
        refused: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._reactor, self._path, self._accepts, self._refused = reactor, path, accepts, refused

    def connect(self, factory: Any) -> Deferred[Any]:
        """Connect; fires with the protocol of `factory`, which exists only once all is checked."""
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: Any) -> Any:
        try:
            with pinned(self._path) as path:
                # Until the connection is made: that takes several turns when many want one.
                silent = await UNIXClientEndpoint(self._reactor, path).connect(_silent)
        except NotASocket as error:
            raise self._wrong(str(error)) from error
        transport = silent.transport
        peer = peer_credentials(transport.getHandle())
        if peer is not None and not self._accepts(peer):
            transport.abortConnection()
            raise self._wrong(f"process {peer.pid} of user {peer.uid} listens at {self._path}")
        protocol = factory.buildProtocol(transport.getPeer())
        hand_over(transport, protocol)
        return protocol

    def _wrong(self, reason: str) -> WrongPeer:
        self._refused(reason)
        return WrongPeer(reason)
