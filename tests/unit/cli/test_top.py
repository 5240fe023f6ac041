"""`ctllm.cli.top_view` and `top_screen`: rates, order and lines of `ctllm top`, and its keys."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cli import build_parser
from ctllm.cli.top_screen import parse_keys
from ctllm.cli.top_view import (
    SORT_KEYS,
    CloudUse,
    Style,
    View,
    compare,
    format_bytes,
    render,
    table,
)
from ctllm.cli.users import open_cloud_state
from ctllm.cloud.admin.status import CloudStatus
from ctllm.cloud.proxies.info import ProxyInfo
from ctllm.config import Config
from ctllm.errors import BadRequest

STATUS = CloudStatus(
    version="1.2", time=100, uptime=7300, is_draining=False, problem="", max_proxies=100, starts=7,
    failed_starts=2,
)  # fmt: skip
BUSY = ProxyInfo(
    id="ctllm-proxy-" + "a" * 32, state="running", age=61, idle=0, active_requests=3, desktops=1,
    memory=21_340_000, cpu=4.0, response_bytes=1000, response_chunks=10,
)  # fmt: skip
IDLE = ProxyInfo(
    id="ctllm-proxy-" + "b" * 32, state="running", age=7300, idle=400, active_requests=0,
    desktops=2, memory=30_000_000, cpu=1.0, response_bytes=0, response_chunks=0,
)  # fmt: skip
STARTING = ProxyInfo(id="ctllm-proxy-" + "c" * 32, state="starting", age=0.4)


def status(seconds: float, *proxies: ProxyInfo, **changes: object) -> CloudStatus:
    return msgspec.structs.replace(STATUS, time=100 + seconds, proxies=proxies, **changes)


def later(proxy: ProxyInfo, **changes: object) -> ProxyInfo:
    return msgspec.structs.replace(proxy, **changes)


def use(*proxies: ProxyInfo, **changes: object) -> CloudUse:
    return compare(status(0, *proxies), status(2, *proxies, **changes))


class RateTests(SynchronousTestCase):
    """Rates between two reports."""

    def test_rates_are_differences_by_the_time_of_the_cloud(self) -> None:
        more = later(BUSY, cpu=4.5, response_bytes=3000, response_chunks=30)
        (row,) = compare(status(0, BUSY), status(2, more)).proxies
        self.assertEqual(
            (row.chunks_per_second, row.bytes_per_second, row.cpu_percent), (10, 1000, 25)
        )

    def test_the_first_report_has_no_rates(self) -> None:
        (row,) = compare(None, status(0, BUSY)).proxies
        self.assertEqual((row.chunks_per_second, row.cpu_percent), (None, None))
        self.assertEqual((row.proxy, row.requests, row.memory_bytes), ("a" * 12, 3, 21_340_000))

    def test_a_proxy_that_started_again_has_no_rates(self) -> None:
        """Its counters began anew."""
        again = later(BUSY, cpu=0.1, response_bytes=5, response_chunks=1)
        (row,) = compare(status(0, BUSY), status(2, again)).proxies
        rates = (row.chunks_per_second, row.bytes_per_second, row.cpu_percent)
        self.assertEqual(rates, (None, None, None))

    def test_a_proxy_of_an_older_version_has_no_rate_of_chunks(self) -> None:
        old = later(BUSY, response_bytes=None, response_chunks=None)
        (row,) = use(old).proxies
        self.assertEqual((row.chunks_per_second, row.cpu_percent), (None, 0))

    def test_two_reports_of_the_same_moment_have_no_rates(self) -> None:
        (row,) = compare(status(0, BUSY), status(0, BUSY)).proxies
        self.assertIsNone(row.chunks_per_second)


class TableTests(SynchronousTestCase):
    """The lines."""

    def test_fits_into_80_columns(self) -> None:
        large = later(
            BUSY, state="cleaning_up", age=3.2e7, idle=86000, active_requests=16384, desktops=32,
            memory=999_940_000, cpu=99_999, response_bytes=10**12, response_chunks=10**6,
        )  # fmt: skip
        shown = compare(
            status(0, later(large, cpu=99_989, response_bytes=0, response_chunks=0)),
            status(10, large, starts=12345, failed_starts=12345, max_proxies=1000),
        )
        screen = [line.text for line in render(shown, "", View(), 24)]
        for line in [*table(shown, View()), *screen]:
            self.assertLessEqual(len(line), 80, line)

    def test_shows_the_cloud_and_each_proxy(self) -> None:
        more = later(BUSY, cpu=4.5, response_bytes=3000, response_chunks=30)
        shown = compare(status(0, BUSY, IDLE), status(2, more, IDLE, STARTING))
        self.assertEqual(table(shown, View()), [
            "ctllm 1.2  up 2 h  proxies 3 of 100, 1 starting  requests 3  desktops 3",
            "chunks/s 10  bytes/s 1.0 kB  memory 51.3 MB  starts 7  failed 2",
            "",
            "PROXY        STATE       AGE   IDLE  REQS DESK CHUNKS/S  BYTES/S   MEMORY   CPU",
            "bbbbbbbbbbbb running     2 h  7 min     0    2        0      0 B  30.0 MB    0%",
            "aaaaaaaaaaaa running   1 min    0 s     3    1       10   1.0 kB  21.3 MB   25%",
            "cccccccccccc starting    0 s      -     -    -        -        -        -     -",
        ])  # fmt: skip

    def test_shows_a_proxy_that_does_not_respond(self) -> None:
        silent = later(BUSY, active_requests=None, desktops=None, idle=None)
        self.assertIn("aaaaaaaaaaaa no reply", table(use(silent), View())[-1])

    def test_shows_what_is_wrong_without_control_characters(self) -> None:
        shown = use(is_draining=True, problem="Docker \x1b[2J\nis down")
        alerts = [line.text for line in render(shown, "", View(), 24) if line.style is Style.ALERT]
        self.assertEqual(len(alerts), 2)
        self.assertIn("draining", alerts[0])
        self.assertTrue(alerts[1].startswith("Proxies cannot be started: Docker "), alerts)
        self.assertTrue(alerts[1].isprintable())

    def test_the_last_line_of_the_screen_has_the_keys(self) -> None:
        lines = render(use(BUSY), "", View(), 24)
        self.assertEqual(len(lines), 24)
        self.assertTrue(lines[-1].text.startswith("q quit   < > sort: memory"))

    def test_a_screen_of_any_height_is_filled_and_not_exceeded(self) -> None:
        for height in range(12):
            lines = render(use(BUSY, IDLE, STARTING), "", View(offset=9), height)
            self.assertEqual(len(lines), height)

    def test_shows_why_there_is_no_report(self) -> None:
        (line,) = render(None, "The cloud is\ngone", View(), 24)
        self.assertEqual(line.style, Style.ALERT)
        self.assertTrue(line.text.isprintable())

    def test_bytes_have_a_unit(self) -> None:
        texts = [format_bytes(value) for value in (None, 0, 999, 1000, 2.5e6, 3.21e9)]
        self.assertEqual(texts, ["-", "0 B", "999 B", "1.0 kB", "2.5 MB", "3.2 GB"])


class ViewTests(SynchronousTestCase):
    """What keys change."""

    def order(self, view: View) -> str:
        shown = use(BUSY, IDLE, STARTING)
        return "".join(row.proxy[0] for row in view.order(shown.proxies))

    def test_numbers_are_sorted_from_the_largest_words_from_the_first_letter(self) -> None:
        """Unknown values are last, also in reverse."""
        self.assertEqual(self.order(View("memory")), "bac")
        self.assertEqual(self.order(View("memory", is_reversed=True)), "abc")
        self.assertEqual(self.order(View("proxy")), "abc")
        self.assertEqual(self.order(View("proxy", is_reversed=True)), "cba")
        self.assertEqual(self.order(View("state")), "abc")

    def test_arrows_select_the_column_and_r_reverses(self) -> None:
        view = View("memory", offset=3)
        self.assertEqual(view.pressed("right"), View("cpu"))
        self.assertEqual(view.pressed("<"), View("bytes"))
        self.assertEqual(View("cpu").pressed(">"), View("proxy"))
        self.assertEqual(View("proxy").pressed("left"), View("cpu"))
        self.assertEqual(view.pressed("r"), View("memory", is_reversed=True))
        self.assertEqual(view.pressed("x"), view)

    def test_scrolls_and_says_which_rows_are_shown(self) -> None:
        many = [later(IDLE, id=f"ctllm-proxy-{n:032x}") for n in range(100, 130)]
        view = View("proxy").pressed("j").pressed("down").pressed("up")
        self.assertEqual(view.offset, 1)
        self.assertEqual(View().pressed("k").offset, 0)
        lines = render(use(*many), "", view, 10)
        self.assertTrue(lines[-1].text.endswith("2-6 of 30"), lines[-1])
        end = render(use(*many), "", replace(view, offset=999), 10)
        self.assertTrue(end[-1].text.endswith("26-30 of 30"), end[-1])

    def test_the_help_lists_the_columns(self) -> None:
        text = " ".join(build_parser().commands["top"].format_help().split())
        listed = ", ".join(SORT_KEYS[:-2]) + ", memory (default) or cpu"
        self.assertIn(listed, text)


class KeyTests(SynchronousTestCase):
    """What a terminal sends."""

    def test_reads_characters_and_arrows_in_both_modes(self) -> None:
        self.assertEqual(parse_keys(b"q<\x1b[A\x1bOBr\x1b[C\x1bOD"),
                         ["q", "<", "up", "down", "r", "right", "left"])  # fmt: skip

    def test_ignores_other_sequences_and_control_characters(self) -> None:
        self.assertEqual(parse_keys(b"\x1b[5~\x1b[1;5H\x00\r\n\xc3\xa9j"), ["j"])


class AccessTests(SynchronousTestCase):
    def test_another_user_is_told_who_may_use_it(self) -> None:
        def exists(path: Path) -> bool:
            raise PermissionError(13, "Permission denied", str(path))

        self.patch(Path, "exists", exists)
        error = self.assertRaises(BadRequest, open_cloud_state, Config(state_dir="/x"))
        self.assertIn("/x/cloud: only root and the cloud's user", error.message)
