"""The command `ctllm-tray`: puts the parts together and runs until it is told to end."""

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
from pathlib import Path
from typing import Any

from ctllm import __version__
from ctllm.config import load
from ctllm.config.renamed import renamed_option
from ctllm.errors import CtllmError, NotRunning
from ctllm.ipc.client import IpcClient
from ctllm.system.display import has_graphical_session
from ctllm.system.file_lock import acquire_lock
from ctllm_tray.actions import Clicks
from ctllm_tray.daemon_launcher import start
from ctllm_tray.desktop_environment import NO_SESSION, NO_TRAY, has_tray, panel_kind
from ctllm_tray.status_watcher import Watch
from ctllm_tray.view_model import STARTING

_MISSING = """\
ctllm-tray needs {}: pip install 'ctllm[tray]'. On Linux it needs PyGObject and AppIndicator, too
(Debian, Ubuntu: apt install python3-gi gir1.2-gtk-3.0 gir1.2-ayatanaappindicator3-0.1, and a
virtual environment made with --system-site-packages)."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Show the tray until it is told to quit."""
    told = _options().parse_args(arguments)
    try:
        config = load(
            told.config, {"state-dir": told.state_dir} if told.state_dir else {}, os.environ
        )
    except CtllmError as error:
        raise SystemExit(f"ctllm-tray: {error.message}") from None
    state = Path(config.state_dir)
    if not has_graphical_session(sys.platform, os.environ):
        raise SystemExit(NO_SESSION)
    if not _alone(state):
        print("ctllm-tray: it runs already")
        return
    _own_temporary_folder(state)
    pystray = _pystray()
    _wait_for_tray(told.wait)
    kind = told.panel if told.panel != "auto" else panel_kind(sys.platform, os.environ)
    from ctllm_tray.indicator import Shown  # it draws at once, for which libraries are needed

    _run(Shown(pystray, kind), state, told)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ctllm-tray",
        description="Shows in the panel how the desktop of ctllm is, and starts it if none runs.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ctllm {__version__}")
    parser.add_argument("--config", type=Path, help="the configuration file (as for twistd ctllm)")
    parser.add_argument("--state-dir", help="the folder with sign-in and keys (as configured)")
    parser.add_argument("--state", type=_refuse_renamed, help=argparse.SUPPRESS)
    parser.add_argument(
        "--panel", choices=("auto", "dark", "light"), default="auto",
        help="what the panel is like; the icon is drawn in the other colour",
    )  # fmt: skip
    parser.add_argument(
        "--wait", type=float, default=10.0, metavar="SECONDS",
        help="how long to wait for a panel that shows icons (default 10)",
    )  # fmt: skip
    parser.add_argument(
        "--no-start", action="store_true", help="start no daemon; wait for one instead"
    )
    return parser


def _refuse_renamed(_: str) -> str:
    raise argparse.ArgumentTypeError(renamed_option("state"))


def _pystray() -> Any:
    try:
        import PIL  # noqa: F401
        import pystray
        import resvg_py  # noqa: F401
    except ImportError as error:
        raise SystemExit(_MISSING.format(error.name or error)) from None
    except Exception as error:  # each backend has its own for a display that cannot be opened
        raise SystemExit(f"ctllm-tray: the display cannot be opened: {error}") from None
    return pystray


def _alone(state: Path) -> bool:
    """Whether no other tray shows this state folder; holds that for as long as this one runs."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(state / "tray.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SystemExit(f"ctllm-tray: {state}: cannot be written: {error.strerror}") from None
    try:
        acquire_lock(handle)
    except OSError:
        os.close(handle)
        return False
    return True


def _own_temporary_folder(state: Path) -> None:
    """Have icon files where the next start finds what a killed one left; pystray leaves them."""
    folder = state / "tray"
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise SystemExit(f"ctllm-tray: {folder}: cannot be made: {error.strerror}") from None
    tempfile.tempdir = str(folder)


def _wait_for_tray(seconds: float) -> None:
    until = time.monotonic() + seconds
    while not has_tray(sys.platform):
        if time.monotonic() >= until:
            raise SystemExit(NO_TRAY)
        time.sleep(0.5)


def _run(shown: Any, state: Path, told: argparse.Namespace) -> None:
    watch = Watch(state, shown.see)

    def begin() -> None:
        options = [f"--state-dir={state}"] if told.state_dir else []
        if told.config:
            options.append(f"--config={told.config.absolute()}")
        start(state, options)
        watch.expect(STARTING)

    shown.clicks = Clicks(state, shown.notify, begin, shown.end)
    if not told.no_start and not _runs(state):
        shown.clicks.start()
    watch.start()
    signal.signal(signal.SIGTERM, lambda *_: shown.end())
    try:
        shown.run()
    except Exception as error:
        # GTK's loop raises here for a missing notification service, when all is over.
        print(f"ctllm-tray: while ending: {error}", file=sys.stderr)
    watch.stop()
    if tempfile.tempdir is not None:
        shutil.rmtree(tempfile.tempdir, ignore_errors=True)


def _runs(state: Path) -> bool:
    with suppress(NotRunning):
        IpcClient(state).close()
        return True
    return False
