"""The header that tells the next stage how long the sender waits for a response.

The cloud refuses a request or a desktop before that if the streaming proxies of others start first.
A stage that merges the responses of several upstreams (lists of models) responds with those that
arrived in time. Each stage gives the next one less time than it has, or the inner one would respond
when the outer one has timed out. Clocks differ, so the value is the remaining time in milliseconds.
Any client may send the header: no stage waits longer because of it than it ever does.
"""

from __future__ import annotations

import re

from ctllm.http.message.head import Headers, RequestHead, get_header, without_headers

TIMEOUT_HEADER = b"Ctllm-Timeout"
#: The share of its time that a stage gives to the next one.
NEXT_STAGE_SHARE = 2 / 3

_NAME = TIMEOUT_HEADER.lower()
_MILLISECONDS = re.compile(rb"[0-9]{1,6}")


def get_timeout(head: RequestHead, maximum: float) -> float:
    """Return the seconds that are left to respond: `maximum`, or less if the header says so."""
    value = get_header(head.headers, _NAME)
    if value is None or not _MILLISECONDS.fullmatch(value):
        return maximum
    return min(int(value) / 1000, maximum)


def set_timeout(head: RequestHead, seconds: float) -> RequestHead:
    """Return `head` with a timeout of `seconds`."""
    value = b"%d" % max(seconds * 1000, 0)
    headers = (*without_headers(head.headers, (_NAME,)), (TIMEOUT_HEADER, value))
    return RequestHead(head.method, head.target, headers)


def deduct_elapsed(head: RequestHead, seconds: float) -> RequestHead:
    """Return `head` with its timeout, if any, less `seconds`."""
    remaining = get_timeout(head, float("inf"))
    return head if remaining == float("inf") else set_timeout(head, remaining - seconds)


def timeout_headers(head: RequestHead) -> Headers:
    """Return the timeout header of `head`, if any."""
    remaining = get_timeout(head, float("inf"))
    return () if remaining == float("inf") else set_timeout(head, remaining).headers[-1:]
