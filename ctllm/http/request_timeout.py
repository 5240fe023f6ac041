"""How long whoever sent a request waits for its answer: told to the next stage, less for each one.

Stages that ask several sides and answer with what came in time (lists of models) must not share one
time-out: the inner one would answer when the outer one has given up. Clocks differ, so the header
has what is left, in milliseconds. It comes from anybody and only ever shortens a wait.
"""

from __future__ import annotations

import re

from ctllm.http.message.head import Headers, RequestHead, get_header, without_headers

TIMEOUT_HEADER = b"Ctllm-Timeout"
#: Which part of its time a stage gives to the next one: the rest is for the way back.
NEXT_STAGE_SHARE = 2 / 3

_NAME = TIMEOUT_HEADER.lower()
_MILLISECONDS = re.compile(rb"[0-9]{1,6}")


def get_timeout(head: RequestHead, maximum: float) -> float:
    """The seconds that there are for the answer to `head`: `most`, or less where it says so."""
    value = get_header(head.headers, _NAME)
    if value is None or not _MILLISECONDS.fullmatch(value):
        return maximum
    return min(int(value) / 1000, maximum)


def set_timeout(head: RequestHead, seconds: float) -> RequestHead:
    """`head`, to be answered within `seconds`."""
    value = b"%d" % max(seconds * 1000, 0)
    headers = (*without_headers(head.headers, (_NAME,)), (TIMEOUT_HEADER, value))
    return RequestHead(head.method, head.target, headers)


def deduct_elapsed(head: RequestHead, seconds: float) -> RequestHead:
    """`head` after `seconds` of its time, where it says how much that is."""
    left = get_timeout(head, float("inf"))
    return head if left == float("inf") else set_timeout(head, left - seconds)


def timeout_headers(head: RequestHead) -> Headers:
    """The header of `head` that says its time, as it goes on."""
    left = get_timeout(head, float("inf"))
    return () if left == float("inf") else set_timeout(head, left).headers[-1:]
