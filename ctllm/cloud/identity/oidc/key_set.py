"""The public keys of a provider: a JWK Set (RFC 7517).

PyJWT is imported when the first set is parsed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ctllm.common.json_decoder import InvalidJson, JsonObject, decode_json
from ctllm.errors import BadGateway

#: The most keys of a set.
MAX_KEYS = 100
#: The sizes of an RSA key, in bits. A larger one takes long to verify a signature with.
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
#: The members of private and symmetric keys (RFC 7518, section 6).
_SECRET_MEMBERS = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))
_RSA_ALGORITHMS = frozenset(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"))
#: The algorithms of keys of other types, by type and curve.
_CURVE_ALGORITHMS = {
    ("EC", "P-256"): "ES256",
    ("EC", "P-384"): "ES384",
    ("OKP", "Ed25519"): "EdDSA",
}


class _KeySet(msgspec.Struct, frozen=True):
    keys: Annotated[list[JsonObject], Meta(max_length=MAX_KEYS)]


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key: its id, if it has one, the algorithms that it may verify, and PyJWT's key."""

    id: str | None
    algorithms: frozenset[str]
    _key: Any = field(repr=False, compare=False)

    def verifies(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Return whether `signature` is that of `signed`."""
        import jwt

        if algorithm not in self.algorithms:
            return False
        return bool(jwt.get_algorithm_by_name(algorithm).verify(signed, self._key, signature))


def parse_key_set(body: bytes) -> tuple[PublicKey, ...]:
    """Return the keys for signatures in a JWK Set; raises BadGateway.

    Keys that cannot be used are left out, as RFC 7517 (section 5) demands: of unknown types, for
    encryption, too small, symmetric. So are keys with their private part, which everybody has.
    """
    try:
        found = decode_json(body, _KeySet).keys
    except InvalidJson as error:
        raise BadGateway("Its keys (JWK Set) are not valid.") from error
    return tuple(key for each in found if (key := _parse_key(each)) is not None)


def select_keys(
    keys: Iterable[PublicKey], key_id: str | None, algorithm: str
) -> Sequence[PublicKey]:
    """Return the keys for a token: those with its key's id, or all that fit if it names none."""
    fitting = [key for key in keys if algorithm in key.algorithms]
    return fitting if key_id is None else [key for key in fitting if key.id == key_id]


def _parse_key(given: JsonObject) -> PublicKey | None:
    algorithms = _algorithms_of(given)
    if not algorithms or _SECRET_MEMBERS & set(given) or not _is_for_signatures(given):
        return None
    key_id = given.get("kid")
    key = _load(given, min(algorithms))
    if key is None or not isinstance(key_id, str | None):
        return None
    return PublicKey(key_id, algorithms, key)


def _algorithms_of(given: JsonObject) -> frozenset[str]:
    """Return the algorithms that a key may verify: that of `alg`, or those of its type."""
    kind, curve = given.get("kty"), given.get("crv")
    if kind == "RSA":
        possible = _RSA_ALGORITHMS
    elif isinstance(kind, str) and isinstance(curve, str):
        possible = frozenset(filter(None, (_CURVE_ALGORITHMS.get((kind, curve)),)))
    else:
        return frozenset()
    return possible & {given["alg"]} if isinstance(given.get("alg"), str) else possible


def _is_for_signatures(given: JsonObject) -> bool:
    operations = given.get("key_ops", ["verify"])
    is_verifying = isinstance(operations, list) and "verify" in operations
    return given.get("use", "sig") == "sig" and is_verifying


def _load(given: JsonObject, algorithm: str) -> Any:
    """Return the key for PyJWT, or None if it is not valid."""
    import jwt

    try:
        key = jwt.PyJWK(given, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    size = getattr(key, "key_size", MIN_RSA_BITS) if given["kty"] == "RSA" else MIN_RSA_BITS
    return key if MIN_RSA_BITS <= size <= MAX_RSA_BITS else None
