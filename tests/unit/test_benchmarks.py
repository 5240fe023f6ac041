"""What the benchmarks compute from what they measure."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections import Counter
from pathlib import Path
from typing import cast

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
from benchmarks.soak import Faults
from benchmarks.user_clients import read_lines
from benchmarks.user_cluster import DesktopStatus, Observations, Response, UserCluster
from benchmarks.verdicts import (
    BREAK_SECONDS,
    ClusterResults,
    Kill,
    LineCounts,
    count_lines,
    failure_sentences,
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
        self.assertEqual(checker.first_damaged, '{"error": "it ended"}')


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
            "was_cut": False, "is_complete": not missing, "received": 10 - missing,
            "missing": missing, "repeated": 0, "damaged": 0, **changes,
        }  # fmt: skip
        observations = Observations()
        observations.add_client_event({"event": "response", **fields})
        (found,) = observations.responses
        return found

    def test_complete_responses_lose_nothing(self) -> None:
        """A kill excuses nothing then."""
        counts = count_lines([self.response()], {"user1": [Kill(199.0, 199.1)]})
        self.assertEqual((counts.expected, counts.received), (10, 10))
        self.assertEqual((counts.lost, counts.excused, counts.broken), (0, 0, []))

    def test_a_broken_response_loses_its_rest(self) -> None:
        """Unless a kill, of what it depends on itself, excuses it."""
        response = self.response(4)
        counts = count_lines([response], {"user2": [Kill(199.0, 199.1)]})
        self.assertEqual((counts.expected, counts.lost, counts.broken), (10, 4, [response]))

    def test_a_kill_just_before_the_end_excuses_it(self) -> None:
        """A kill long before, or after, does not; nor one of before the response."""
        for at, excused in (
            (199.0, 4), (200 - BREAK_SECONDS - 1, 0), (201.0, 0), (99.0, 0),
        ):  # fmt: skip
            counts = count_lines([self.response(4)], {"user1": [Kill(at, at)]})
            self.assertEqual((counts.excused, counts.lost), (excused, 4 - excused))
        # The next response of the same client, which began after the kill, and is short.
        counts = count_lines([self.response(4, began=195.0)], {"user1": [Kill(190.0, 190.1)]})
        self.assertEqual((counts.excused, counts.lost), (0, 4))

    def test_a_kill_that_takes_seconds_excuses_a_response_that_began_meanwhile(self) -> None:
        """Docker's command may take that long on a busy machine."""
        response = self.response(4, ended=110.0)
        for began, ended, excused in ((98.0, 101.0, 4), (109.0, 112.0, 4), (98.0, 99.0, 0)):
            counts = count_lines([response], {"user1": [Kill(began, ended)]})
            self.assertEqual((counts.excused, counts.lost), (excused, 4 - excused))

    def test_a_response_that_its_client_cut_is_excused(self) -> None:
        """The client knows that best: the command may come late."""
        counts = count_lines([self.response(4, was_cut=True)], {})
        self.assertEqual((counts.excused, counts.lost, counts.broken), (4, 0, []))

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
        self.assertIn("| steady | 2 ", lines_table({"steady": counts}))

    def test_each_response_that_broke_is_reported(self) -> None:
        """In the order in which they did, with its user, its lines and the reason."""
        earlier = count_lines([self.response(4)], {})
        counts = count_lines([self.response(3, user="user2", reason="odd")], {})
        counts.merge(earlier)
        results = ClusterResults(2, 1.0, "none", 1, {"all": counts})
        first, second = failure_sentences(results)
        self.assertRegex(first, r"^Broken, all: user1, [0-9:]{8} to [0-9:]{8}, 6 lines received, 4")
        self.assertTrue(second.startswith("Broken, all: user2") and second.endswith(": odd"))


class FakeCluster:
    """What `Faults` uses of a cluster, which records the users whose clients were started."""

    def __init__(self) -> None:
        self.users = [f"user{number}" for number in range(20)]
        self.stopping: set[str] = set()
        self.clients = self
        self.came: list[str] = []

    def send(self, do: str, users: list[str]) -> None:
        pass

    def stop_desktops(self, users: list[str]) -> None:
        self.stopping.update(users)

    def start_desktops(self, users: list[str]) -> None:
        pass

    def start_clients(self, users: list[str], lines: int) -> None:
        self.came += users


class FaultTests(SynchronousTestCase):
    """The faults of the soak."""

    def test_a_user_comes_back_once_the_former_desktop_has_stopped(self) -> None:
        """Else it would serve the next response, and break it."""
        cluster, counts = FakeCluster(), Counter[str]()
        faults = Faults(cast(UserCluster, cluster), 1, counts)
        while len(faults.absent) < 2:
            faults.cause_one_of("user left")
        first, second = faults.absent
        faults.cause_one_of("user came")
        self.assertEqual((cluster.came, counts["user came"]), ([], 0))
        cluster.stopping.discard(second)
        faults.cause_one_of("user came")
        self.assertEqual((cluster.came, faults.absent), ([second], [first]))


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
        kills: dict[str, list[Kill]] = {}
        with record_kills(kills, ["user1", "user2"]):
            self.assertEqual(kills, {})
        with record_kills(kills, ["user1"]):
            pass
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
