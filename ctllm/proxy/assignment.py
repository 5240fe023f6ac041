"""Whose requests a streaming proxy accepts: those of one user, for as long as it runs.

A proxy that waits was started for nobody. It accepts no session assertion. The cloud assigns it to
a user, once, with a token that the public key from its start verifies (`auth/assignments.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from ctllm.auth.assignments import verify_assignment
from ctllm.auth.jws import decode_public_key
from ctllm.auth.session_assertions import AssertionVerifier, Claims
from ctllm.errors import Conflict, Unauthorized


class Assignment:
    """Verifies the session assertions for the user of the proxy, once it has one.

    `id` is that of the proxy from its start. `cloud_key` is the cloud's key in base64url, `now`
    returns epoch seconds. With `is_waiting`, the proxy has no user yet.
    """

    def __init__(
        self, cloud_key: str, id: str, now: Callable[[], float], is_waiting: bool = False
    ) -> None:
        self._cloud_key = cloud_key
        self._id = id
        self._now = now
        self._verifier = None if is_waiting else AssertionVerifier(cloud_key, id, now)

    def verify(self, assertion: str | bytes) -> Claims:
        """Return the claims of an assertion; raises Unauthorized unless it is valid here."""
        if self._verifier is None:
            raise Unauthorized("This streaming proxy has no user yet.")
        return self._verifier.verify(assertion)

    def accept(self, token: bytes) -> None:
        """Assign the proxy to the user that `token` names.

        Raises Conflict if it has a user, and Unauthorized if the token is not valid here.
        """
        if self._verifier is not None:
            raise Conflict("This streaming proxy has a user already.")
        proxy_id = verify_assignment(
            decode_public_key(self._cloud_key), self._id, token, self._now()
        )
        self._verifier = AssertionVerifier(self._cloud_key, proxy_id, self._now)
