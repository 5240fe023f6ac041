"""The command `ctllm-tray`."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctllm import __version__
from ctllm.config import load
from ctllm.config.renamed import renamed_option
from ctllm.errors import CtllmError, NotRunning
from ctllm.ipc.client import IpcClient
from ctllm.system.display import has_graphical_session
from ctllm.system.file_lock import acquire_lock
from ctllm_tray.actions import TrayActions
from ctllm_tray.daemon_launcher import launch_daemon
from ctllm_tray.desktop_environment import NO_SESSION, NO_TRAY, Tray, find_tray, panel_theme
from ctllm_tray.status_watcher import StatusWatcher
from ctllm_tray.view_model import STARTING

if TYPE_CHECKING:
    from ctllm_tray.indicator import Indicator

_MISSING = """\
ctllm-tray needs {}: pip install 'ctllm[tray]'. Where the panel has no StatusNotifier, it also needs
PyGObject and AppIndicator (Debian, Ubuntu: apt install python3-gi gir1.2-gtk-3.0
gir1.2-ayatanaappindicator3-0.1, and a virtual environment made with --system-site-packages)."""
#: The libraries that the tray needs: on every system, and on Linux.
_LIBRARIES, _LINUX_LIBRARIES = ("PIL", "pystray", "resvg_py"), ("dbus_fast",)


def main(arguments: Sequence[str] | None = None) -> None:
    """Show the tray until it quits."""
    options = build_parser().parse_args(arguments)
    try:
        config = load(
            options.config,
            {"state-dir": options.state_dir} if options.state_dir else {},
            os.environ,
        )
    except CtllmError as error:
        raise SystemExit(f"ctllm-tray: {error.message}") from None
    state_dir = Path(config.state_dir)
    if not has_graphical_session(sys.platform, os.environ):
        raise SystemExit(NO_SESSION)
    if not _lock(state_dir):
        print("ctllm-tray is already running.")
        return
    _check_libraries()
    _use_temporary_folder(state_dir)
    pystray = _import_pystray(_wait_for_tray(options.wait))
    theme = options.panel if options.panel != "auto" else panel_theme(sys.platform, os.environ)
    from ctllm_tray.indicator import Indicator  # needs the optional libraries

    _run(Indicator(pystray, theme), state_dir, options)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `ctllm-tray`."""
    parser = argparse.ArgumentParser(
        prog="ctllm-tray",
        description="Show the status of the ctllm desktop in the panel, and start the desktop.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ctllm {__version__}")
    parser.add_argument("--config", type=Path, help="configuration file, as for twistd ctllm")
    parser.add_argument("--state-dir", help="folder with login and keys (default: as configured)")
    parser.add_argument("--state", type=_refuse_renamed, help=argparse.SUPPRESS)
    parser.add_argument(
        "--panel", choices=("auto", "dark", "light"), default="auto",
        help="theme of the panel; the icon has the opposite colour",
    )  # fmt: skip
    parser.add_argument(
        "--wait", type=float, default=10.0, metavar="SECONDS",
        help="how long to wait for a panel that shows icons (default: 10)",
    )  # fmt: skip
    parser.add_argument("--no-start", action="store_true", help="do not start the daemon")
    return parser


def _refuse_renamed(_: str) -> str:
    raise argparse.ArgumentTypeError(renamed_option("state"))


def _check_libraries() -> None:
    needed = _LIBRARIES + (_LINUX_LIBRARIES if sys.platform == "linux" else ())
    for name in needed:
        if find_spec(name) is None:
            raise SystemExit(_MISSING.format(name))


def _import_pystray(tray: Tray) -> Any:
    """Import pystray with the backend for `tray`, or with that of its own which the user chose."""
    if tray is Tray.STATUS_NOTIFIER and "PYSTRAY_BACKEND" not in os.environ:
        from ctllm_tray.status_notifier import backend

        return backend
    try:
        import pystray
    except ImportError as error:
        raise SystemExit(_MISSING.format(error.name or error)) from None
    except Exception as error:  # each backend has its own error for a display
        raise SystemExit(f"ctllm-tray: Cannot open the display: {error}") from None
    return pystray


def _lock(state_dir: Path) -> bool:
    """Lock the state folder for as long as this process runs; False if another tray has it."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(state_dir / "tray.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SystemExit(f"ctllm-tray: Cannot write to {state_dir}: {error.strerror}") from None
    try:
        acquire_lock(handle)
    except OSError:
        os.close(handle)
        return False
    return True


def _use_temporary_folder(state_dir: Path) -> None:
    """Make temporary files where the next start removes what a killed tray left."""
    folder = state_dir / "tray"
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise SystemExit(f"ctllm-tray: Cannot create {folder}: {error.strerror}") from None
    tempfile.tempdir = str(folder)


def _wait_for_tray(timeout: float) -> Tray:
    deadline = time.monotonic() + timeout
    while (tray := find_tray(sys.platform, os.environ)) is None:
        if time.monotonic() >= deadline:
            raise SystemExit(NO_TRAY)
        time.sleep(0.5)
    return tray


def _run(indicator: Indicator, state_dir: Path, options: argparse.Namespace) -> None:
    watcher = StatusWatcher(state_dir, indicator.show_view)

    def launch() -> None:
        arguments = [f"--state-dir={state_dir}"] if options.state_dir else []
        if options.config:
            arguments.append(f"--config={options.config.absolute()}")
        launch_daemon(state_dir, arguments)
        watcher.expect_daemon(STARTING)

    indicator.actions = TrayActions(state_dir, indicator.notify, launch, indicator.stop)
    if not options.no_start and not _is_daemon_running(state_dir):
        indicator.actions.start_daemon()
    watcher.start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: indicator.stop())
    try:
        indicator.run()
    except Exception as error:
        # The session bus has ended; or GTK's loop, which raises at its end where there is no
        # notification service.
        print(f"ctllm-tray: The icon has been removed: {error}", file=sys.stderr)
    watcher.stop()
    if tempfile.tempdir is not None:
        shutil.rmtree(tempfile.tempdir, ignore_errors=True)


def _is_daemon_running(state_dir: Path) -> bool:
    with suppress(NotRunning):
        IpcClient(state_dir).close()
        return True
    return False
