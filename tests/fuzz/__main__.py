"""`python -m tests.fuzz [--frames N] [--seed N]`: says what it did, fails at the first fault."""

from __future__ import annotations

import argparse
import random
import resource
import time
from collections.abc import Callable

from tests.fuzz import http, tunnel, websocket


def timed(what: str, count: int, attack: Callable[[random.Random, int], int], seed: int) -> None:
    """Run one attack and print its figures."""
    began = time.monotonic()
    refused = attack(random.Random(seed), count)
    took = time.monotonic() - began
    print(f"{what}: {count:,} in {took:.1f} s ({count / took:,.0f} a second), {refused:,} refused")


def main() -> None:
    """All four; the connections of HTTP are a twentieth of the frames."""
    parser = argparse.ArgumentParser(prog="tests.fuzz")
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    told = parser.parse_args()
    print(f"seed {told.seed}")
    timed("tunnel frames", told.frames, tunnel.attack, told.seed)
    timed("WebSocket frames", told.frames, websocket.attack, told.seed)
    timed("connections to the server", told.frames // 20, http.server, told.seed)
    timed("answers to the client", told.frames // 20, http.answers, told.seed)
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")


if __name__ == "__main__":
    main()
