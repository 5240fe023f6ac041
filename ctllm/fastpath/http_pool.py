"""Connection pools of `twisted.web.client` that do not log each connection.

A pool's factory logs when it starts and stops unless it is told not to, and the pool keeps it in a
private attribute. Without that attribute the log has two more lines for each connection.
"""

from __future__ import annotations

from twisted.web.client import HTTPConnectionPool


def quiet_pool(reactor: object) -> HTTPConnectionPool:
    """Return a pool whose connections are closed after one request.

    For servers that may restart at any time, and whose requests cost more than a connection.
    """
    pool = HTTPConnectionPool(reactor, persistent=False)  # type: ignore[no-untyped-call]
    factory = getattr(pool, "_factory", None)
    if factory is not None:
        factory.noisy = False
    return pool
