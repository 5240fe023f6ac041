"""Which requests come from the page that this machine's own browser shows.

The page's paths are for this machine alone, also where the endpoint listens for others: whoever
has the page can do everything with this desktop, and over a network without TLS its token could be
read. A page of another origin (a public one, or one of another port of localhost) is refused.
"""

from __future__ import annotations

from ctllm.errors import Forbidden
from ctllm.http.message.head import RequestHead, get_header
from ctllm.http.origins import is_loopback_host, parse_host
from ctllm.http.same_site import is_from_other_site


def is_of_this_machine(head: RequestHead, client_address: str) -> bool:
    """Return whether a client on this machine sent `head` to a name of the loopback interface.

    The Host decides against DNS rebinding. A UNIX socket has no client address.
    """
    hosts = [value for name, value in head.headers if name.lower() == b"host"]
    is_local_peer = not client_address or is_loopback_host(client_address.lower())
    return is_local_peer and len(hosts) == 1 and _is_loopback(hosts[0])


def require_own_page(head: RequestHead, client_address: str) -> None:
    """Raise Forbidden unless `head` is of this machine, and of no page of another origin."""
    if not is_of_this_machine(head, client_address):
        raise Forbidden(
            "The paths below /ctllm/ are for this machine only: open the page at "
            "http://127.0.0.1 or http://localhost, in a browser of this machine."
        )
    if is_from_other_site(head):
        raise Forbidden("Pages of other origins must not use the paths below /ctllm/.")


def may_load_page(head: RequestHead, client_address: str) -> bool:
    """Return whether `head`, for a file of the page, gets it.

    The page may be opened by a link anywhere, as it does nothing without its session. Other pages
    may not load its files.
    """
    if not is_of_this_machine(head, client_address):
        return False
    is_navigation = get_header(head.headers, b"sec-fetch-mode") == b"navigate"
    is_top_level = get_header(head.headers, b"sec-fetch-dest") == b"document"
    return (is_navigation and is_top_level) or not is_from_other_site(head)


def _is_loopback(host: bytes) -> bool:
    try:
        return is_loopback_host(parse_host(host.decode("latin-1")))
    except ValueError:
        return False
