"""`ctllm top` in a terminal, as an emulator shows it, and its output for programs."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import termios
from typing import Any

import pyte
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import BIN, Cluster, wait_until
from tests.e2e.lifecycle_cases import start_stream, start_with_desktop

HEADER = "PROXY        STATE       AGE   IDLE  REQS DESK CHUNKS/S  BYTES/S   MEMORY   CPU"


def become_foreground() -> None:
    """Be what a shell starts in the foreground: with a terminal, and not deaf to Ctrl-C.

    A shell that runs the tests in the background has had them ignore SIGINT.
    """
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A program in a terminal of 80 columns and 24 lines."""

    def __init__(self, argv: list[str], env: dict[str, str]) -> None:
        self.screen = pyte.Screen(80, 24)
        self.output = b""
        self._stream = pyte.ByteStream(self.screen)
        self.master, slave = pty.openpty()
        self.resize(80, 24)
        self.attributes = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            argv, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True,
            preexec_fn=become_foreground,
        )  # fmt: skip
        self.slave = slave  # stays open, so that its attributes can be read at the end
        os.set_blocking(self.master, False)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def text(self) -> str:
        """Return what the terminal shows now."""
        try:
            while data := os.read(self.master, 65536):
                self.output += data
                self._stream.feed(data)
        except BlockingIOError:
            pass
        return "\n".join(line.rstrip() for line in self.screen.display)

    async def wait_for(self, text: str) -> str:
        """Wait until the terminal shows `text`; return all that it shows."""
        await wait_until(lambda: text in self.text(), f"{text!r} in the terminal")
        return self.text()

    async def end(self, timeout: float = 20) -> int:
        """Wait until the program has ended and left the terminal as it was."""
        status = await wait_until(
            lambda: self.text() is not None and self.process.poll() is not None, "its end", timeout
        )
        assert status and self.process.returncode is not None
        self.text()
        assert termios.tcgetattr(self.slave) == self.attributes
        os.close(self.slave)
        os.close(self.master)
        return self.process.returncode


def top(cluster: Cluster, *arguments: str) -> list[str]:
    """Return the command line of `ctllm top`."""
    return [str(BIN / "ctllm"), f"--state-dir={cluster.state_dir('cloud')}", "top", *arguments]


def environment(cluster: Cluster, **changes: str) -> dict[str, str]:
    return {**cluster.environment(), "TERM": "xterm-256color", **changes}


def has_colour(terminal: Terminal) -> bool:
    cells = (cell for row in terminal.screen.buffer.values() for cell in row.values())
    return any(cell.fg != "default" for cell in cells)


async def run(
    cluster: Cluster, *arguments: str, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run `ctllm top` without a terminal."""
    result: Any = await deferToThread(
        subprocess.run, top(cluster, *arguments), capture_output=True, text=True,
        env=environment(cluster, **changes),
    )  # fmt: skip
    return result


@ensureDeferred
async def test_top_shows_the_proxies_live_and_survives_the_cloud(cluster: Cluster) -> None:
    """The keys, another size, the death of the cloud, its return, and the end of the program."""
    cloud = await start_with_desktop(cluster)
    response = await start_stream(cluster, cluster.alice_token)
    terminal = Terminal(top(cluster, "--interval=0.5"), environment(cluster))
    shown = await terminal.wait_for("kB")  # a rate: the second report
    assert HEADER in shown.splitlines()
    assert "proxies 1 of 100, 0 starting  requests 1  desktops 1" in shown
    assert has_colour(terminal)
    (row,) = [line.split() for line in shown.splitlines() if " running " in line]
    assert row[2] != "-" and row[-1].endswith("%") and float(row[8]) > 1, row
    assert "alice" not in shown

    terminal.press(b"<")
    await terminal.wait_for("sort: bytes")
    terminal.resize(60, 8)
    assert "q quit" in (await terminal.wait_for("sort: bytes")).splitlines()[7]

    await cloud.stop(signal.SIGKILL)
    response.addErrback(lambda _: None)
    await terminal.wait_for("The cloud has not responded")
    terminal.resize(80, 24)
    await cluster.start_cloud()
    assert "proxies" in await terminal.wait_for(HEADER)

    terminal.press(b"q")
    assert await terminal.end() == 0


async def complete_report(cluster: Cluster) -> Any:
    """Return a report in which the proxy has responded twice; None while it is too busy."""
    result = await run(cluster, "--once", "--json", "--interval=0.5")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    is_complete = all(each["chunks_per_second"] is not None for each in report["proxies"])
    return report if is_complete else None


@ensureDeferred
async def test_top_without_a_cloud_waits_in_a_terminal_and_fails_elsewhere(
    cluster: Cluster,
) -> None:
    """Ctrl-C leaves the terminal sane. Nothing is coloured with NO_COLOR."""
    cloud = await cluster.start_cloud()
    token = await cluster.create_token("alice")
    await cluster.request("PUT", "/ctllm/proxy", token=token)
    report = await wait_until(lambda: complete_report(cluster), "a report on the proxy")
    assert (report["starts"], report["failed_starts"]) == (1, 0)
    (proxy,) = report["proxies"]
    assert proxy["chunks_per_second"] == 0 and proxy["memory_bytes"] > 10e6
    plain = await run(cluster, "--once", "--interval=0.5", TERM="dumb")
    assert HEADER in plain.stdout.splitlines() and "\x1b" not in plain.stdout

    dumb = Terminal(top(cluster, "--interval=0.5"), environment(cluster, TERM="dumb"))
    await wait_until(lambda: dumb.text() and dumb.output.count(b"CHUNKS/S") > 1, "two reports")
    assert b"\x1b" not in dumb.output
    dumb.press(b"\x03")
    assert await dumb.end() == 130

    unknown = Terminal(top(cluster, "--interval=0.5"), environment(cluster, TERM="none-such"))
    await unknown.wait_for("CHUNKS/S")
    unknown.press(b"\x03")
    assert await unknown.end() == 130 and b"Traceback" not in unknown.output

    await cloud.stop()
    failed = await run(cluster, "--once")
    assert failed.returncode == 3 and "No cloud runs" in failed.stderr
    terminal = Terminal(top(cluster), environment(cluster, NO_COLOR="1"))
    await terminal.wait_for("The cloud has not responded")
    assert not has_colour(terminal)
    terminal.press(b"\x03")
    assert await terminal.end() == 130
    assert "\x1b[?1049l" in terminal.output.decode()
