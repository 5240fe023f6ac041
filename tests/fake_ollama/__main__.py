"""The fake Ollama as a process of its own, on 127.0.0.1, for benchmarks and split-process tests.

Prints one line of JSON once it listens: `{"port": 11500}`.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from ctllm.demo import DEMO_MODEL
from tests.fake_ollama.server import FakeOllama


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fake_ollama", description=__doc__)
    parser.add_argument("--port", type=int, default=11500, help="0 takes any that is free")
    parser.add_argument("--model", action="append", help="a model to have; may be repeated")
    parser.add_argument("--word-interval", type=float, default=0.03, help="seconds")
    parser.add_argument("--control", action="store_true", help="allow scripts over HTTP")
    parser.add_argument("--no-guard", action="store_true", help="let foreign Host and Origin in")
    return parser.parse_args()


def _allow_many_connections() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _run(reactor: Any, options: argparse.Namespace) -> None:
    ollama = FakeOllama(
        reactor,
        models=options.model or (DEMO_MODEL,),
        word_interval=options.word_interval,
        guard_host=not options.no_guard,
        control=options.control,
    )
    port = reactor.listenTCP(options.port, ollama.site, backlog=1024, interface="127.0.0.1")
    sys.stdout.write(json.dumps({"port": port.getHost().port}) + "\n")
    sys.stdout.flush()
    await Deferred()


def main() -> None:
    """Run until the process is told to stop."""
    options = _options()
    _allow_many_connections()
    react(lambda reactor: Deferred.fromCoroutine(_run(reactor, options)))


if __name__ == "__main__":
    main()
