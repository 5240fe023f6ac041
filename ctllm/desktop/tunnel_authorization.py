"""Renews the authorization of a connected tunnel in band, before it expires.

The proxy closes a tunnel whose desktop has not proved for some minutes that its session is still
active. So the desktop fetches a session assertion from the cloud and sends it through the tunnel.
"""

from __future__ import annotations

from twisted.logger import Logger

from ctllm.desktop.cloud_session import CloudSession
from ctllm.errors import CtllmError
from ctllm.reactor.interfaces import Clock
from ctllm.reactor.periodic import PeriodicCall
from ctllm.reactor.services import Service
from ctllm.tunnel.responder import Responder

#: Seconds between two renewals. Assertions are valid for at least twice as long.
RENEWAL_INTERVAL = 60.0


class TunnelAuthorization(Service):
    """Renews the authorization of `tunnel` every `interval` seconds while it is connected."""

    _log = Logger()

    def __init__(
        self,
        tunnel: Responder,
        session: CloudSession,
        clock: Clock,
        *,
        interval: float = RENEWAL_INTERVAL,
    ) -> None:
        self._tunnel = tunnel
        self._session = session
        self._interval = interval
        self._renewals = PeriodicCall(self.renew, clock, "renewing the tunnel's authorization")

    def startService(self) -> None:
        """Start the renewals."""
        super().startService()
        self._renewals.start(self._interval, now=False)

    def stopService(self) -> None:
        """Stop the renewals."""
        super().stopService()
        self._renewals.stop()

    async def renew(self) -> None:
        """Renew now, if the connected proxy accepts that. A failure is tried again later."""
        if not self._tunnel.accepts_authorization:
            return
        try:
            token = await self._session.access_token()
            assertion = await self._session.client().authorize_tunnel(token)
        except CtllmError as error:
            self._log.info(
                "Cannot renew the authorization of the tunnel: {error}", error=error.message
            )
        else:
            self._tunnel.send_authorization(assertion)
