"""The bridge: keeps the tunnel to the cloud connected."""

from __future__ import annotations

import random
from collections.abc import Callable
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ctllm.common.sanitize import MAX_LOGGED_CHARS, sanitize_line
from ctllm.desktop.bridge_connection import BridgeConnection, TokenProvider
from ctllm.desktop.bridge_state import TRANSITIONS, BridgeInputs, BridgeState
from ctllm.desktop.reconnect_backoff import reconnect_delay
from ctllm.desktop.state_machine import build_machine
from ctllm.errors import CtllmError, DesktopLost, Unauthorized
from ctllm.http.client.proxy_environment import is_loopback
from ctllm.ipc.messages import ConnectionState
from ctllm.reactor.interfaces import Clock, Endpoint, Timer
from ctllm.reactor.periodic import PeriodicCall
from ctllm.reactor.services import Service
from ctllm.tunnel.frames import Reason
from ctllm.tunnel.responder import Responder

#: Seconds between two checks of whether somebody logged in or out.
LOGIN_POLL_INTERVAL = 0.5
#: Seconds after which a login that the cloud rejected is tried again.
REJECTED_LOGIN_RETRY = 60.0
#: Seconds after which a connection counts as stable, also where the proxy ended it with a BYE.
STABLE_AFTER = 30.0

Observer = Callable[[ConnectionState, str], None]


class Bridge(Service):
    """Connects the tunnel, and connects it again when the connection is lost.

    `state` and `reason` are for people; the states that the bridge goes through are in
    `bridge_state`. `endpoint_for` returns the endpoint of a cloud's URL. `ping` is the interval and
    the timeout of keep-alive pings.
    """

    _log = Logger()

    def __init__(
        self,
        tunnel: Responder,
        session: TokenProvider,
        clock: Clock,
        ping: tuple[float, float],
        endpoint_for: Callable[[str], Endpoint],
        *,
        login_poll_interval: float = LOGIN_POLL_INTERVAL,
        rejected_login_retry: float = REJECTED_LOGIN_RETRY,
        stable_after: float = STABLE_AFTER,
    ) -> None:
        self.state = ConnectionState.LOGGED_OUT
        self.reason = ""
        self.peer_host = ""  # the IP address of the cloud, once there was a connection
        self._tunnel = tunnel
        tunnel.add_established_observer(self._tunnel_greeted)
        tunnel.add_bye_observer(self._bye_received)
        self._session = session
        self._clock = clock
        self._ping = ping
        self._endpoint_for = endpoint_for
        self._login_poll_interval = login_poll_interval
        self._rejected_login_retry = rejected_login_retry
        self._stable_after = stable_after
        self._observers: list[Observer] = []
        self._machine: BridgeInputs = _build(self)
        self._connection: BridgeConnection | None = None
        self._failures = 0  # attempts that failed in a row
        self._retry_timer: Timer | None = None
        self._rejected_version = 0  # of the credentials that the cloud rejected
        self._login_retry_at = 0.0
        self._bytes_sent = self._bytes_received = 0  # on connections that are closed
        self._unencrypted_url = ""  # for which the warning is logged
        self._stopped: Deferred[None] = Deferred()
        self._poller = PeriodicCall(self._poll, clock, "watching the tunnel and the login")

    def add_observer(self, observer: Observer) -> None:
        """Call `observer` with state and reason after each change."""
        self._observers.append(observer)

    def startService(self) -> None:
        """Connect, and stay connected."""
        super().startService()
        self._machine.start()
        self._poller.start(self._login_poll_interval)

    def stopService(self) -> Deferred[None]:
        """End the requests with an error and close the connection; fires when it is closed."""
        super().stopService()
        self._poller.stop()
        self._stopped = Deferred()
        self._machine.stop()
        return self._stopped

    def reconnect_now(self, why: str) -> None:
        """Make a new connection at once; the requests in progress go on over it.

        For when the network has changed or the machine has slept: connections and delays from
        before are of no use. Ignored while there is no login.
        """
        self._log.info("Cloud connection: reconnecting, because {why}", why=why)
        self._machine.reconnect()

    @property
    def traffic(self) -> tuple[int, int, int]:
        """Requests in progress, and the bytes sent and received since the start."""
        sent, received = self._bytes_sent, self._bytes_received
        if self._connection is not None:
            more_sent, more_received = self._connection.bytes_transferred
            sent, received = sent + more_sent, received + more_received
        return len(self._tunnel.streams), sent, received

    def check_login(self) -> None:
        """Raise DesktopLost if the tunnel is that of another login than the present one.

        It is closed then, at the next poll; until then its clients may be another user's.
        """
        if self._has_login_changed():
            raise DesktopLost("Somebody has logged in or out on this desktop. Try again.")

    def _poll(self) -> None:
        self._tunnel.remove_expired(self._clock.seconds())
        if self._has_login_changed():
            self._machine.login_changed()

    def _has_login_changed(self) -> bool:
        """Whether `ctllm login` or `ctllm logout`, in another process, has changed the login."""
        if self.state is ConnectionState.LOGGED_OUT:
            return self._can_try_login()
        if self._connection is None or self._connection.login is None:
            return False
        try:
            return self._session.login != self._connection.login
        except Unauthorized:
            return True
        except CtllmError:
            return False  # a file that cannot be read now logs nobody out

    def _can_try_login(self) -> bool:
        """Whether there is another login, or another reason why there is none.

        A login that the cloud rejected, but did not end, is tried again after some time.
        """
        version = self._session.credentials_version()
        if version == self._rejected_version and self._clock.seconds() < self._login_retry_at:
            return False
        try:
            self._session.login  # noqa: B018
        except Unauthorized as error:
            self._rejected_version = version
            return error.message != self.reason
        except CtllmError:
            return False  # a file that cannot be read now is no login
        return True

    # -- events of the tunnel

    def _tunnel_greeted(self) -> None:
        self._machine.greeted()

    def _bye_received(self, reason: Reason) -> None:
        if self._connection is not None:
            self._connection.bye_message = sanitize_line(reason.message, MAX_LOGGED_CHARS)

    # -- actions of the state machine

    def _connect(self) -> None:
        self._report(ConnectionState.CONNECTING)
        self._connection = BridgeConnection(
            self._tunnel,
            self._session,
            self._clock,
            self._ping,
            self._endpoint_for,
            self._machine,
        )
        self._connection.connect()

    def _connect_at_once(self, error: CtllmError | None = None) -> None:
        self._drop_attempt()
        self._failures = 0
        self._connect()

    def _connect_with_other_login(self) -> None:
        """Give up an attempt, which may wait for more than a minute, and what waits for it."""
        self._tunnel.fail_all(DesktopLost("The desktop was logged out."))
        self._connect_at_once()

    def _greet(self) -> None:
        assert self._connection is not None
        self.peer_host = self._connection.peer_host
        self._tunnel.connection_made()

    def _report_connected(self) -> None:
        self._warn_if_unencrypted()
        self._report(ConnectionState.CONNECTED)

    def _retry_after_failure(self, error: CtllmError) -> None:
        self._failures += 1
        self._schedule_retry(error)

    def _retry_after_loss(self, error: CtllmError) -> None:
        """Retry soon where the network cut the connection, however often it does.

        A proxy that ended it with a BYE may do so again at once, unless it was stable.
        """
        assert self._connection is not None
        age = self._clock.seconds() - self._connection.started_at
        if not self._connection.bye_message or age > self._stable_after:
            self._failures = 0
        else:
            self._failures += 1
        self._schedule_retry(error)

    def _schedule_retry(self, error: CtllmError) -> None:
        self._end_connection()
        self._report(ConnectionState.ERROR, error.message)
        delay = reconnect_delay(
            self._failures, random.random, bool(self._tunnel.streams), error.retry_after
        )
        self._retry_timer = self._clock.callLater(delay, self._machine.retry)

    def _await_login(self, error: CtllmError) -> None:
        assert self._connection is not None
        self._rejected_version = self._connection.credentials_version
        self._login_retry_at = self._clock.seconds() + self._rejected_login_retry
        self._end_connection()
        # Nobody can resume these requests: the next login may be another user's.
        self._tunnel.fail_all(DesktopLost("The desktop was logged out."))
        self._report(ConnectionState.LOGGED_OUT, error.message)

    def _close_after_logout(self) -> None:
        assert self._connection is not None
        self._tunnel.reset_all(DesktopLost("The desktop was logged out."))
        self._connection.close()

    def _abort_connection(self) -> None:
        assert self._connection is not None
        self._connection.abort()

    def _close_to_stop(self) -> None:
        assert self._connection is not None
        self._tunnel.reset_all(DesktopLost("The desktop was stopped."))
        self._connection.close()

    def _stop_at_once(self) -> None:
        self._drop_attempt()
        self._tunnel.reset_all(DesktopLost("The desktop was stopped."))
        self._stopped.callback(None)

    def _finish_stop(self, error: CtllmError) -> None:
        self._end_connection()
        self._stopped.callback(None)

    def _drop_attempt(self) -> None:
        if self._retry_timer is not None and self._retry_timer.active():
            self._retry_timer.cancel()
        if self._connection is not None and not self._connection.is_open:
            self._connection.cancel()
        self._end_connection()

    def _end_connection(self) -> None:
        if self._connection is not None:
            sent, received = self._connection.bytes_transferred
            self._bytes_sent += sent
            self._bytes_received += received
            self._connection = None

    def _warn_if_unencrypted(self) -> None:
        assert self._connection is not None and self._connection.login is not None
        url = self._connection.login.cloud_url
        parts = urlsplit(url)
        if parts.scheme != "http" or is_loopback(parts.hostname or ""):
            return
        if url != self._unencrypted_url:
            self._unencrypted_url = url
            self._log.warn(
                "The connection to {url} is not encrypted: others on the network can read it",
                url=url,
            )

    def _report(self, state: ConnectionState, reason: str = "") -> None:
        if (state, reason) == (self.state, self.reason):
            return
        if state is not ConnectionState.CONNECTING:
            self._log.info(
                "Cloud connection: {state}{reason}",
                state=state.label.lower(),
                reason=f": {reason}" if reason else "",
            )
        self.state, self.reason = state, reason
        for observer in self._observers:
            try:
                observer(state, reason)
            except Exception:
                self._log.failure("An observer of the bridge failed")


_ACTIONS: dict[tuple[BridgeState, str], Callable[..., None]] = {
    (BridgeState.STOPPED, "start"): Bridge._connect,
    (BridgeState.STOPPED, "stop"): Bridge._stop_at_once,
    (BridgeState.CONNECTING, "opened"): Bridge._greet,
    (BridgeState.CONNECTING, "failed"): Bridge._retry_after_failure,
    (BridgeState.CONNECTING, "unauthorized"): Bridge._await_login,
    (BridgeState.CONNECTING, "login_changed"): Bridge._connect_with_other_login,
    (BridgeState.CONNECTING, "reconnect"): Bridge._connect_at_once,
    (BridgeState.CONNECTING, "stop"): Bridge._stop_at_once,
    (BridgeState.GREETING, "greeted"): Bridge._report_connected,
    (BridgeState.GREETING, "failed"): Bridge._retry_after_failure,
    (BridgeState.GREETING, "login_changed"): Bridge._close_after_logout,
    (BridgeState.GREETING, "reconnect"): Bridge._abort_connection,
    (BridgeState.GREETING, "stop"): Bridge._close_to_stop,
    (BridgeState.CONNECTED, "failed"): Bridge._retry_after_loss,
    (BridgeState.CONNECTED, "login_changed"): Bridge._close_after_logout,
    (BridgeState.CONNECTED, "reconnect"): Bridge._abort_connection,
    (BridgeState.CONNECTED, "stop"): Bridge._close_to_stop,
    (BridgeState.CLOSING, "failed"): Bridge._connect_at_once,
    (BridgeState.CLOSING, "reconnect"): Bridge._abort_connection,
    (BridgeState.CLOSING, "stop"): Bridge._close_to_stop,
    (BridgeState.WAITING, "retry"): Bridge._connect,
    (BridgeState.WAITING, "reconnect"): Bridge._connect_at_once,
    (BridgeState.WAITING, "stop"): Bridge._stop_at_once,
    (BridgeState.LOGGED_OUT, "login_changed"): Bridge._connect,
    (BridgeState.LOGGED_OUT, "stop"): Bridge._stop_at_once,
    (BridgeState.STOPPING, "failed"): Bridge._finish_stop,
}

_build = build_machine(
    BridgeInputs,  # type: ignore[type-abstract]
    Bridge,
    TRANSITIONS,
    lambda state, name, new_state: _ACTIONS[state, name],
)
