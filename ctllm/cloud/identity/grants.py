"""Who is asking, and what may they do? The values, and the face of everything that can tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ctllm.auth.session_assertions import MANAGE, SERVE, USE
from ctllm.errors import Forbidden

SCOPES = frozenset({USE, MANAGE, SERVE})
"""USE talks to models, MANAGE changes them and one's own proxy, SERVE attaches a desktop."""


@dataclass(frozen=True, slots=True)
class User:
    """A person: `subject` is unique within `issuer`, `name` is only for showing."""

    issuer: str
    subject: str
    name: str

    def __post_init__(self) -> None:
        # Subjects may contain the bar (Auth0's do). Were it allowed in issuers, two users could
        # have one key.
        if not self.issuer or not self.subject or "|" in self.issuer:
            raise ValueError("a user needs an issuer without '|' and a subject")

    @property
    def id(self) -> str:
        """The string that is this user everywhere, and nobody else."""
        return f"{self.issuer}|{self.subject}"


@dataclass(frozen=True, slots=True)
class Authentication:
    """Who was authenticated, and when: at `auth_time` (epoch s) the invitation was made.

    Every credential that derives from that invitation carries its time, so a revocation ends all
    of them, whenever they were derived. `parent` is the id of the session that vouches, if any.
    """

    user: User
    auth_time: float
    parent_session_id: str = ""


@dataclass(frozen=True, slots=True)
class AccessGrant:
    """A verified caller: what the token allows (`scopes`), until when (`expires`, epoch s).

    `auth_time` is as in `Authentication`. `sessions` are the ids of the sessions without which
    this grant is over: the caller's own, and the one that vouched for that.
    """

    user: User
    scopes: frozenset[str]
    expires_at: float
    auth_time: float
    session_ids: tuple[str, ...] = ()

    def require_scope(self, scope: str) -> None:
        """Raise Forbidden unless this grant has `scope`."""
        if scope not in self.scopes:
            raise Forbidden(f"This sign-in or API key does not have the scope '{scope}'.")


class TokenVerifier(Protocol):
    """Something that knows one kind of token."""

    def matches(self, token: str) -> bool:
        """Whether `token` looks like this kind; cheap, and proves nothing."""

    async def verify(self, token: str) -> AccessGrant:
        """Give what `token` grants; Unauthenticated, with a sentence for people, if nothing."""
