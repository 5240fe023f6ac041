"""The fake Ollama: the server to listen with, its scripts, and the records of its requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred

from ctllm.demo import DEMO_MODEL, DemoServer
from ctllm.demo.request_handler import ReceivedHead, ResponseWriter, ServerSettings
from ctllm.reactor.interfaces import Clock
from tests.fake_ollama.handler import ScriptedHandler
from tests.fake_ollama.records import Record, Records
from tests.fake_ollama.script import Script, Scripts, Where


class FakeOllama(DemoServer):
    """The demo server, which can be scripted and keeps records of its requests.

    `control` allows both over HTTP (`tests.fake_ollama.control`); `keep` is how many records it
    keeps.
    """

    def __init__(
        self,
        clock: Clock,
        models: Iterable[str] = (DEMO_MODEL,),
        word_interval: float = 0.03,
        guard_host: bool = True,
        *,
        control: bool = False,
        keep: int = 1000,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._scripts = Scripts()
        self._records = Records(keep)
        self._is_controllable = control
        super().__init__(
            clock, models, word_interval, guard_host, now=now, make_handler=self._make_handler
        )

    def _make_handler(
        self, settings: ServerSettings, writer: ResponseWriter, head: ReceivedHead
    ) -> ScriptedHandler:
        return ScriptedHandler(
            settings, writer, head, self._scripts, self._records, self._is_controllable
        )

    @property
    def requests(self) -> Records:
        """The records of the newest requests, oldest first; a sequence."""
        return self._records

    def script(self, where: Where, script: Script, *, times: int | None = None) -> None:
        """Follow a script for requests to a path, or for those whose record a predicate accepts.

        The newest script that matches wins. With `times`, it serves so many requests and no more.
        """
        self._scripts.add(where, script, times)

    def wait_for(self, predicate: Callable[[Record], bool]) -> Deferred[Record]:
        """Fire with the first record that a predicate accepts, as soon as there is one."""
        return self._records.wait_for(predicate)

    def reset(self) -> None:
        """Forget scripts and records, and restore the models. Requests in progress continue."""
        self._scripts.clear()
        self._records.clear()
        super().reset()
