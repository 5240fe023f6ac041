"""The lines of the audit log, as values.

A line names a user only by a hash that needs the cloud's instance secret. It never has a token, a
name, an e-mail address, a model, or data of a request.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, TypeAlias, get_args

import msgspec

ProxyEvent: TypeAlias = Literal[
    "proxy.started",
    "proxy.adopted",
    "proxy.start_failed",
    "proxy.start_refused",
    "proxy.stopped",
    "proxy.died",
]

IdentityEvent: TypeAlias = Literal[
    "session.created",
    "session.renewal_refused",
    "session.closed",
    "pairing.created",
    "login.refused",
    "key.created",
    "key.revoked",
    "key.used",
    "key.refused",
    "machine.requested",
    "machine.approved",
    "machine.refused",
    "machine.revoked",
    "request.refused",
    "user.revoked",
    "user.disabled",
    "user.enabled",
    "user.forgotten",
]

PROXY_EVENTS: tuple[ProxyEvent, ...] = get_args(ProxyEvent)
IDENTITY_EVENTS: tuple[IdentityEvent, ...] = get_args(IdentityEvent)

#: The longest value of a field that others choose.
_MAX_VALUE = 80


class AuditEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line. `time` is ISO 8601 in UTC; what is empty is not written.

    Events of proxies have `proxy`, the id with the hash of its user, and `milliseconds`, the
    duration of a start. Events of identity have `user`, the same hash; `address`, the network of
    the client; `method`, how somebody signed in; and `credential`, the id of an API key or machine.
    `count` is the number of like events that have no line of their own.
    """

    time: str
    event: ProxyEvent | IdentityEvent
    proxy: str = ""
    user: str = ""
    address: str = ""
    method: str = ""
    credential: str = ""
    reason: str = ""
    detail: str = ""
    milliseconds: int | None = None
    count: int | None = None

    @property
    def user_hash(self) -> str:
        """The hash of the user, of events of both kinds."""
        return self.user or self.proxy.rpartition("-")[2]


def format_time(epoch_seconds: float) -> str:
    """Return the time of a line."""
    return datetime.fromtimestamp(epoch_seconds, UTC).isoformat(timespec="milliseconds")


def safe_value(text: str) -> str:
    """Return what a line may have of `text`: one printable ASCII word, bounded in length."""
    return "".join(each if "!" <= each <= "~" else "_" for each in text[:_MAX_VALUE])
