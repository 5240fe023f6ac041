"""The restrictions of a process, attempts in processes of the test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from ctllm.system import sandbox
from ctllm.system.sandbox import landlock_version, restrict_file_access

#: Prints a word for each attempt that succeeds.
TRY = """
import json, os, socket, sys
from ctllm.system.sandbox import restrict_file_access, forbid_inspection, forbid_new_privileges
folder, allowed, parent = sys.argv[1:]
server = socket.create_server(("127.0.0.1", 0))
BEFORE
done = []
def attempt(word, doing):
    try:
        doing()
    except OSError:
        return
    done.append(word)
attempt("read", lambda: open(f"{folder}/secret").read())
attempt("list", lambda: os.listdir(folder))
attempt("write", lambda: open(f"{folder}/new", "w"))
attempt("link", lambda: os.symlink("x", f"{folder}/link"))
attempt("remove", lambda: os.unlink(f"{folder}/spare"))
attempt("write allowed", lambda: open(f"{allowed}/new", "w"))
attempt("read allowed", lambda: open(f"{allowed}/public").read())
attempt("environment", lambda: open(f"/proc/{parent}/environ").read())
attempt("memory", lambda: open(f"/proc/{parent}/mem", "rb").close())
attempt("signal", lambda: os.kill(int(parent), 0))
attempt("dial", lambda: socket.create_connection(server.getsockname()))
attempt("bind", lambda: socket.create_server(("127.0.0.1", 0)))
def run():
    if os.spawnv(os.P_WAIT, "/bin/true", ["true"]):
        raise OSError
attempt("run", run)
print(json.dumps(done))
"""
CONFINED = """
forbid_new_privileges()
restrict_file_access([allowed, "/nowhere"])
forbid_inspection()
"""
ALL = [
    "read", "list", "write", "link", "remove", "write allowed", "read allowed", "environment",
    "memory", "signal", "dial", "bind", "run",
]  # fmt: skip


class SandboxTests(SynchronousTestCase):
    """A process and a directory that it must not reach."""

    def attempts(self, before: str) -> list[str]:
        folder, allowed = (Path(tempfile.mkdtemp(prefix="ctllm-")) for _ in range(2))
        for each in (folder, allowed):
            self.addCleanup(shutil.rmtree, each)
        (folder / "secret").touch()
        (folder / "spare").touch()
        (allowed / "public").touch()
        argv = [sys.executable, "-c", TRY.replace("BEFORE", before), str(folder), str(allowed)]
        ran = subprocess.run([*argv, str(os.getpid())], capture_output=True, check=False)
        self.assertEqual(ran.returncode, 0, ran.stderr.decode())
        found: list[str] = json.loads(ran.stdout)
        return found

    def test_every_attempt_succeeds_without_restrictions(self) -> None:
        self.assertEqual(self.attempts(""), ALL)

    def test_allows_only_reading_of_what_is_listed(self) -> None:
        version = landlock_version()
        if not version:
            raise SkipTest("this kernel has no Landlock")
        left = {"read allowed"}
        if version < 4:
            left |= {"dial", "bind"}
        if version < 6:
            left |= {"signal"}
        self.assertEqual(set(self.attempts(CONFINED)), left)

    def test_the_kernel_reports_no_new_privileges_and_no_inspection(self) -> None:
        code = (
            "import ctypes\n"
            "from ctllm.system.sandbox import forbid_inspection, forbid_new_privileges\n"
            "def flags(): return [ctypes.CDLL(None).prctl(each, 0, 0, 0, 0) for each in (3, 39)]\n"
            "before = flags()\nforbid_new_privileges()\nforbid_inspection()\nprint(before, flags())"
        )
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        self.assertIn(b"] [0, 1]", ran.stdout)


class LandlockVersionTests(SynchronousTestCase):
    """Kernels of other versions, as far as the system calls show."""

    def calls(self, version: int) -> list[Any]:
        made: list[Any] = []

        def call(name: str, *arguments: Any) -> int:
            if arguments[0] == 444 and arguments[1] is None:
                if version:
                    return version
                raise OSError(38, "Function not implemented")
            made.append(arguments)
            return os.open(os.devnull, os.O_RDONLY) if arguments[0] == 444 else 0

        self.patch(sandbox, "_call", call)
        restrict_file_access(["/"])
        return made

    def test_does_nothing_without_landlock(self) -> None:
        self.assertEqual((self.calls(0), landlock_version()), ([], 0))

    def test_asks_each_version_for_the_rights_that_it_knows(self) -> None:
        """The kernel refuses unknown ones."""
        for version, files, tcp, scopes in (
            (1, 0x1FFF, 0, 0), (2, 0x3FFF, 0, 0), (3, 0x7FFF, 0, 0), (4, 0x7FFF, 3, 0),
            (5, 0xFFFF, 3, 0), (6, 0xFFFF, 3, 3), (9, 0xFFFF, 3, 3),
        ):  # fmt: skip
            first, *_ = self.calls(version)
            words = [int.from_bytes(first[1][i : i + 8], sys.byteorder) for i in (0, 8, 16)]
            self.assertEqual(words, [files, tcp, scopes], version)


class CoreDumpTests(SynchronousTestCase):
    """The limit of core files, in another process."""

    def limits(self, before: int, command: str = "forbid_core_dumps()") -> Any:
        """Return the limits after `command`, of a process whose limits were `before`."""
        program = (
            "import json, resource\n"
            "from ctllm.system.sandbox import forbid_core_dumps\n"
            f"resource.setrlimit(resource.RLIMIT_CORE, ({before}, {before}))\n"
            f"{command}\n"
            "print(json.dumps(resource.getrlimit(resource.RLIMIT_CORE)))"
        )
        return json.loads(subprocess.check_output([sys.executable, "-c", program]))

    def test_the_limit_is_one_which_linux_does_not_dump_to_pipes_either(self) -> None:
        limit = 1 if sys.platform == "linux" else 0
        self.assertEqual(self.limits(4096), [limit, limit])

    def test_a_limit_of_zero_that_cannot_be_raised_stays(self) -> None:
        """Where a container sets it, and its process is not root."""
        if os.geteuid():
            self.assertEqual(self.limits(0), [0, 0])
            return
        command = "import os; os.setuid(65534); forbid_core_dumps()"
        self.assertEqual(self.limits(0, command), [0, 0])
