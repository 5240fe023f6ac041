"""Compare every client's calls and raw HTTP requests directly and through ctllm; print tables.

    python -m tests.compatibility [--write] [CLIENT ...]

`--write` writes them to docs/compatibility.md. CLIENT is a package name.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from tests.compatibility.clients import CLIENTS, Client
from tests.compatibility.comparison import Comparison, compare
from tests.compatibility.driver import Driver
from tests.compatibility.raw_comparison import RawComparison, compare_raw
from tests.compatibility.table import render, write
from tests.e2e.cluster import Cluster
from tests.e2e.mirrored_requests import MirroredCluster, start_mirrored_cluster


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.compatibility")
    parser.add_argument(
        "--write", action="store_true", help="write the tables to docs/compatibility.md"
    )
    names = sorted({client.package for client in CLIENTS})
    parser.add_argument("client", nargs="*", help=f"any of {', '.join(names)}; default: all")
    options = parser.parse_args()
    if unknown := set(options.client) - {*names}:
        parser.error(f"unknown client: {', '.join(sorted(unknown))}")
    if options.write and options.client:
        parser.error("--write requires all clients")
    return options


async def _compare_client(cluster: MirroredCluster, client: Client) -> list[Comparison]:
    print(f"{client.title} ...", file=sys.stderr)
    driver = Driver(client)
    try:
        return await compare(cluster, client, driver)
    finally:
        await deferToThread(driver.close)


async def _compare_all(
    folder: Path, chosen: list[Client]
) -> tuple[list[Comparison], list[RawComparison]]:
    cluster = Cluster(folder)
    try:
        mirrored = await start_mirrored_cluster(cluster)
        compared = [each for client in chosen for each in await _compare_client(mirrored, client)]
        return compared, await compare_raw(mirrored)
    finally:
        await cluster.stop()


def _failures(compared: Sequence[Comparison], raw: Sequence[RawComparison]) -> list[str]:
    results = [(f"{each.client.title}, {each.call}", each.difference) for each in compared]
    results += [(each.row, each.difference) for each in raw]
    return [f"{name}: {difference}" for name, difference in results if difference]


async def _main() -> None:
    options = _options()
    chosen = [each for each in CLIENTS if not options.client or each.package in options.client]
    with tempfile.TemporaryDirectory() as folder:
        compared, raw = await _compare_all(Path(folder), chosen)
    text = render(compared, raw)
    print(text)
    if options.write:
        write(text)
    if failures := _failures(compared, raw):
        print(*failures, sep="\n")
        raise SystemExit(1)
    print(f"No differences: {len(compared)} calls of clients, {len(raw)} raw HTTP requests.")


def _start(_: Any) -> Any:
    return ensureDeferred(_main())


if __name__ == "__main__":
    react(_start)
