"""What `ctllm top` shows: rates from two reports of a cloud, and the lines of the screen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from itertools import chain
from operator import itemgetter

import msgspec

from ctllm.cli.proxies import format_count, format_duration, short_id
from ctllm.cloud.admin.status import CloudStatus
from ctllm.cloud.proxies.info import ProxyInfo
from ctllm.common.sanitize import sanitize_line


class ProxyUse(msgspec.Struct, frozen=True, kw_only=True):
    """What one streaming proxy does now. A field is None where the value is not known.

    `cpu_percent` is of one processor. The rates are those of responses; a chunk is a line or an
    event of a model that streams.
    """

    proxy: str
    state: str
    age_seconds: float
    idle_seconds: float | None
    requests: int | None
    desktops: int | None
    chunks_per_second: float | None
    bytes_per_second: float | None
    memory_bytes: int | None
    cpu_percent: float | None


class CloudUse(msgspec.Struct, frozen=True, kw_only=True):
    """What a cloud does now. `starts` and `failed_starts` count since it started."""

    version: str
    uptime_seconds: float
    is_draining: bool
    problem: str
    max_proxies: int
    starts: int
    failed_starts: int
    proxies: tuple[ProxyUse, ...]


def compare(earlier: CloudStatus | None, status: CloudStatus) -> CloudUse:
    """Return what a cloud does, with the rates between two of its reports."""
    seconds = 0.0 if earlier is None else status.time - earlier.time
    before = {} if earlier is None else {proxy.id: proxy for proxy in earlier.proxies}
    return CloudUse(
        version=status.version,
        uptime_seconds=status.uptime,
        is_draining=status.is_draining,
        problem=status.problem,
        max_proxies=status.max_proxies,
        starts=status.starts,
        failed_starts=status.failed_starts,
        proxies=tuple(_use(before.get(proxy.id), proxy, seconds) for proxy in status.proxies),
    )


def _use(before: ProxyInfo | None, proxy: ProxyInfo, seconds: float) -> ProxyUse:
    def rate(value: Callable[[ProxyInfo], float | None]) -> float | None:
        old, new = None if before is None else value(before), value(proxy)
        if old is None or new is None or new < old or seconds <= 0:
            return None  # a counter that is lower is that of another process
        return (new - old) / seconds

    cpu = rate(lambda each: each.cpu)
    return ProxyUse(
        proxy=short_id(proxy.id),
        state=_state(proxy),
        age_seconds=proxy.age,
        idle_seconds=proxy.idle,
        requests=proxy.active_requests,
        desktops=proxy.desktops,
        chunks_per_second=rate(lambda each: each.response_chunks),
        bytes_per_second=rate(lambda each: each.response_bytes),
        memory_bytes=proxy.memory,
        cpu_percent=None if cpu is None else 100 * cpu,
    )


def _state(proxy: ProxyInfo) -> str:
    is_silent = proxy.state == "running" and proxy.active_requests is None
    return "no reply" if is_silent else proxy.state


@dataclass(frozen=True, slots=True)
class _Column:
    """A column: its heading, its width, its text and the value by which it is sorted."""

    heading: str
    width: int
    text: Callable[[ProxyUse], str]
    value: Callable[[ProxyUse], str | float | None]

    def align(self, text: str) -> str:
        """Return `text` in the width of the column: words to the left, numbers to the right."""
        return f"{text:<{self.width}.{self.width}}" if self.is_text else f"{text:>{self.width}}"

    @property
    def is_text(self) -> bool:
        """Whether the column has words."""
        return self.heading in ("PROXY", "STATE")


def format_bytes(value: float | None) -> str:
    """Return a number of bytes in at most 8 characters, or a hyphen."""
    if value is None:
        return "-"
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} B"


def _format_rate(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if 0 < value < 10 else f"{value:.0f}"


_COLUMNS = (
    _Column("PROXY", 12, lambda use: use.proxy, lambda use: use.proxy),
    _Column("STATE", 8, lambda use: use.state, lambda use: use.state),
    _Column("AGE", 6, lambda use: format_duration(use.age_seconds), lambda use: use.age_seconds),
    _Column("IDLE", 6, lambda use: format_duration(use.idle_seconds), lambda use: use.idle_seconds),
    _Column("REQS", 5, lambda use: format_count(use.requests), lambda use: use.requests),
    _Column("DESK", 4, lambda use: format_count(use.desktops), lambda use: use.desktops),
    _Column("CHUNKS/S", 8, lambda use: _format_rate(use.chunks_per_second),
            lambda use: use.chunks_per_second),
    _Column("BYTES/S", 8, lambda use: format_bytes(use.bytes_per_second),
            lambda use: use.bytes_per_second),
    _Column("MEMORY", 8, lambda use: format_bytes(use.memory_bytes), lambda use: use.memory_bytes),
    _Column("CPU", 5, lambda use: "-" if use.cpu_percent is None else f"{use.cpu_percent:.0f}%",
            lambda use: use.cpu_percent),
)  # fmt: skip
#: What `--sort` takes.
SORT_KEYS = tuple(column.heading.lower().removesuffix("/s") for column in _COLUMNS)


class Style(Enum):
    """How a line is shown."""

    PLAIN = auto()
    SUMMARY = auto()
    HEADING = auto()
    ALERT = auto()
    HINT = auto()


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the screen."""

    text: str
    style: Style = Style.PLAIN


@dataclass(frozen=True, slots=True)
class View:
    """What somebody chose to see: the column by which rows are sorted, and the first row."""

    sort: str = "memory"
    is_reversed: bool = False
    offset: int = 0

    def pressed(self, key: str) -> View:
        """Return the view after a key was pressed; one without a meaning changes nothing."""
        index = SORT_KEYS.index(self.sort)
        match key:
            case "right" | ">":
                return replace(self, sort=SORT_KEYS[(index + 1) % len(SORT_KEYS)], offset=0)
            case "left" | "<":
                return replace(self, sort=SORT_KEYS[index - 1], offset=0)
            case "r":
                return replace(self, is_reversed=not self.is_reversed, offset=0)
            case "down" | "j":
                return replace(self, offset=self.offset + 1)
            case "up" | "k":
                return replace(self, offset=max(0, self.offset - 1))
            case _:
                return self

    def order(self, proxies: Sequence[ProxyUse]) -> list[ProxyUse]:
        """Return the proxies in order: of numbers the largest first, and unknown ones last."""
        column = _COLUMNS[SORT_KEYS.index(self.sort)]
        by_name = sorted(proxies, key=lambda use: use.proxy)
        known = [(value, use) for use in by_name if (value := column.value(use)) is not None]
        known.sort(key=itemgetter(0), reverse=column.is_text == self.is_reversed)
        unknown = [use for use in by_name if column.value(use) is None]
        return [*(use for _, use in known), *unknown]


#: The last line.
_HINT = "q quit   < > sort: {sort}   r reverse   j k scroll"


def render(use: CloudUse | None, problem: str, view: View, height: int) -> list[Line]:
    """Return the lines of a screen that has `height` lines.

    `use` is None while the cloud does not respond; `problem` says why.
    """
    if use is None:
        return [Line(sanitize_line(problem), Style.ALERT)][:height]
    top = [*summary(use), *_alerts(use), Line(""), Line(_heading(), Style.HEADING)]
    room = max(0, height - len(top) - 1)
    ordered = view.order(use.proxies)
    first = min(view.offset, max(0, len(ordered) - room))
    shown = [Line(_row(each)) for each in ordered[first : first + room]]
    hint = _HINT.format(sort=view.sort)
    if len(ordered) > room:
        hint += f"   {first + 1}-{first + len(shown)} of {len(ordered)}"
    padding = [Line("")] * (room - len(shown))
    return [*top, *shown, *padding, Line(hint, Style.HINT)][:height]


def table(use: CloudUse, view: View) -> list[str]:
    """Return all lines, for an output that is no terminal."""
    lines = chain(summary(use), _alerts(use), (Line(""), Line(_heading())))
    return [
        *(line.text for line in lines),
        *(_row(each).rstrip() for each in view.order(use.proxies)),
    ]


def summary(use: CloudUse) -> list[Line]:
    """Return the lines about the cloud as a whole."""
    starting = sum(each.state == "starting" for each in use.proxies)
    cloud = (
        f"ctllm {sanitize_line(use.version)}",
        f"up {format_duration(use.uptime_seconds)}",
        f"proxies {len(use.proxies)} of {use.max_proxies}, {starting} starting",
        f"requests {_sum(each.requests for each in use.proxies):.0f}",
        f"desktops {_sum(each.desktops for each in use.proxies):.0f}",
    )
    traffic = (
        f"chunks/s {_format_rate(_sum(each.chunks_per_second for each in use.proxies))}",
        f"bytes/s {format_bytes(_sum(each.bytes_per_second for each in use.proxies))}",
        f"memory {format_bytes(_sum(each.memory_bytes for each in use.proxies))}",
        f"starts {use.starts}",
        f"failed {use.failed_starts}",
    )
    return [Line("  ".join(parts), Style.SUMMARY) for parts in (cloud, traffic)]


def _sum(values: Iterable[float | None]) -> float:
    return sum(value for value in values if value is not None)


def _alerts(use: CloudUse) -> list[Line]:
    texts = []
    if use.is_draining:
        texts.append("The cloud is draining: it accepts no new requests. See: ctllm proxies resume")
    if use.problem:
        texts.append(f"Proxies cannot be started: {sanitize_line(use.problem)}")
    return [Line(text, Style.ALERT) for text in texts]


def _heading() -> str:
    return " ".join(column.align(column.heading) for column in _COLUMNS)


def _row(use: ProxyUse) -> str:
    return sanitize_line(" ".join(column.align(column.text(use)) for column in _COLUMNS))
