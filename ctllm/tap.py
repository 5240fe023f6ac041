"""The composition root: the services of each role of `twistd ctllm`.

No other module imports the reactor; the others get it as an argument.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.main import installReactor
from twisted.logger import ILogObserver, globalLogBeginner
from twisted.python import usage

from ctllm.auth.jws import encode_base64url
from ctllm.config import Config, resolve_ollama_url
from ctllm.errors import CtllmError
from ctllm.fastpath.epoll_reactor import MonotonicReactor
from ctllm.lazy_imports import LAZY_MODULES, UNUSED_MODULES, install
from ctllm.log_observers import (
    LogObserver,
    TwistdOptions,
    make_json_observer,
    make_text_observer,
)
from ctllm.proxy_args import ProxyArguments
from ctllm.reactor.endpoints import TcpServerEndpoint, UnixServerEndpoint
from ctllm.reactor.exit_signal import ExitSignal
from ctllm.reactor.interfaces import ServerEndpoint
from ctllm.reactor.services import MultiService
from ctllm.system.sandbox import forbid_core_dumps
from ctllm.tap_options import Options

if TYPE_CHECKING:
    from ctllm.cloud.service import CloudService
    from ctllm.desktop.service import DesktopService

__all__ = ["Options", "makeService", "run"]

#: After how many new objects a cloud collects garbage (Python: 700, 10, 10). Collections took a
#: seventh of the time of a thousand requests that came at once.
#:
#: A connection that has closed is a cycle of some 60 objects and 6 kB. If it lasted, it is in an
#: older generation by then. So these are collected soon, too, which costs no more: with
#: (20_000, 20, 20), the garbage of relayed responses of some seconds grew to 400,000 objects.
GC_THRESHOLDS = (20_000, 2, 2)
#: Bytes that twistd's first process reads from the daemon's status pipe.
_MAX_STATUS_BYTES = 100


class RoleService(MultiService):
    """All services of a role. An error at start exits with its message, without a traceback.

    Args:
        observer: The log observer; None leaves the log to twistd.
        twistd: The options of twistd itself.

    """

    def __init__(self, observer: LogObserver | None, twistd: TwistdOptions) -> None:
        super().__init__()
        self.observer = observer
        self._twistd = twistd

    def setServiceParent(self, parent: Any) -> None:
        """Add this service to twistd's application and set the application's log observer."""
        if self.observer is not None:
            parent.setComponent(ILogObserver, self.observer)
        super().setServiceParent(parent)

    def privilegedStartService(self) -> None:
        """Listen, with the privileges of the user who started the process."""
        try:
            super().privilegedStartService()
        except CtllmError as error:
            raise self._exit(error.message) from None

    def startService(self) -> None:
        """Start, with the privileges of the configured user."""
        try:
            super().startService()
        except CtllmError as error:
            raise self._exit(error.message) from None

    def _exit(self, message: str) -> SystemExit:
        """Do what twistd does for an exception, except for the traceback."""
        pipe, pid_file = self._twistd.get("statusPipe"), self._twistd.get("pidfile")
        if pipe is not None:  # a daemon: the first process waits for the status
            os.write(pipe, f"1 {message}".encode("ascii", "replace")[:_MAX_STATUS_BYTES])
        if pid_file:
            with suppress(OSError):
                os.unlink(pid_file)
        return SystemExit(f"ctllm: {message}")


def makeService(options: Options) -> RoleService:
    """Return the services of the role in `options`."""
    reactor = installed_reactor()
    config = options.configuration()
    _raise_file_limit()
    forbid_core_dumps()
    twistd: TwistdOptions = options.parent or {}
    is_json = config.log_format == "json"
    observer = make_json_observer(twistd) if is_json else make_text_observer(twistd, reactor)
    role = RoleService(observer, twistd)
    if options.role == "proxy":
        _make_proxy(reactor, config, options.proxy_arguments()).setServiceParent(role)
    elif options.role == "cloud":
        _make_cloud(reactor, config).setServiceParent(role)
        reactor.callWhenRunning(_collect_garbage_less_often)
    elif options.role == "desktop":
        _make_desktop(reactor, config).setServiceParent(role)
    else:
        _add_all(reactor, config, role)
    return role


def run(arguments: Sequence[str]) -> None:
    """Run `twistd -n --logfile=- --rundir=/ ctllm` with `arguments`, but without twistd.

    Most modules that twistd imports are for options that are not used here.
    """
    reactor = installed_reactor()
    role = makeService(_parse_options(arguments))
    globalLogBeginner.beginLoggingTo([cast("ILogObserver", role.observer)])
    os.chdir("/")
    role.privilegedStartService()
    role.startService()
    reactor.addSystemEventTrigger("before", "shutdown", role.stopService)
    _freeze_objects()
    exit_signal = ExitSignal(reactor)
    reactor.run()
    exit_signal.raise_again()


def _freeze_objects() -> None:
    """Exclude from collections what lives as long as the process."""
    gc.collect()
    gc.freeze()


def _collect_garbage_less_often() -> None:
    """Keep a thousand requests that come at once from being examined again and again."""
    _freeze_objects()
    gc.set_threshold(*GC_THRESHOLDS)


def installed_reactor() -> Any:
    """Return the reactor of the process: a `MonotonicReactor`, or what twistd --reactor chose."""
    if "twisted.internet.reactor" not in sys.modules:
        installReactor(MonotonicReactor())  # type: ignore[no-untyped-call]
    from twisted.internet import reactor

    return reactor


class _Parent(usage.Options):
    """What twistd's options are for those of a role, also in their help."""

    synopsis, subCommand = "Usage: python -m", "ctllm"


def _parse_options(arguments: Sequence[str]) -> Options:
    options, parent = Options(), _Parent()  # type: ignore[no-untyped-call]
    parent.update(nodaemon=True, logfile="-")
    options.parent = parent
    try:
        options.parseOptions(arguments)
    except usage.UsageError as error:
        raise SystemExit(f"ctllm: {error}") from error
    return options


def _raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard limit: each stream takes two sockets."""
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS refuses its own "unlimited"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _make_proxy(reactor: Any, config: Config, arguments: ProxyArguments) -> MultiService:
    from ctllm.proxy.service import create_proxy_service

    endpoint: ServerEndpoint
    if arguments.port is not None:
        endpoint = TcpServerEndpoint(reactor, arguments.port, arguments.host)
    else:
        # Group: in a container, the cloud connects as a member of the proxy's group. Others cannot
        # enter the directory, which is new and has only the socket.
        endpoint = UnixServerEndpoint(reactor, str(arguments.socket), 0o660)
    key = encode_base64url(arguments.cloud_key)
    return create_proxy_service(
        reactor,
        config.proxy,
        endpoint=endpoint,
        id=arguments.id,
        cloud_key=key,
        is_waiting=arguments.is_waiting,
        uid=arguments.uid,
    )


def _make_cloud(reactor: Any, config: Config) -> CloudService:
    from ctllm.cloud.service import CloudService

    return CloudService(reactor, config.cloud, config.proxy, Path(config.state_dir))


def _make_desktop(reactor: Any, config: Config) -> DesktopService:
    os.environ.setdefault("AUTOBAHN_USE_NVX", "0")  # only its masking in C is used: see fastpath
    install(UNUSED_MODULES, LAZY_MODULES)  # late: twistd has imported some of them
    from ctllm.desktop.service import DesktopService

    state = Path(config.state_dir)
    url = resolve_ollama_url(config.desktop.ollama_host, os.environ, config.own_addresses)
    return DesktopService(reactor, config.desktop, config.proxy, state, os.environ, url)


def _add_all(reactor: Any, config: Config, role: MultiService) -> None:
    from ctllm.quickstart import Quickstart

    cloud, desktop = _make_cloud(reactor, config), _make_desktop(reactor, config)
    if config.desktop.demo == "auto":
        desktop.add_demo()
    cloud.setServiceParent(role)
    desktop.setServiceParent(role)
    Quickstart(reactor, cloud, desktop).setServiceParent(role)
