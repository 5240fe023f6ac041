"""What the benchmarks compute from what they measure."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections import Counter
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.inventory import (
    control_groups,
    link_names,
    remove_control_groups,
    rules,
    summarise,
)
from benchmarks.line_checker import LineChecker, words
from benchmarks.processes import Unavailable
from benchmarks.resources import Pids, Sample, memory_slopes, sample_regularly
from benchmarks.slope import fit_slope
from benchmarks.user_clients import read_lines
from benchmarks.user_cluster import DesktopStatus, Observations, Response
from benchmarks.verdicts import (
    BREAK_SECONDS,
    ClusterResults,
    LineCounts,
    count_lines,
    lines_table,
    memory_table,
    record_kills,
    write_json,
)


def line(word: str, done: bool = False) -> bytes:
    return json.dumps({"response": word, "done": done}).encode()


class LineCheckerTests(SynchronousTestCase):
    """The check of a response of three lines."""

    def check(self, *lines: bytes) -> LineChecker:
        checker = LineChecker(3)
        for each in lines:
            checker.add(each)
        return checker

    def test_a_complete_response_lacks_nothing(self) -> None:
        """Each word that the model server is given comes once."""
        checker = self.check(*map(line, words(3)), line("", done=True))
        self.assertTrue(checker.is_complete)
        self.assertEqual((checker.received, checker.missing), (3, 0))
        self.assertEqual((checker.repeated, checker.damaged), (0, 0))

    def test_a_line_that_is_passed_over_is_missing(self) -> None:
        """The response is not complete then, although its end came."""
        checker = self.check(line("0"), line("2"), line("", done=True))
        self.assertEqual((checker.missing, checker.skipped), (1, 1))
        self.assertEqual(checker.received, 2)

    def test_a_response_that_ends_early_lacks_the_rest(self) -> None:
        """Also if the end is announced."""
        for end in ((), (line("", done=True),)):
            checker = self.check(line("0"), *end)
            self.assertEqual(checker.missing, 2)
            self.assertFalse(checker.is_complete)

    def test_a_line_that_comes_twice_is_repeated(self) -> None:
        """It does not make up for one that is missing."""
        checker = self.check(line("0"), line("1"), line("1"), line("", done=True))
        self.assertEqual((checker.repeated, checker.missing), (1, 1))
        self.assertFalse(checker.is_complete)

    def test_a_line_without_a_number_is_damaged(self) -> None:
        """Such as an error within a response."""
        checker = self.check(b'{"error": "it ended"}', b"{", b"[]", line("x"))
        self.assertEqual((checker.damaged, checker.received, checker.missing), (4, 0, 3))


class ChunkTests(SynchronousTestCase):
    """The reader of bodies with chunked transfer coding."""

    def read(self, body: bytes) -> list[bytes]:
        async def run() -> list[bytes]:
            reader = asyncio.StreamReader()
            reader.feed_data(body)
            reader.feed_eof()
            return [each async for each in read_lines(reader)]

        return asyncio.run(run())

    def test_lines_do_not_depend_on_chunks(self) -> None:
        """A chunk may have parts of lines."""
        body = b"3;x=1\r\nab\n\r\n2\r\ncd\r\n4\r\ne\nf\n\r\n0\r\n\r\n"
        self.assertEqual(self.read(body), [b"ab", b"cde", b"f"])

    def test_a_body_without_its_end_raises(self) -> None:
        """The client must not take it for complete."""
        with self.assertRaises(EOFError):
            self.read(b"3\r\nab\n\r\n")


class SlopeTests(SynchronousTestCase):
    """The line of least squares."""

    def test_points_on_a_line_have_its_slope_without_error(self) -> None:
        """It may fall, too."""
        slope = fit_slope([(x, 5 - 2 * x) for x in range(4)])
        assert slope is not None
        self.assertAlmostEqual(slope.value, -2)
        self.assertAlmostEqual(slope.error, 0)
        self.assertTrue(slope.is_flat)

    def test_the_error_is_that_of_linear_regression(self) -> None:
        """It is the root of the residual variance divided by the spread of x."""
        slope = fit_slope([(1, 1), (2, 3), (3, 2), (4, 5)])
        assert slope is not None
        # Sxx 5, Sxy 5.5, residual sum of squares 2.7, and 2 degrees of freedom.
        self.assertAlmostEqual(slope.value, 1.1)
        self.assertAlmostEqual(slope.error, (2.7 / 2 / 5) ** 0.5)

    def test_what_grows_more_than_by_chance_is_not_flat(self) -> None:
        """Unless it grows by little in all."""
        noise = (0.0, 0.1, -0.1, 0.05, -0.05)
        grows = fit_slope([(x, 10 + x + noise[x % 5]) for x in range(20)])
        little = fit_slope([(x, 10_000 + x + noise[x % 5]) for x in range(20)])
        chance = fit_slope([(x, 10 + 10 * noise[x % 5] + x / 100) for x in range(20)])
        self.assertEqual(
            [each and each.is_flat for each in (grows, little, chance)], [False, True, True]
        )

    def test_few_points_have_no_slope(self) -> None:
        """Two have no error, and points at one time no line."""
        self.assertIsNone(fit_slope([(1, 1), (2, 2)]))
        self.assertIsNone(fit_slope([(1, 1), (1, 2), (1, 3)]))

    def test_parts_have_slopes_by_name(self) -> None:
        """The table has them in kB."""
        samples = [Sample(60.0 * n, {"backend": 50.0 + n}, {"backend": 9 + n}) for n in range(4)]
        self.assertAlmostEqual(memory_slopes(samples)["backend"].value, 1 / 60)
        row = memory_table(samples, "minute").splitlines()[2]
        self.assertEqual(
            [cell.strip() for cell in row.strip("|").split("|")],
            ["backend", "50.0", "53.0", "+1,024", "0", "no", "9 → 12"],
        )


class VerdictTests(SynchronousTestCase):
    """Which lines count as lost."""

    def response(self, missing: int = 0, **changes: object) -> Response:
        fields = {
            "user": "user1", "began": 100.0, "ended": 200.0, "status": 200, "reason": "broke",
            "is_complete": not missing, "received": 10 - missing, "missing": missing,
            "repeated": 0, "damaged": 0, **changes,
        }  # fmt: skip
        observations = Observations()
        observations.add_client_event({"event": "response", **fields})
        (found,) = observations.responses
        return found

    def test_complete_responses_lose_nothing(self) -> None:
        """A kill excuses nothing then."""
        counts = count_lines([self.response()], {"user1": [199.0]})
        self.assertEqual((counts.expected, counts.received), (10, 10))
        self.assertEqual((counts.lost, counts.excused, counts.broken), (0, 0, 0))

    def test_a_broken_response_loses_its_rest(self) -> None:
        """And the first reason is kept."""
        counts = count_lines([self.response(4)], {"user2": [199.0]})
        self.assertEqual((counts.expected, counts.lost, counts.broken), (10, 4, 1))
        self.assertEqual(counts.reason, "user1: broke")

    def test_a_kill_just_before_the_end_excuses_it(self) -> None:
        """A kill long before, or after, does not; nor one of before the response."""
        for at, excused in (
            (199.0, 4), (200 - BREAK_SECONDS - 1, 0), (201.0, 0), (99.0, 0),
        ):  # fmt: skip
            counts = count_lines([self.response(4)], {"user1": [at]})
            self.assertEqual((counts.excused, counts.lost), (excused, 4 - excused))
        # The next response of the same client, which began after the kill, and is short.
        counts = count_lines([self.response(4, began=195.0)], {"user1": [190.0]})
        self.assertEqual((counts.excused, counts.lost), (0, 4))

    def test_a_refused_request_is_owed_no_lines(self) -> None:
        """It is counted apart."""
        counts = count_lines([self.response(10, status=503)], {})
        self.assertEqual((counts.refused, counts.responses, counts.expected), (1, 0, 0))

    def test_repeated_lines_do_not_add_to_what_is_expected(self) -> None:
        """A response of ten lines has ten, also if one comes twice."""
        counts = count_lines([self.response(received=11, repeated=1)], {})
        self.assertEqual((counts.expected, counts.received, counts.repeated), (10, 11, 1))

    def test_counts_are_merged_and_shown(self) -> None:
        """The parts of a phase are one row."""
        counts = count_lines([self.response(4)], {})
        counts.merge(count_lines([self.response()], {}))
        self.assertEqual((counts.responses, counts.expected), (2, 20))
        self.assertEqual(counts.reason, "user1: broke")
        self.assertIn("| steady | 2 ", lines_table({"steady": counts}))

    def test_merged_counts_have_the_first_reason(self) -> None:
        """Of many responses that broke, one is reported."""
        earlier = count_lines([self.response(4)], {})
        counts = count_lines([self.response(4, user="user2")], {})
        counts.merge(earlier)
        self.assertEqual((counts.broken, counts.reason), (2, "user1: broke"))


class ClusterResultTests(SynchronousTestCase):
    """What is kept of a run."""

    def samples(self) -> list[Sample]:
        return [Sample(3600.0 * n, {"backend": 50.0 + n}, {"backend": 9}) for n in range(4)]

    def test_samples_of_the_warm_up_do_not_count(self) -> None:
        """Unless there are no others."""
        results = ClusterResults(1, 1.0, "none", 1, samples=self.samples(), warm_up_until=7200.0)
        self.assertEqual(results.steady_samples, results.samples[2:])
        results.warm_up_until = 1e9
        self.assertEqual(results.steady_samples, results.samples)

    def test_results_are_stored_for_programs(self) -> None:
        """With counts by phase, and slopes in bytes an hour."""
        results = ClusterResults(
            1, 1.0, "none", 1, {"steady": LineCounts(lost=2)}, self.samples(),
            audit=Counter({"proxy.started": 3}),
        )  # fmt: skip
        file = Path(self.mktemp())
        write_json(file, results)
        stored = json.loads(file.read_bytes())
        self.assertEqual((stored["users"], stored["lines"]["steady"]["lost"]), (1, 2))
        self.assertEqual(stored["audit"], {"proxy.started": 3})
        self.assertAlmostEqual(stored["slopes_bytes_per_hour"]["backend"]["value"], 1 << 20)

    def test_the_time_of_a_kill_is_recorded_for_each_user(self) -> None:
        """A later one does not replace it."""
        kills: dict[str, list[float]] = {}
        record_kills(kills, ["user1", "user2"])
        record_kills(kills, ["user1"])
        self.assertEqual({user: len(times) for user, times in kills.items()},
                         {"user1": 2, "user2": 1})  # fmt: skip

    def test_the_reasons_of_all_desktops_are_added(self) -> None:
        """The most frequent one is first."""
        observed = Observations()
        observed.desktops = {
            0: DesktopStatus(3, 7, {"a": 1}), 1: DesktopStatus(2, 5, {"a": 1, "b": 4}),
        }  # fmt: skip
        self.assertEqual((observed.ready_desktops, observed.timers), (5, 12))
        self.assertEqual(observed.desktop_problems, "4 b; 2 a")


class SamplingTests(SynchronousTestCase):
    """The thread that samples memory."""

    def test_samples_are_taken_until_the_block_ends(self) -> None:
        """Its thread has ended then."""
        samples: list[Sample] = []
        threads = threading.enumerate()
        sampled = threading.Event()

        def pids() -> Pids:
            if samples:
                sampled.set()
            return {"this": (os.getpid(),)}

        with sample_regularly(pids, 0.0, samples):
            self.assertTrue(sampled.wait(30))
        self.assertGreater(samples[0].memory["this"], 1.0)
        self.assertEqual(threading.enumerate(), threads)

    def test_an_error_ends_the_block(self) -> None:
        """Otherwise the results would lack samples silently."""
        called = threading.Event()

        def pids() -> Pids:
            called.set()
            raise Unavailable("no processes")

        with self.assertRaises(Unavailable), sample_regularly(pids, 0.0, []):
            called.wait(30)


class InventoryTests(SynchronousTestCase):
    """What is read from the output of programs."""

    def test_links_have_names_without_their_peer(self) -> None:
        """A veth pair shows both."""
        lines = ["1: lo: <UP> mtu 65536", "7: veth12@if6: <UP> mtu 1500"]
        self.assertEqual(list(link_names(lines)), ["lo", "veth12"])

    def test_rules_do_not_differ_by_their_counters(self) -> None:
        """The same rule is in the same table."""
        saved = "# x\n*filter\n:INPUT ACCEPT [12:345]\n-A INPUT -j DROP\nCOMMIT\n"
        self.assertEqual(list(rules(saved)), ["filter: :INPUT ACCEPT", "filter: -A INPUT -j DROP"])

    def test_control_groups_are_found_and_removed(self) -> None:
        """In each hierarchy of version 1, or in the one of version 2; others stay."""
        mounted = Path(self.mktemp())
        ours = [mounted / "memory/bench/a", mounted / "pids/bench/a", mounted / "bench/b"]
        other = mounted / "memory/docker/c"
        for each in (*ours, other):
            each.mkdir(parents=True)
        self.assertEqual(set(control_groups("/bench", mounted)), set(map(str, ours)))
        remove_control_groups("/bench", mounted)
        self.assertEqual(list(control_groups("/bench", mounted)), [])
        self.assertEqual(list(mounted.glob("**/bench")), [])
        self.assertTrue(other.exists())

    def test_what_is_left_over_is_counted_by_kind(self) -> None:
        """The kind is the first word."""
        left_over = {"link a", "link b", "mount /x"}
        self.assertEqual(summarise(left_over), "2 link, 1 mount")
        self.assertEqual(summarise([]), "nothing")
