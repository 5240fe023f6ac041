"""Drives every client directly and through ctllm, and prints the table.

    python -m tests.compatibility [--write] [CLIENT ...]

`--write` puts it into docs/compatibility.md; clients are named as the registries have them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from tests.compatibility.clients import CLIENTS, Client
from tests.compatibility.comparing import Compared, compare
from tests.compatibility.driving import Driver
from tests.compatibility.table import markdown, rows, write
from tests.e2e.faithful import Twice, twice
from tests.e2e.world import World


async def _one(made: Twice, client: Client) -> list[Compared]:
    driver = Driver(client)
    try:
        return await compare(made, client, driver)
    finally:
        await deferToThread(driver.close)


async def _all(folder: Path, chosen: list[Client]) -> list[Compared]:
    world = World(folder)
    try:
        made = await twice(world)
        found: list[Compared] = []
        for client in chosen:
            print(f"{client.title} ...", file=sys.stderr)
            found += await _one(made, client)
        return found
    finally:
        await world.close()


async def _main(arguments: list[str]) -> None:
    named = [each for each in arguments if not each.startswith("-")]
    chosen = [client for client in CLIENTS if not named or client.package in named]
    with tempfile.TemporaryDirectory() as folder:
        compared = await _all(Path(folder), chosen)
    print(markdown(rows(compared)))
    wrong = [each for each in compared if each.wrong]
    for each in wrong:
        print(f"{each.client.title}, {each.call}: {each.wrong}")
    if "--write" in arguments:
        write(compared)
    if wrong:
        raise SystemExit(1)


def _start(_: Any) -> Any:
    return ensureDeferred(_main(sys.argv[1:]))


if __name__ == "__main__":
    react(_start)
