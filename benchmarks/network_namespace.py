"""A network namespace of the benchmark's own (network_namespaces(7)).

In it, rules, routes and links are those of the benchmark alone, so what is left over can be
counted, and a failure leaves nothing on the machine.
"""

from __future__ import annotations

import ctypes
import os
import subprocess

from benchmarks.processes import Unavailable, find_program

_CLONE_NEWNET = 0x40000000  # sched.h; the os module has it, and unshare(), from Python 3.12 on


def enter_network_namespace() -> None:
    """Move this thread, and all processes that it starts, to a new namespace with loopback only."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        raise Unavailable(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    subprocess.run([find_program("ip"), "link", "set", "lo", "up"], check=True)
