"""Users, what authenticated them, and what a verified token grants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ctllm.auth.session_assertions import CONVERSATIONS, MANAGE, SERVE, USE
from ctllm.errors import Forbidden

SCOPES = frozenset({USE, MANAGE, SERVE, CONVERSATIONS})
"""The scopes: USE models, MANAGE models and the user's proxy, SERVE requests as a desktop.

CONVERSATIONS reads and writes the conversations of desktops. Only the page has it.
"""


@dataclass(frozen=True, slots=True)
class User:
    """A person: `subject` is unique within `issuer`; `name` is only displayed."""

    issuer: str
    subject: str
    name: str

    def __post_init__(self) -> None:
        # Subjects may contain a bar (Auth0's do). If issuers could, two users could have one id.
        if not self.issuer or not self.subject or "|" in self.issuer:
            raise ValueError("A user needs an issuer without '|' and a subject.")

    @property
    def id(self) -> str:
        """The unique id of the user: `<issuer>|<subject>`."""
        return f"{self.issuer}|{self.subject}"


@dataclass(frozen=True, slots=True)
class Authentication:
    """The authentication of a user by an invite or by an OpenID provider.

    `auth_time` (as in OpenID Connect, in epoch seconds) is the time at which the invite was
    created. Every credential that derives from the invite carries it, so a revocation ends all of
    them, whenever they were derived. `parent_session_id` is the session of the desktop that
    authenticated its user's browser, if any. `tier` is the name of the user's limits.
    """

    user: User
    auth_time: float
    parent_session_id: str = ""
    tier: str = ""


@dataclass(frozen=True, slots=True)
class AccessGrant:
    """What a verified token grants: its user, its scopes, and until when, in epoch seconds.

    `auth_time` is that of the Authentication. The grant is active only while the sessions in
    `session_ids` exist: that of the client and, for a browser, that of the desktop that logged it
    in.

    `tier` is the name of the user's limits (`cloud.tiers`), or empty. `credential_id` identifies
    the API key or registered machine, if one authenticated the request. `models` are the patterns
    of the models that it may use; without any it may use all. `requests_per_minute` is its own
    limit; 0 is none.
    """

    user: User
    scopes: frozenset[str]
    expires_at: float
    auth_time: float
    session_ids: tuple[str, ...] = ()
    tier: str = ""
    credential_id: str = ""
    models: tuple[str, ...] = ()
    requests_per_minute: int = 0

    def require_scope(self, scope: str) -> None:
        """Raise Forbidden unless this grant has `scope`."""
        if scope not in self.scopes:
            raise Forbidden(f"This session or API key does not have the scope '{scope}'.")


class TokenVerifier(Protocol):
    """Verifies one kind of token."""

    def matches(self, token: str) -> bool:
        """Return whether `token` has the format of this kind. Proves nothing."""

    async def verify(self, token: str) -> AccessGrant:
        """Return what `token` grants; raises Unauthorized."""
