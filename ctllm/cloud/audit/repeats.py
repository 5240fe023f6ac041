"""Like events that follow each other are one line, and later their number.

What a client can repeat at will must not fill the disk. For each event, equal entries are written
once in an interval, and at most `max_lines` different ones in a minute. The others are counted.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from msgspec import structs

from ctllm.cloud.audit.entries import AuditEntry

#: Seconds in which an equal entry is counted instead of written.
INTERVAL = 60.0
#: The same for the uses of an API key: a program uses its key all day.
USE_INTERVAL = 3600.0
#: Different entries of one event that are written in a minute.
MAX_LINES = 120
#: The reason of a line that counts different entries.
AGGREGATED = "aggregated"

_MINUTE = 60.0
#: The events that clients can repeat at will, and the interval of each.
INTERVALS = {
    "proxy.start_refused": INTERVAL,
    "session.renewal_refused": INTERVAL,
    "login.refused": INTERVAL,
    "key.used": USE_INTERVAL,
    "key.refused": INTERVAL,
    "machine.requested": INTERVAL,
    "request.refused": INTERVAL,
}


@dataclass(slots=True)
class _Repeats:
    """The entries of one event: when the interval of each ends, and how often it was repeated."""

    entries: OrderedDict[AuditEntry, list[float]] = field(default_factory=OrderedDict)
    minute_ends: float = 0.0
    lines: int = 0
    uncounted: int = 0  # entries that have no line, not even for the first of them


class RepeatFilter:
    """Decides which entries are written. Times are epoch seconds; entries have an empty `time`."""

    def __init__(self, max_lines: int = MAX_LINES) -> None:
        self._max_lines = max_lines
        self._events: dict[str, _Repeats] = {}

    def admits(self, entry: AuditEntry, now: float, number: int = 1) -> bool:
        """Return whether to write `entry` now; otherwise count it.

        `number` is how often it has happened. All but the first time are counted in any case.
        """
        interval = INTERVALS.get(entry.event)
        if interval is None:
            return True
        repeats = self._events.setdefault(entry.event, _Repeats())
        known = repeats.entries.get(entry)
        if known is not None:
            known[1] += number
            return False
        if now >= repeats.minute_ends:
            repeats.minute_ends, repeats.lines = now + _MINUTE, 0
        if repeats.lines >= self._max_lines:
            repeats.uncounted += number
            return False
        repeats.lines += 1
        repeats.entries[entry] = [now + interval, number - 1]
        return True

    def take_counts(self, now: float) -> list[AuditEntry]:
        """Return the entries whose interval has ended, if repeated, each with its count.

        Call it at least every few seconds: until then, an entry counts as a repetition.
        """
        counted: list[AuditEntry] = []
        for event, repeats in self._events.items():
            entries = repeats.entries
            while entries and next(iter(entries.values()))[0] <= now:
                entry, (_, count) = entries.popitem(last=False)
                if count:
                    counted.append(structs.replace(entry, count=int(count)))
            if repeats.uncounted and now >= repeats.minute_ends:
                counted.append(_aggregate(event, repeats.uncounted))
                repeats.uncounted = 0
        return counted

    def take_all_counts(self) -> list[AuditEntry]:
        """Return all entries that were repeated, each with its count: the log is closed."""
        return self.take_counts(float("inf"))


def _aggregate(event: str, count: int) -> AuditEntry:
    return AuditEntry("", event, reason=AGGREGATED, count=count)  # type: ignore[arg-type]
