"""Judges whether the lines of `GET /ctllm/health/stream` arrived as they were sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.server.checks.connection import ProbeError

STREAM_PATH = "/ctllm/health/stream"
#: The seconds between the first and the last line that are enough to judge.
_MIN_SENT_SECONDS = 0.3


class Line(msgspec.Struct, frozen=True):
    """A line: its number, how many there are, and the seconds since the first one was sent."""

    line: Annotated[int, Meta(ge=1, le=100)]
    lines: Annotated[int, Meta(ge=2, le=100)]
    seconds: Annotated[float, Meta(ge=0, le=60)]


def parse_arrivals(pieces: Sequence[tuple[float, bytes]]) -> list[tuple[float, Line]]:
    """Return each line with the time at which its end arrived; raises ProbeError."""
    found, rest = [], b""
    for arrived, data in pieces:
        *lines, rest = (rest + data).split(b"\n")
        try:
            found += [(arrived, decode_json(line, Line, 200)) for line in lines]
        except InvalidJson as error:
            raise ProbeError(f"a line of {STREAM_PATH} is not as expected: {error}") from error
    if rest or not found or len(found) != found[0][1].lines:
        raise ProbeError(f"{STREAM_PATH} is not complete")
    return found


def measure_delay(arrivals: Sequence[tuple[float, Line]]) -> tuple[float, float]:
    """Return the seconds from the first to the last line: as sent, and as arrived.

    Raises ProbeError if they were sent too fast to judge.
    """
    (first_time, first), (last_time, last) = arrivals[0], arrivals[-1]
    sent = last.seconds - first.seconds
    if sent < _MIN_SENT_SECONDS:
        raise ProbeError(f"the lines of {STREAM_PATH} were sent without pauses")
    return sent, last_time - first_time


def is_streamed(sent: float, arrived: float) -> bool:
    """Whether lines that took `sent` seconds to send arrived one by one.

    A slow reader can make lines arrive together, and nothing can make them arrive apart that were
    collected. So half of the time is proof enough.
    """
    return arrived >= sent / 2
