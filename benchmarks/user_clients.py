"""Clients of many users in one process, each of which reads one streamed response after the other.

`python -m benchmarks.user_clients HOST:PORT` takes commands from standard input and prints events,
both as lines of JSON. The commands are the methods of `Clients` whose names end in `_command`:

    {"do": "start", "tokens": {"USER": "TOKEN"}, "lines": 100}
    {"do": "cut", "users": [USER]}
    {"do": "leave", "users": [USER]}
    {"do": "probe", "users": [USER]}
    {"do": "finish"}
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

from benchmarks.line_checker import LineChecker

#: Seconds between two attempts of a client that was refused, at most.
RETRY_DELAY = 2.0
#: Seconds between two events that count the users who receive lines; and the seconds within which
#: the last line of such a user came.
STATUS_INTERVAL, RECENT = 1.0, 3.0
BODY = json.dumps({"model": "m", "prompt": "go"})
BROKEN = (OSError, EOFError, ValueError, asyncio.IncompleteReadError)


class UserClient:
    """The client of one user. `token` and `lines` are for further responses."""

    def __init__(self, user: str, address: str) -> None:
        self.user = user
        self.token = ""
        self.lines = 0
        self.last_line = 0.0
        self.is_finishing = False
        self._was_cut = False  # the present response
        self.task: asyncio.Task[None] | None = None
        self._host, _, self._port = address.rpartition(":")
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Read responses until `is_finishing` is set."""
        while not self.is_finishing:
            if not await self._read_response():
                await asyncio.sleep(RETRY_DELAY * random.random())

    def cut(self) -> None:
        """Reset the connection of the present response."""
        if self._writer is not None:
            self._was_cut = True
            self._writer.transport.abort()

    def leave(self) -> None:
        """Reset the connection, also while no response has begun on it, and end."""
        self.is_finishing = True
        if self._writer is not None:
            self.cut()
        elif self.task is not None:
            self.task.cancel()

    async def probe(self) -> None:
        """Send short requests until one is answered by the user's model server."""
        began = time.monotonic()
        while not await self._is_answered():
            await asyncio.sleep(RETRY_DELAY * random.random())
        print_event("probed", user=self.user, seconds=time.monotonic() - began)

    async def _is_answered(self) -> bool:
        try:
            async with asyncio.timeout(60):
                _, writer, status = await self._request("GET /api/version", "")
        except (*BROKEN, TimeoutError):
            return False
        writer.transport.abort()
        return status == 200

    async def _request(
        self, target: str, body: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
        reader, writer = await asyncio.open_connection(self._host, int(self._port))
        try:
            writer.write(
                f"{target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.token}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                f"Connection: close\r\n\r\n{body}".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
        except BaseException:
            writer.transport.abort()
            raise
        return reader, writer, int(head.split(maxsplit=2)[1])

    async def _read_response(self) -> bool:
        """Read and check one response; report it, and return whether it was complete."""
        began, checker, status, reason = time.time(), LineChecker(self.lines), 0, ""
        self._was_cut = False
        try:
            reader, self._writer, status = await self._request("POST /api/generate", BODY)
            if status == 200:
                async for line in read_lines(reader):
                    checker.add(line)
                    self.last_line = time.monotonic()
            else:
                reason = (await reader.read(300)).decode(errors="replace")
        except BROKEN as error:
            reason = f"{type(error).__name__}: {error}"
        finally:
            if self._writer is not None:
                self._writer.transport.abort()
            self._writer = None
        reason = ", ".join(filter(None, [checker.first_damaged, reason]))
        print_event(
            "response", user=self.user, began=began, ended=time.time(), status=status,
            reason=reason, was_cut=self._was_cut, is_complete=checker.is_complete,
            received=checker.received, missing=checker.missing, repeated=checker.repeated,
            damaged=checker.damaged,
        )  # fmt: skip
        return checker.is_complete


async def read_lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The lines of a body with chunked transfer coding (RFC 9112, section 7.1)."""
    rest = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        rest += (await reader.readexactly(size + 2))[:size]
        *complete, rest = rest.split(b"\n")
        for line in complete:
            yield line
    await reader.readuntil(b"\r\n")


class Clients:
    """The clients of all users, by name."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._users: dict[str, UserClient] = {}
        self._background: set[asyncio.Task[None]] = set()

    def execute(self, line: bytes) -> None:
        """Execute a command."""
        command = json.loads(line)
        getattr(self, f"{command.pop('do')}_command")(**command)

    def start_command(self, tokens: dict[str, str], lines: int) -> None:
        """Give users new tokens and the length of further responses; start those who are new."""
        for user, token in tokens.items():
            client = self._users.setdefault(user, UserClient(user, self._address))
            client.token, client.lines = token, lines
            if client.task is None:
                client.task = asyncio.create_task(client.run())

    def cut_command(self, users: list[str]) -> None:
        """Reset the connections of users."""
        for user in users:
            self._users[user].cut()

    def leave_command(self, users: list[str]) -> None:
        """Reset the connections of users and forget them."""
        for user in users:
            self._users.pop(user).leave()

    def probe_command(self, users: list[str]) -> None:
        """Report for each user how long it takes until a new request is answered."""
        for user in users:
            self._run(self._users[user].probe())

    def finish_command(self) -> None:
        """Report when the present responses of all users have ended; start no further ones."""
        for client in self._users.values():
            client.is_finishing = True
        self._run(self._wait_until_finished())

    async def report_status(self) -> None:
        """Report regularly."""
        while True:
            recent = time.monotonic() - RECENT
            receiving = sum(client.last_line > recent for client in self._users.values())
            print_event("status", receiving=receiving)
            await asyncio.sleep(STATUS_INTERVAL)

    async def _wait_until_finished(self) -> None:
        await asyncio.gather(*(each.task for each in self._users.values() if each.task))
        self._users.clear()
        print_event("finished")

    def _run(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def print_event(name: str, **fields: Any) -> None:
    """Print an event for the program that gives the commands."""
    print(json.dumps({"event": name, **fields}), flush=True)


async def main(address: str) -> None:
    """Execute commands until standard input ends."""
    clients = Clients(address)
    status = asyncio.create_task(clients.report_status())
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        clients.execute(line)
    status.cancel()


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(main(sys.argv[1]))
