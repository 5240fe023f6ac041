"""Where the page of this machine is, as a browser of this machine reaches it."""

from __future__ import annotations

from ctllm.http.origins import is_loopback_host, parse_host


def page_url(authority: str) -> str:
    """Return the URL of the page of an endpoint that listens at `authority`.

    It is empty where the endpoint listens at no address of the loopback interface. An endpoint that
    listens at every address is reached at that one, too.
    """
    host, _, port = authority.rpartition(":")
    if host in ("0.0.0.0", "[::]"):  # noqa: S104
        return f"http://127.0.0.1:{port}" if host == "0.0.0.0" else f"http://[::1]:{port}"  # noqa: S104
    return f"http://{authority}" if host and is_loopback_host(parse_host(authority)) else ""
