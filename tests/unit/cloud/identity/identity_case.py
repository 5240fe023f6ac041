"""Users, clocks and directories for tests of `ctllm.cloud.identity`."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.identity import (
    AccessGrant,
    Authentication,
    PrivateDirectory,
    User,
)
from ctllm.errors import Unauthorized

ALICE = User("ctllm", "alice", "alice")
MALLORY = User("ctllm", "mallory", "mallory")
USE_SCOPES = frozenset({"use"})
START = 1_000_000.0
AUTHENTICATION = Authentication(ALICE, START)


class VerifierCase(SynchronousTestCase):
    """A clock, and token verifiers that respond without waiting."""

    def setUp(self) -> None:
        self.time = START

    def now(self) -> float:
        return self.time

    def grant_of(self, coroutine: Coroutine[Deferred[object], object, AccessGrant]) -> AccessGrant:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def assert_refused(self, coroutine: Coroutine[Deferred[object], object, AccessGrant]) -> str:
        failure = self.failureResultOf(Deferred.fromCoroutine(coroutine), Unauthorized)
        return str(failure.value)


class StoreCase(SynchronousTestCase):
    """A clock and a private directory."""

    def setUp(self) -> None:
        self.time = START
        self.path = Path(self.mktemp()) / "cloud"
        self.directory = PrivateDirectory(self.path)

    def now(self) -> float:
        return self.time

    def files(self) -> list[Path]:
        return list(self.path.iterdir())


class InterferingDirectory(PrivateDirectory):
    """Calls `interfere` just before a file is created and, once, after a file is read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.interfere = lambda: None

    def create(self, name: str, data: bytes) -> bool:
        """Call `interfere`, then create the file."""
        self.interfere()
        return super().create(name, data)

    def read(self, name: str) -> bytes | None:
        """Read the file, then call `interfere`."""
        data = super().read(name)
        if data is not None:
            interfere, self.interfere = self.interfere, lambda: None
            interfere()
        return data
