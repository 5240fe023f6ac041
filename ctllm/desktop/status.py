"""The status that the IPC sends, collected from the parts of the desktop."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Literal

from ctllm import __version__
from ctllm.desktop.bridge import Bridge
from ctllm.desktop.broker.broker import Broker
from ctllm.desktop.cloud_session import CloudSession
from ctllm.desktop.connection_state import ConnectionStateMachine
from ctllm.desktop.ollama_monitor import OllamaMonitor
from ctllm.errors import CtllmError
from ctllm.ipc.messages import ConnectionState, DesktopStatus, OllamaStatus, Status, Traffic


class StatusReporter:
    """Collects the status.

    `running_generations` returns how many generations run. `endpoint_address` returns the address
    of the endpoint for this machine's apps, or an empty string. `started` is in epoch seconds.
    """

    def __init__(
        self,
        name: str,
        session: CloudSession,
        connection: ConnectionStateMachine,
        ollama: OllamaMonitor,
        broker: Broker,
        bridge: Bridge,
        running_generations: Callable[[], int],
        endpoint_address: Callable[[], str],
        started: float,
    ) -> None:
        self._name = name
        self._session = session
        self._connection = connection
        self._ollama = ollama
        self._broker = broker
        self._bridge = bridge
        self._running_generations = running_generations
        self._endpoint_address = endpoint_address
        self._started = round(started, 3)
        self._desktop_id = session.credentials.desktop_id

    def status(self) -> Status:
        """Return the current status."""
        connection, broker = self._connection, self._broker
        user, cloud_url = self._login()
        is_logged_in = bool(cloud_url) and connection.state is not ConnectionState.LOGGED_OUT
        return Status(
            authentication_state="authenticated" if is_logged_in else "unauthenticated",
            connection_status=_connection_status(connection.state),
            state=connection.state,
            reason=connection.reason,
            user=user,
            cloud_url=cloud_url,
            desktop_id=self._desktop_id,
            desktop_name=self._name,
            ollama=self._ollama_status(),
            desktops=self._desktops(),
            desktops_error=broker.remote_desktops.error if is_logged_in else "",
            policy=broker.policy.value,
            route=broker.current_route.value,
            proxy="running" if connection.state.is_connected else "unknown",
            endpoint=self._endpoint_address(),
            last_error=connection.last_error,
            traffic=self._traffic(),
            version=__version__,
            pid=os.getpid(),
            started=self._started,
            token_location=self._session.logins.description(self._session.credentials),
        )

    def describe_desktop(self) -> dict[str, object]:
        """Return the JSON of this desktop as the cloud lists it, for the page of this machine."""
        status = self._ollama.status
        return {
            "id": self._desktop_id,
            "name": self._name,
            "connected": True,
            "since": round(max(0.0, time.time() - self._started), 1),
            "ollama": status.ollama,
            "version": status.version,
            "models": status.models,
            "exchanges": self._broker.active_requests,
            "resources": True,
            "latency_ms": None,
        }

    def _login(self) -> tuple[str, str]:
        try:
            login = self._session.login
        except CtllmError:
            return "", ""
        return login.user_name, login.cloud_url

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
        bridge_requests, sent, received = self._bridge.traffic
        return Traffic(
            local=counts["local"],
            cloud=counts["cloud"],
            merged=counts["merged"],
            failovers=counts["failovers"],
            active_requests=self._broker.active_requests,
            bridge_active_requests=bridge_requests,
            bridge_bytes_sent=sent,
            bridge_bytes_received=received,
            running_generations=self._running_generations(),
        )


def _connection_status(state: ConnectionState) -> Literal["connected", "disconnected", "error"]:
    if state.is_connected:
        return "connected"
    return "error" if state is ConnectionState.ERROR else "disconnected"
