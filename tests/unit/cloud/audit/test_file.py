"""`ctllm.cloud.audit.file`: appending and rotation, by several processes."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.audit.entries import format_time
from ctllm.cloud.audit.file import MAX_AGE, AuditFile
from ctllm.system.private_dir import open_directory

NOW = 1_700_000_000.0
DAY = 86400.0


def line(number: int, at: float = NOW) -> bytes:
    return b'{"time":"%s","event":"proxy.started","proxy":"%d"}' % (
        format_time(at).encode(),
        number,
    )


def append_many(path: Path, first: int, count: int) -> None:
    file = AuditFile(path, max_bytes=2000)
    for number in range(first, first + count):
        file.append(line(number), NOW)


class AuditFileTests(SynchronousTestCase):
    """A file in a directory of its own."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute() / "audit.jsonl"
        self.path.parent.mkdir(mode=0o700)

    def content(self, file: AuditFile) -> list[bytes]:
        lines = (each for path in file.files() for each in path.read_bytes().splitlines())
        return [each for each in lines if each]

    def test_rotates_before_a_line_that_would_exceed_the_size(self) -> None:
        file = AuditFile(self.path, max_bytes=300)
        lines = [line(each) for each in range(20)]
        for each in lines:
            file.append(each, NOW)
        self.assertEqual(self.content(file), lines)
        sizes = [path.stat().st_size for path in file.files()]
        self.assertGreater(len(sizes), 3)
        self.assertLessEqual(max(sizes), 300)
        self.assertEqual({path.stat().st_mode & 0o777 for path in file.files()}, {0o600})

    def test_rotates_a_file_whose_first_line_is_old_even_after_a_restart(self) -> None:
        AuditFile(self.path).append(line(1), NOW)
        file = AuditFile(self.path)
        file.append(line(2), NOW + MAX_AGE)
        self.assertEqual(len(file.files()), 1)
        file.append(line(3), NOW + MAX_AGE + 1)
        self.assertEqual(len(file.files()), 2)
        self.assertEqual(self.path.read_bytes(), line(3) + b"\n")

    def test_removes_rotated_files_after_the_retention_time_and_nothing_else(self) -> None:
        file = AuditFile(self.path, max_bytes=100, retention_days=30)
        others = [self.path.with_name(name) for name in ("audit.jsonl.1", "audit.notes.jsonl",
                  "audit.20011128T213001Z.jsonl", "signing-key")]  # fmt: skip
        for other in others:
            other.write_bytes(b"mine")
        for day in (0, 1, 2):
            file.append(line(day), NOW + day * DAY)
        self.assertEqual(len(file.files()), 3)
        self.assertEqual(file.remove_expired(NOW + 31 * DAY + 1), 1)
        self.assertEqual(file.remove_expired(NOW + 400 * DAY), 1)
        self.assertEqual(file.files(), [self.path])
        self.assertTrue(all(other.exists() for other in others))

    def test_several_processes_lose_no_line_and_none_is_written_twice(self) -> None:
        context = multiprocessing.get_context("fork")
        writers = [
            context.Process(target=append_many, args=(self.path, 1000 * each, 300))
            for each in range(4)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        file = AuditFile(self.path)
        expected = sorted(line(1000 * each + i) for each in range(4) for i in range(300))
        self.assertEqual(sorted(self.content(file)), expected)
        sizes = [path.stat().st_size for path in file.files()[:-1]]
        self.assertGreater(min(sizes), 1000, "A file was rotated although it was new.")

    def test_a_file_that_another_process_has_just_rotated_is_not_rotated_again(self) -> None:
        file = AuditFile(self.path, max_bytes=100)
        file.append(line(1), NOW)
        lock = fcntl.flock

        def rotate_first(descriptor: int, operation: int) -> None:
            self.path.rename(self.path.with_name("audit.19990101T000000.000000Z.jsonl"))
            self.path.write_bytes(b"{}\n")
            lock(descriptor, operation)

        self.patch(fcntl, "flock", rotate_first)
        file.append(line(2), NOW)
        self.assertEqual(self.content(file), [line(1), b"{}", line(2)])
        self.assertEqual(len(file.files()), 2)

    def test_a_process_that_holds_the_lock_delays_rotation_and_no_line(self) -> None:
        file = AuditFile(self.path, max_bytes=100)
        file.append(line(1), NOW)
        with open_directory(self.path.parent) as directory:
            fcntl.flock(directory, fcntl.LOCK_EX)
            self.assertTrue(file.append(line(2), NOW))
        self.assertEqual(file.files(), [self.path])
        file.append(line(3), NOW)
        self.assertEqual(self.content(file), [line(1), line(2), line(3)])
        self.assertEqual(len(file.files()), 2)

    def test_a_line_that_another_process_cut_off_is_ended(self) -> None:
        self.path.write_bytes(line(1) + b"\n" + line(2)[:20])
        AuditFile(self.path).append(line(3), NOW)
        self.assertEqual(self.path.read_bytes().splitlines(), [line(1), line(2)[:20], line(3)])

    def test_a_link_in_place_of_the_file_is_not_followed(self) -> None:
        target = self.path.with_name("target")
        target.write_bytes(b"")
        os.symlink(target, self.path)
        self.assertRaises(OSError, AuditFile(self.path).append, line(1), NOW)
        self.assertEqual(target.read_bytes(), b"")

    def test_names_of_two_rotations_at_one_moment_differ_and_keep_the_order(self) -> None:
        file = AuditFile(self.path, max_bytes=10)
        for each in range(4):
            file.append(line(each), NOW)
        self.assertEqual(self.content(file), [line(each) for each in range(4)])
        self.assertEqual(len(file.files()), 4)
