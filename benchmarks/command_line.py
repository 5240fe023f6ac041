"""What the command lines of several benchmarks have in common: options, signals, progress."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from pathlib import Path


def parse_cluster_options(
    module: str, description: str | None, users: int, minutes: float, seed: int | None = None
) -> argparse.Namespace:
    """Parse the command line of a benchmark of many users; the numbers are the defaults.

    Without a seed, a random one is chosen and printed.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--users", type=int, default=users, help="default: %(default)s")
    add("--minutes", type=float, default=minutes, help="of streaming (default: %(default)g)")
    add("--network", choices=("bridge", "none"), default="bridge",
        help="cloud.docker_network (default: bridge)")  # fmt: skip
    shown = "a random one" if seed is None else seed
    add("--seed", type=int, default=seed, help=f"of random choices (default: {shown})")
    add("--json", type=Path, metavar="FILE", help="store the results in FILE")
    add("--image", type=Path, metavar="FILE",
        help="images that docker save stored, instead of building them")  # fmt: skip
    args = parser.parse_args()
    if args.seed is None:
        args.seed = random.SystemRandom().randrange(1 << 32)
        print(f"Seed {args.seed}", file=sys.stderr)
    return args


def require_root() -> None:
    """Exit unless this program runs as root."""
    if os.geteuid() != 0:
        sys.exit("This benchmark must run as root, because it starts a Docker Engine")


def exit_on_signals() -> None:
    """Have this program exit normally on signals: the exit stacks remove what was started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Terminated"))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have ignored


def print_progress(what: str, is_update: bool = False) -> None:
    """Say what happens now; an update is shown on a terminal only, in place of the last one."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what} …", end="" if is_update else "\n", file=sys.stderr, flush=True)
    elif not is_update:
        print(f"{time.strftime('%H:%M:%S')} {what} …", file=sys.stderr, flush=True)
