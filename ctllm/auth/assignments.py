"""Assignments: signed by the cloud, one gives a streaming proxy that waits to a user, once."""

from __future__ import annotations

from typing import Final

import msgspec

from ctllm.auth.jws import TokenKind, VerifyKey
from ctllm.auth.session_assertions import ISSUER
from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import Unauthorized

ASSIGNMENT = TokenKind("ctllm-assignment+jwt", "assignment")
ASSIGNMENT_PATH: Final = b"/ctllm/control/assignment"
"""Where a proxy accepts its assignment, with POST: the token is in the header of assertions."""

LIFETIME_SECONDS = 60
"""Seconds for which an assignment is valid."""


class AssignmentBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The claims in JSON: the proxy `aud`, which waits, becomes the proxy `sub`, of a user."""

    iss: str
    sub: str
    aud: str
    iat: int
    exp: int


def encode_assignment(waiting_id: str, proxy_id: str, now: float) -> bytes:
    """Return the claims that assign the waiting proxy; `now` is in epoch seconds."""
    issued_at = int(now)
    return msgspec.json.encode(
        AssignmentBody(ISSUER, proxy_id, waiting_id, issued_at, issued_at + LIFETIME_SECONDS)
    )


def verify_assignment(key: VerifyKey, waiting_id: str, token: bytes, now: float) -> str:
    """Return the id that the waiting proxy gets by `token`.

    Raises Unauthorized unless `key` signed it for this proxy, and it is valid at `now`.
    """
    try:
        body = decode_json(ASSIGNMENT.verify(key, token), AssignmentBody)
    except InvalidJson as error:
        raise ASSIGNMENT.invalid_token() from error
    if body.iss != ISSUER or body.aud != waiting_id or not body.sub:
        raise Unauthorized("The assignment is for another streaming proxy.")
    ASSIGNMENT.check_times(body.iat, body.exp, now)
    return body.sub
