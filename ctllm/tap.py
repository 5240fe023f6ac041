"""The composition root: which services each place of `twistd ctllm` is made of.

The one module that names the reactor; everything else is handed what it needs.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet.main import installReactor
from twisted.logger import ILogObserver, globalLogBeginner
from twisted.python import usage

from ctllm.auth.jws import encode_base64url
from ctllm.config import Config
from ctllm.errors import CtllmError
from ctllm.fastpath.epoll_reactor import MonotonicReactor
from ctllm.lazy_imports import LAZY_WAMP, install
from ctllm.log_observers import make_json_observer, make_text_observer
from ctllm.proxy_args import ProxyArguments
from ctllm.reactor.exit_signal import ExitSignal
from ctllm.reactor.services import MultiService
from ctllm.tap_options import Options

__all__ = ["Options", "makeService", "run"]

#: Bytes of news that a daemon's first process reads.
_MAX_STATUS_BYTES = 100


class RoleService(MultiService):
    """A place as a whole. A start that cannot be ends with a sentence instead of a traceback.

    `observer` is where the log goes, if not where twistd puts it; `twistd` are its own options.
    """

    def __init__(self, observer: Any, twistd: Mapping[str, Any]) -> None:
        super().__init__()
        self.observer = observer
        self._twistd = twistd

    def setServiceParent(self, parent: Any) -> None:
        """Join twistd's application, which looks there for where to log."""
        if self.observer is not None:
            parent.setComponent(ILogObserver, self.observer)
        super().setServiceParent(parent)

    def privilegedStartService(self) -> None:
        """Listen, as whoever started us."""
        try:
            super().privilegedStartService()
        except CtllmError as error:
            raise self._exit(error.message) from None

    def startService(self) -> None:
        """Start, as whom we were told to be."""
        try:
            super().startService()
        except CtllmError as error:
            raise self._exit(error.message) from None

    def _exit(self, why: str) -> SystemExit:
        """Do what twistd would do for an exception, but for the traceback."""
        pipe, pid_file = self._twistd.get("statusPipe"), self._twistd.get("pidfile")
        if pipe is not None:  # we are a daemon: the process that was started waits for news
            os.write(pipe, f"1 {why}".encode("ascii", "replace")[:_MAX_STATUS_BYTES])
        if pid_file:
            with suppress(OSError):
                os.unlink(pid_file)
        return SystemExit(f"ctllm: {why}")


def makeService(options: Options) -> RoleService:
    """The services of the place that `options` names."""
    reactor = installed_reactor()
    config = options.configuration()
    _raise_file_limit()
    json = config.log_format == "json"
    twistd: Mapping[str, Any] = options.parent or {}
    place = RoleService(
        make_json_observer(twistd) if json else make_text_observer(twistd, reactor), twistd
    )
    if options.role == "proxy":
        _make_proxy(reactor, config, options.proxy_arguments()).setServiceParent(place)
    elif options.role == "cloud":
        _make_cloud(reactor, config).setServiceParent(place)
    elif options.role == "desktop":
        _make_desktop(reactor, config).setServiceParent(place)
    else:
        _add_all(reactor, config, place)
    return place


def run(arguments: Sequence[str]) -> None:
    """Run what `twistd -n --logfile=- --rundir=/ ctllm` and `arguments` would run, and no more.

    twistd's own machinery is most of what twistd imports.
    """
    reactor = installed_reactor()
    place = makeService(_parse_options(arguments))
    globalLogBeginner.beginLoggingTo([place.observer])
    os.chdir("/")
    place.privilegedStartService()
    place.startService()
    reactor.addSystemEventTrigger("before", "shutdown", place.stopService)
    gc.collect()
    gc.freeze()  # what is there now stays: searching it again and again for garbage finds none
    exit_signal = ExitSignal(reactor)
    reactor.run()
    exit_signal.raise_again()


def installed_reactor() -> Any:
    """Give the process's reactor, which is a `MonotonicReactor` unless another one was chosen.

    That is by twistd's option --reactor; its timers follow the clock that it has.
    """
    if "twisted.internet.reactor" not in sys.modules:
        installReactor(MonotonicReactor())  # type: ignore[no-untyped-call]
    from twisted.internet import reactor

    return reactor


def _parse_options(arguments: Sequence[str]) -> Options:
    options, twistd = Options(), usage.Options()  # type: ignore[no-untyped-call]
    twistd.update(nodaemon=True, logfile="-")
    options.parent = twistd
    try:
        options.parseOptions(arguments)
    except usage.UsageError as error:
        raise SystemExit(f"ctllm: {error}") from error
    return options


def _raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard one: a stream is two sockets here."""
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # some systems refuse what they call unlimited
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _make_proxy(reactor: Any, config: Config, told: ProxyArguments) -> Any:
    from ctllm.proxy.service import create_proxy_service

    endpoint = f"tcp:{told.port}:interface={told.host}"
    if told.socket is not None:
        # In a container the cloud is of its group; nobody else gets as far as the socket's folder.
        # No lock file: the folder is new, and holds the socket alone.
        endpoint = f"unix:{str(told.socket).replace(':', chr(92) + ':')}:mode=660:lockfile=0"
    key = encode_base64url(told.cloud_key)
    return create_proxy_service(
        reactor, config.proxy, endpoint=endpoint, id=told.id, cloud_key=key, uid=told.uid
    )


def _make_cloud(reactor: Any, config: Config) -> Any:
    from ctllm.cloud.service import CloudService

    return CloudService(reactor, config.cloud, config.proxy, Path(config.state_dir))


def _make_desktop(reactor: Any, config: Config) -> Any:
    os.environ.setdefault("AUTOBAHN_USE_NVX", "0")  # of its parts in C we use one: http.masking
    install((), LAZY_WAMP)
    from ctllm.desktop.service import DesktopService

    state = Path(config.state_dir)
    return DesktopService(reactor, config.desktop, config.proxy, state, os.environ)


def _add_all(reactor: Any, config: Config, place: MultiService) -> None:
    from ctllm.quickstart import Quickstart

    cloud, desktop = _make_cloud(reactor, config), _make_desktop(reactor, config)
    if config.desktop.demo == "auto":
        desktop.add_demo()
    cloud.setServiceParent(place)
    desktop.setServiceParent(place)
    Quickstart(reactor, cloud, desktop).setServiceParent(place)
