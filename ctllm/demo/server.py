"""The stand-in as a whole: what to listen with, how to script it, what it saw."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred

from ctllm.demo.clock import Clock
from ctllm.demo.http_site import Site
from ctllm.demo.model_store import Shelf
from ctllm.demo.records import Record, Records
from ctllm.demo.request_handler import Setting
from ctllm.demo.script import Script, Scripts, Where

DEMO = "demo:echo"


class Standin:
    """A server with Ollama's wire and no model behind it.

    `clock` measures durations, `now` gives epoch seconds, `models` are the names that it has,
    `word_interval` is the seconds between two words, `guard_host` whether a foreign Host or Origin
    is refused, `control` whether it can be scripted over HTTP (`ctllm.demo.control`), `keep` how
    many records it keeps. Listen with `site`. Records hold what people wrote: outside of tests keep
    none, as `demo` does.
    """

    def __init__(
        self,
        clock: Clock,
        models: Iterable[str] = (DEMO,),
        word_interval: float = 0.03,
        guard_host: bool = True,
        *,
        control: bool = False,
        keep: int = 1000,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._names = tuple(models)
        self._setting = Setting(
            clock=clock,
            now=now,
            scripts=Scripts(),
            records=Records(keep),
            shelf=Shelf(self._names, now()),
            word_interval=word_interval,
            guard_host=guard_host,
            control=control,
        )
        self.site = Site(self._setting)

    @classmethod
    def demo(cls, clock: Clock) -> Standin:
        """Make the one that people meet when there is no Ollama: it remembers nothing."""
        return cls(clock, keep=0)

    @property
    def requests(self) -> Records:
        """The records of the newest requests, oldest first; a sequence."""
        return self._setting.records

    @property
    def models(self) -> list[str]:
        """The names of the models it has now, with tags."""
        return list(self._setting.shelf.models)

    def script(self, where: Where, script: Script, *, times: int | None = None) -> None:
        """Answer by a script what comes for a path, or what a predicate of its record fits.

        The newest script that fits wins; with `times` it serves so many requests and no more.
        """
        self._setting.scripts.add(where, script, times)

    def wait_for(self, predicate: Callable[[Record], bool]) -> Deferred[Record]:
        """Fire with the first record that fits, as soon as one does; cancel it to give up."""
        return self._setting.records.wait_for(predicate)

    def reset(self) -> None:
        """Forget scripts and records and have the first models again; what runs goes on."""
        self._setting.scripts.clear()
        self._setting.records.clear()
        self._setting.shelf = Shelf(self._names, self._setting.now())
