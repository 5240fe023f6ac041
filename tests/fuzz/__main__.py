"""Fuzz the parsers: `python -m tests.fuzz [--frames N] [--seed N]`; fails at the first fault."""

from __future__ import annotations

import argparse
import random
import resource
import time
from collections.abc import Callable

from tests.fuzz import http, tunnel, websocket


def run_timed(name: str, count: int, fuzz: Callable[[random.Random, int], int], seed: int) -> None:
    """Run one fuzzer and print its figures."""
    began = time.monotonic()
    refused = fuzz(random.Random(seed), count)
    took = time.monotonic() - began
    print(f"{name}: {count:,} in {took:.1f} s ({count / took:,.0f} a second), {refused:,} refused")


def main() -> None:
    """Run the four fuzzers; HTTP gets a twentieth of the number of frames."""
    parser = argparse.ArgumentParser(prog="tests.fuzz")
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    run_timed("tunnel frames", options.frames, tunnel.fuzz_tunnel, options.seed)
    run_timed("WebSocket frames", options.frames, websocket.fuzz_websocket, options.seed)
    run_timed("HTTP requests", options.frames // 20, http.fuzz_server, options.seed)
    run_timed("HTTP responses", options.frames // 20, http.fuzz_response_parser, options.seed)
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")


if __name__ == "__main__":
    main()
