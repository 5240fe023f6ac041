"""What must be true of a conversation for a write to take place (RFC 9110, section 13.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ctllm.errors import BadRequest, PreconditionRequired

_ETAG = re.compile(rb'[ \t]*"([0-9]{1,16})"[ \t]*')


@dataclass(frozen=True, slots=True)
class IsAbsent:
    """There is no such conversation: `If-None-Match: *`."""


@dataclass(frozen=True, slots=True)
class HasRevision:
    """The conversation is stored with this revision: `If-Match: "REVISION"`."""

    revision: int


Precondition = IsAbsent | HasRevision


def format_etag(revision: int) -> bytes:
    """Return the entity tag of a revision."""
    return b'"%d"' % revision


def parse_precondition(if_match: bytes | None, if_none_match: bytes | None) -> Precondition | None:
    """Return the precondition of these headers; None without one.

    Raises BadRequest for any other value than those above, and for both.
    """
    if if_match is not None and if_none_match is None:
        found = _ETAG.fullmatch(if_match)
        if found is not None:
            return HasRevision(int(found[1]))
    elif if_none_match is not None and if_match is None and if_none_match.strip() == b"*":
        return IsAbsent()
    elif if_match is None and if_none_match is None:
        return None
    raise BadRequest('Send either If-Match: "REVISION" or If-None-Match: *.')


def require_precondition(found: Precondition | None) -> Precondition:
    """Return `found`; raises PreconditionRequired without one, so that nothing is overwritten."""
    if found is None:
        raise PreconditionRequired(
            'A conversation is stored with If-Match: "REVISION", the revision that the change is '
            "based on, or as a new one with If-None-Match: *."
        )
    return found
