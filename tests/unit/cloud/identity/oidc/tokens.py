"""Keys and tokens of a provider, for tests."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from ctllm.auth.jws import encode_base64url
from ctllm.config import Provider

ISSUER = "https://login.example/"
NOW = 1_800_000_000.0
SETTINGS = Provider(issuer=ISSUER, client_id="desktop", audience="api")

CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "sub": "auth0|ada",
    "aud": "api",
    "iat": int(NOW) - 60,
    "exp": int(NOW) + 300,
    "name": "Ada",
}


@lru_cache
def rsa_key(name: str = "", bits: int = 2048) -> rsa.RSAPrivateKey:
    """Return the RSA key of this name, the same each time."""
    return rsa.generate_private_key(65537, bits)


@lru_cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@lru_cache
def ed_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def jwk(key: Any, **members: Any) -> dict[str, Any]:
    """Return the public part of `key` as a JWK with these members, without those that are None."""
    kinds = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256"}
    name = next((each for kind, each in kinds.items() if isinstance(key, kind)), "EdDSA")
    public = jwt.get_algorithm_by_name(name).to_jwk(key.public_key(), as_dict=True)
    public = {key: value for key, value in public.items() if key != "key_ops"}
    found = {**public, "use": "sig", "kid": "k1", **members}
    return {name: value for name, value in found.items() if value is not None}


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def encode(header: Any, claims: Any, signature: bytes = b"x") -> str:
    """Return a token of any parts: objects become JSON, bytes stay what they are."""
    parts = [
        each if isinstance(each, bytes) else json.dumps(each).encode() for each in (header, claims)
    ]
    return ".".join(encode_base64url(part) for part in (*parts, signature))


def sign(
    key: Any = None,
    algorithm: str = "RS256",
    header: dict[str, Any] | None = None,
    **claims: Any,
) -> str:
    """Return a signed token with `claims` in place of those of CLAIMS; None leaves one out."""
    head = {"alg": algorithm, "kid": "k1", "typ": "at+jwt", **(header or {})}
    head = {name: value for name, value in head.items() if value is not None}
    body = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    signed = encode(head, body).rpartition(".")[0]
    signer = jwt.get_algorithm_by_name(algorithm)
    signature = signer.sign(signed.encode(), rsa_key() if key is None else key)
    return f"{signed}.{encode_base64url(signature)}"
