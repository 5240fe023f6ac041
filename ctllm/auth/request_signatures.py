"""The signatures of requests that the `ollama` command sends when `OLLAMA_AUTH=1` is set.

The command adds `?ts=<Unix seconds>` to the URL and sends `Authorization: <key>:<signature>`. The
key is the base64 of its Ed25519 public key, in the wire format of SSH (RFC 8709, section 4); the
signature is the base64 of the 64 bytes that sign `METHOD,PATH?ts=<Unix seconds>`. The source is
`api/client.go` and `auth/auth.go` of github.com/ollama/ollama. The body is not signed.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from urllib.parse import unquote_to_bytes

from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from ctllm.errors import Forbidden, Unauthorized

CLOCK_TOLERANCE = 60.0
"""Seconds by which the time in a signature may differ from the verifier's, in both directions."""

_SSH_HEADER = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"
_KEY_SIZE = 32
_SIGNATURE_SIZE = 64
#: The most characters of the Authorization header: the key of 68, a colon, the signature of 88.
_MAX_CREDENTIALS = 157
#: The whole query: other parameters are not signed, so none is accepted.
_QUERY = re.compile(rb"ts=([1-9][0-9]{0,11})")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key, of 32 bytes."""

    data: bytes

    @property
    def ssh_blob(self) -> bytes:
        """The key in the wire format of SSH."""
        return _SSH_HEADER + self.data

    @property
    def id(self) -> str:
        """The SHA-256 of the SSH format in 64 hexadecimal digits."""
        return sha256(self.ssh_blob).hexdigest()

    @property
    def fingerprint(self) -> str:
        """The fingerprint as `ssh-keygen -lf` prints it: `SHA256:` and base64 without padding."""
        digest = b64encode(sha256(self.ssh_blob).digest()).rstrip(b"=")
        return f"SHA256:{digest.decode('ascii')}"


@dataclass(frozen=True, slots=True)
class RequestSignature:
    """The signature of one request, not verified; `timestamp` is as the client wrote it."""

    key: PublicKey
    signature: bytes = field(repr=False)
    timestamp: bytes

    def verify(self, method: bytes, path: bytes, now: float) -> None:
        """Check that the key signed `method` and `path` at the time `now` (epoch seconds).

        `path` is that of the URL without the query, percent-encoded. Raises Unauthorized for a
        signature of something else, and Forbidden for another time: `ollama` prints the message of
        a 403, and not that of a 401.
        """
        signed = b"%b,%b?ts=%b" % (method, _signed_path(path), self.timestamp)
        try:
            VerifyKey(self.key.data).verify(signed, self.signature)
        except BadSignatureError as error:
            raise _invalid_error("it does not match the method and path of the request") from error
        seconds = int(self.timestamp) - now
        if abs(seconds) > CLOCK_TOLERANCE:
            raise Forbidden(
                f"The request was signed {_describe_seconds(seconds)}, by the clock of this "
                f"server. Signatures are valid for {CLOCK_TOLERANCE:.0f} seconds. Check the clocks "
                "of the machine that runs ollama and of this server."
            )


def parse_request_signature(credentials: str, query: bytes) -> RequestSignature:
    """Parse an Authorization header and the query of a URL; raises Unauthorized.

    The key may be in the format of SSH, or its 32 bytes alone.
    """
    if len(credentials) > _MAX_CREDENTIALS:
        raise _invalid_error("it is too long")
    key, _, signature = credentials.partition(":")
    match = _QUERY.fullmatch(query)
    if match is None:
        raise _invalid_error("the query of the URL must be ts=, a time in seconds, and no more")
    try:
        return RequestSignature(_parse_key(key), _decode(signature, _SIGNATURE_SIZE), match[1])
    except ValueError as error:
        raise _invalid_error(str(error)) from error


def _parse_key(text: str) -> PublicKey:
    """Return the key in `text`; raises ValueError."""
    size = _KEY_SIZE if text.endswith("=") else len(_SSH_HEADER) + _KEY_SIZE
    data = _decode(text, size)
    if size != _KEY_SIZE and not data.startswith(_SSH_HEADER):
        raise ValueError("the key is not of the type ssh-ed25519")
    point = data[-_KEY_SIZE:]
    # Anybody could sign for a point of low order; a point that is not canonical has two encodings.
    if not crypto_core_ed25519_is_valid_point(point):
        raise ValueError("the key is weak")
    return PublicKey(point)


def _decode(text: str, size: int) -> bytes:
    """Decode canonical base64 of `size` bytes; raises ValueError."""
    try:
        data = b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError("it is not in base64") from error
    if len(data) != size or b64encode(data).decode("ascii") != text:
        raise ValueError("the key or the signature does not have the right size")
    return data


def _signed_path(path: bytes) -> bytes:
    """Return the path that the client signed, of the percent-encoded `path` of its URL.

    The client signs the path before it is encoded. What still has a percent sign after decoding
    was encoded before, and is signed as it is.
    """
    decoded = unquote_to_bytes(path)
    return path if b"%" in decoded else decoded


def _invalid_error(reason: str) -> Unauthorized:
    return Unauthorized(f"The signature of the request is not valid: {reason}.")


def _describe_seconds(seconds: float) -> str:
    unit = "seconds" if abs(seconds) < 600 else "minutes"
    amount = f"{abs(seconds) / (1 if unit == 'seconds' else 60):.0f} {unit}"
    return f"{amount} in the future" if seconds > 0 else f"{amount} ago"
