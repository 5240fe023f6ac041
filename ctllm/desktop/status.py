"""How everything is, for people: the IPC's status, out of the parts of the desktop."""

from __future__ import annotations

import os
from collections.abc import Callable

from ctllm import __version__
from ctllm.desktop.bridge import Bridge
from ctllm.desktop.broker.broker import Broker
from ctllm.desktop.cloud_session import CloudSession
from ctllm.desktop.connection_state import ConnectionStateMachine, State
from ctllm.desktop.ollama_monitor import OllamaMonitor
from ctllm.errors import CtllmError
from ctllm.ipc.messages import DesktopStatus, OllamaStatus, Status, Traffic

_CONNECTION = {
    State.SIGNED_OUT: "disconnected",
    State.CONNECTING: "disconnected",
    State.CONNECTED: "connected",
    State.DEGRADED: "connected",
    State.ERROR: "error",
}


class StatusReporter:
    """Makes the status. `endpoint` gives the address of this machine's apps, or nothing."""

    def __init__(
        self,
        name: str,
        session: CloudSession,
        standing: ConnectionStateMachine,
        ollama: OllamaMonitor,
        broker: Broker,
        bridge: Bridge,
        endpoint: Callable[[], str],
        started: float,
    ) -> None:
        self._name = name
        self._session = session
        self._standing = standing
        self._ollama = ollama
        self._broker = broker
        self._bridge = bridge
        self._endpoint = endpoint
        self._started = round(started, 3)
        self._desktop_id = session.credentials.desktop_id

    def status(self) -> Status:
        """How everything is now."""
        standing, broker = self._standing, self._broker
        user, cloud_url = self._who()
        connection = _CONNECTION[standing.state]
        signed_in = bool(cloud_url) and standing.state is not State.SIGNED_OUT
        return Status(
            authentication_state="authenticated" if signed_in else "unauthenticated",
            connection_status=connection,  # type: ignore[arg-type]
            state=standing.state.value,
            reason=standing.reason,
            user=user,
            cloud_url=cloud_url,
            desktop_id=self._desktop_id,
            desktop_name=self._name,
            ollama=self._ollama_status(),
            desktops=self._desktops(),
            desktops_error=broker.remote_desktops.error if signed_in else "",
            policy=broker.policy.value,
            route=broker.current_route.value,
            proxy="running" if connection == "connected" else "unknown",
            endpoint=self._endpoint(),
            last_error=standing.last_error,
            traffic=self._traffic(),
            version=__version__,
            pid=os.getpid(),
            started=self._started,
        )

    def _who(self) -> tuple[str, str]:
        try:
            sign_in = self._session.login
        except CtllmError:
            return "", ""
        return sign_in.user_name, sign_in.cloud_url

    def _ollama_status(self) -> OllamaStatus:
        ollama = self._ollama
        status = ollama.status
        url = ollama.current.url
        return OllamaStatus(url, status.ollama, status.version, status.models, ollama.loaded_models)

    def _desktops(self) -> tuple[DesktopStatus, ...]:
        return tuple(
            DesktopStatus(each.id, each.name, each.ollama, each.models, each.id == self._desktop_id)
            for each in self._broker.remote_desktops.desktops
        )

    def _traffic(self) -> Traffic:
        counts = self._broker.request_counts
        under_way, sent, received = self._bridge.traffic
        return Traffic(
            local=counts["local"],
            cloud=counts["cloud"],
            merged=counts["merged"],
            failovers=counts["failovers"],
            active_requests=self._broker.active_requests,
            bridge_active_requests=under_way,
            bridge_bytes_sent=sent,
            bridge_bytes_received=received,
        )
