"""Which requests pages of other sites make: such requests must not use a cookie."""

from __future__ import annotations

from ctllm.http.message.head import RequestHead, get_header


def is_from_other_site(head: RequestHead) -> bool:
    """Return whether a page of another origin makes the request.

    Browsers say so in Sec-Fetch-Site (Fetch Metadata Request Headers, section 2.4), and in the
    Origin of each request that is not a GET, and of each WebSocket. Programs send neither.
    """
    sites = {value.lower() for name, value in head.headers if name.lower() == b"sec-fetch-site"}
    return bool(sites - {b"same-origin", b"none"}) or not is_own_origin(head)


def is_own_origin(head: RequestHead) -> bool:
    """Return whether each Origin of the request, if any, is that of its Host."""
    host = (get_header(head.headers, b"host") or b"").lower()
    return all(origin.partition(b"://")[2].lower() == host for origin in _origins(head))


def has_one_origin(head: RequestHead) -> bool:
    """Return whether the request has an Origin, and not several of which others may read one."""
    return len(_origins(head)) == 1


def _origins(head: RequestHead) -> list[bytes]:
    return [value for name, value in head.headers if name.lower() == b"origin"]
