"""Sessions of the page on the loopback endpoint: one-time codes, and the tokens that they become.

Every user and every web page of this machine reaches the endpoint, so the page has to prove that
the daemon's own user opened it. The daemon puts a code into the link that it opens. Codes and
tokens are 32 random bytes; only their hashes are in memory, and they end with the daemon, or when
another user logs in on this desktop.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from hashlib import sha256
from secrets import token_urlsafe
from typing import Any

from ctllm.errors import RateLimited, Unauthorized, UserChanged

#: Seconds that a code is valid: a browser may have to start first.
CODE_LIFETIME = 120.0
#: Seconds after its last use in which a session ends.
SESSION_LIFETIME = 7 * 86400.0
#: Valid codes, and sessions. A further one replaces the oldest.
MAX_CODES, MAX_SESSIONS = 8, 64
#: Wrong codes in a window of FAILURE_WINDOW seconds, after which further ones get 429. A code that
#: is valid is accepted all the same: nobody can lock out the user by sending wrong ones.
MAX_FAILURES, FAILURE_WINDOW = 10, 60.0

_INVALID_CODE = (
    "This link has expired or was used before. Open the page again: with the tray icon, or with "
    "`ctllm show` on this machine."
)
_LOGGED_OUT = (
    "This page is not logged in, the desktop was restarted, or another user has logged in on it. "
    "Open the page again: with the tray icon, or with `ctllm show` on this machine."
)
_USER_CHANGED = (
    "Another user has logged in on this desktop. Open the page again: with the tray icon, or with "
    "`ctllm show` on this machine."
)


class LoopbackSessions:
    """The codes and sessions that are valid. `seconds` returns a time that does not jump."""

    def __init__(
        self,
        seconds: Callable[[], float],
        *,
        max_codes: int = MAX_CODES,
        max_sessions: int = MAX_SESSIONS,
    ) -> None:
        self._seconds = seconds
        self._max_codes = max_codes
        self._max_sessions = max_sessions
        self._codes: OrderedDict[bytes, float] = OrderedDict()  # when they expire, oldest first
        self._sessions: OrderedDict[bytes, float] = OrderedDict()  # least recently used first
        self._former: OrderedDict[bytes, None] = OrderedDict()  # sessions of other users
        self._failures: deque[float] = deque(maxlen=MAX_FAILURES)

    def __len__(self) -> int:
        """Return the number of sessions that are stored."""
        return len(self._sessions)

    def create_code(self) -> str:
        """Create a code that begins a session, once, within CODE_LIFETIME seconds."""
        _make_room(self._codes, self._max_codes)
        code = token_urlsafe(32)
        self._codes[_hash(code)] = self._seconds() + CODE_LIFETIME
        return code

    def redeem(self, code: str) -> str:
        """Begin a session and return its token; raises Unauthorized or RateLimited."""
        expires_at = self._codes.pop(_hash(code), None)
        if expires_at is None or self._seconds() >= expires_at:
            raise self._count_failure()
        _make_room(self._sessions, self._max_sessions)
        token = token_urlsafe(32)
        self._sessions[_hash(token)] = self._seconds() + SESSION_LIFETIME
        return token

    def verify(self, token: str) -> None:
        """Extend the session of `token`; raises Unauthorized if there is none, or UserChanged."""
        key = _hash(token)
        if key in self._former:
            raise UserChanged(_USER_CHANGED)
        expires_at = self._sessions.pop(key, None)
        if expires_at is None or self._seconds() >= expires_at:
            raise Unauthorized(_LOGGED_OUT)
        self._sessions[key] = self._seconds() + SESSION_LIFETIME

    def close(self, token: str) -> None:
        """End the session of `token`, if there is one."""
        self._sessions.pop(_hash(token), None)

    def close_all(self) -> None:
        """End all sessions, and forget all codes: they were another user's."""
        self._codes.clear()
        for key in self._sessions:
            _make_room(self._former, self._max_sessions)
            self._former[key] = None
        self._sessions.clear()

    def _count_failure(self) -> Unauthorized | RateLimited:
        now = self._seconds()
        if len(self._failures) == MAX_FAILURES and now - self._failures[0] < FAILURE_WINDOW:
            wait = max(1, round(FAILURE_WINDOW - (now - self._failures[0])))
            return RateLimited(
                f"Too many wrong links were tried. Try again in {wait} s.", retry_after=wait
            )
        self._failures.append(now)
        return Unauthorized(_INVALID_CODE)


def _make_room(entries: OrderedDict[bytes, Any], limit: int) -> None:
    """Remove the oldest entries, so that there is room for one more."""
    while len(entries) >= limit:
        entries.popitem(last=False)


def _hash(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()
