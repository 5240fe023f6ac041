"""The Ed25519 key of an `ollama` command, which signs requests as that does with OLLAMA_AUTH=1."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256

from nacl.signing import SigningKey


class OllamaKey:
    """A key as in `~/.ollama/id_ed25519`: a new one, or that of a seed of 32 bytes."""

    def __init__(self, seed: bytes | None = None) -> None:
        self._signing_key = SigningKey.generate() if seed is None else SigningKey(seed)

    @property
    def raw(self) -> bytes:
        """The 32 bytes of the public key."""
        return bytes(self._signing_key.verify_key)

    @property
    def public_key(self) -> str:
        """The second field of the file `id_ed25519.pub`."""
        return b64encode(self._blob).decode()

    @property
    def id(self) -> str:
        """The id of the machine with this key."""
        return sha256(self._blob).hexdigest()

    @property
    def fingerprint(self) -> str:
        """What `ssh-keygen -lf` prints."""
        return "SHA256:" + b64encode(sha256(self._blob).digest()).decode().rstrip("=")

    @property
    def _blob(self) -> bytes:
        fields = (b"ssh-ed25519", self.raw)
        return b"".join(len(each).to_bytes(4, "big") + each for each in fields)

    def sign(self, method: str, path: str, ts: int | str) -> str:
        """Return the Authorization header of a request at the time `ts` (epoch seconds)."""
        signature = self._signing_key.sign(f"{method},{path}?ts={ts}".encode()).signature
        return f"{self.public_key}:{b64encode(signature).decode()}"
