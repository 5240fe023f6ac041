"""Parses a provider token (JWT, RFC 7519) strictly. Nothing in it is verified yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ctllm.auth.jws import MAX_TOKEN_SIZE, decode_base64url
from ctllm.common.json_decoder import InvalidJson, JsonObject, decode_json, decode_object_pairs
from ctllm.errors import Unauthorized

#: The most characters of a key's id.
MAX_KEY_ID = 512
#: The media types of access tokens (RFC 9068) and of JWTs in general, in lower case. Others are for
#: something else, such as `logout+jwt` and `dpop+jwt`.
_TYPES = frozenset(("jwt", "application/jwt", "at+jwt", "application/at+jwt"))


@dataclass(frozen=True, slots=True)
class ParsedToken:
    """A token in parts: `signed` are the bytes that `signature` is for.

    Of its header only the algorithm and the key's id count. Keys and URLs in it (`jwk`, `jku`,
    `x5c`, `x5u`) are never used: whoever makes a token could choose them.
    """

    algorithm: str
    key_id: str | None
    issuer: str
    claims: JsonObject
    signed: bytes
    signature: bytes


def looks_like_jwt(token: str) -> bool:
    """Return whether `token` has the three parts of a signed JWT, with a JSON object first."""
    return token.startswith("eyJ") and token.count(".") == 2


def parse_token(token: str) -> ParsedToken:
    """Return the parts of `token`; raises Unauthorized."""
    if len(token) > MAX_TOKEN_SIZE:
        raise Unauthorized(f"The provider token is longer than {MAX_TOKEN_SIZE} characters.")
    try:
        head, payload, signature = token.split(".")
        header = _decode_object(decode_base64url(head))
        claims = _decode_object(decode_base64url(payload))
        return ParsedToken(
            algorithm=_string(header, "alg"),
            key_id=_key_id(header),
            issuer=_string(claims, "iss"),
            claims=claims,
            signed=f"{head}.{payload}".encode("ascii"),
            signature=decode_base64url(signature),
        )
    except ValueError as error:  # includes InvalidJson and UnicodeEncodeError
        raise malformed_token() from error


def malformed_token() -> Unauthorized:
    """Return the error for a token that is no valid JWT; it does not say what is wrong."""
    return Unauthorized("This is not a valid token of a provider: sign in again.")


def _decode_object(data: bytes) -> JsonObject:
    """Decode a JSON object whose members all have different names (RFC 7519, section 4)."""
    names = [name for name, _ in decode_object_pairs(data, MAX_TOKEN_SIZE)]
    if len(names) != len(set(names)):
        raise InvalidJson("it has two members of the same name")
    return decode_json(data, JsonObject)


def _string(values: JsonObject, name: str) -> str:
    found: Any = values.get(name)
    if not isinstance(found, str):
        raise InvalidJson(f"{name} is not a string")
    return found


def _key_id(header: JsonObject) -> str | None:
    """Return the key's id. Refuse a header that means what is not implemented here."""
    if "crit" in header:  # RFC 7515, section 4.1.11
        raise InvalidJson("it has critical extensions")
    if "typ" in header and _string(header, "typ").lower() not in _TYPES:
        raise InvalidJson("it is another type of token")
    if header.get("kid") is None:
        return None
    key_id = _string(header, "kid")
    if len(key_id) > MAX_KEY_ID:
        raise InvalidJson("the key's id is too long")
    return key_id
