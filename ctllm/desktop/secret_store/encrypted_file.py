"""Secrets in a file that is encrypted with a key that is kept elsewhere.

The key is that of a systemd credential or of a passphrase, stretched with Argon2id (RFC 9106), as
PyNaCl has it, which makes guesses cost memory. It is the private key of a pair. Each secret is in a
box of its own, sealed with the public key, which is in the file: X25519 and XSalsa20-Poly1305, so a
changed box does not open. So `ctllm login` can store tokens without the key, which only the
desktop's service may have, and cannot read any. Whoever can replace the file can put another login
in it, and needs no box for that: the rest of the login is beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import nacl.exceptions
import nacl.pwhash.argon2id as argon2id
import nacl.utils
from msgspec import Meta
from msgspec.structs import replace
from nacl.public import PrivateKey, PublicKey, SealedBox

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.desktop.secret_store.file_key import FileKey
from ctllm.desktop.secret_store.private_file import LOCK_TIMEOUT, OnDamage, PrivateFile
from ctllm.errors import SecretStoreUnavailable

#: The name of this store.
ENCRYPTED_FILE = "encrypted-file"
#: The cost of a guess: 64 MiB and about a tenth of a second, once at the start of a process.
OPERATIONS, MEMORY = argon2id.OPSLIMIT_INTERACTIVE, argon2id.MEMLIMIT_INTERACTIVE


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file. `boxes` are sealed; each has the secret with its name, so that none is swapped."""

    salt: Annotated[bytes, Meta(min_length=argon2id.SALTBYTES, max_length=argon2id.SALTBYTES)]
    operations: Annotated[int, Meta(ge=argon2id.OPSLIMIT_MIN, le=64)]
    memory: Annotated[int, Meta(ge=argon2id.MEMLIMIT_MIN, le=1 << 30)]
    public_key: Annotated[bytes, Meta(min_length=PublicKey.SIZE, max_length=PublicKey.SIZE)]
    boxes: dict[str, bytes] = {}


class _Sealed(msgspec.Struct, frozen=True):
    name: str
    secret: str

    def __repr__(self) -> str:
        return "_Sealed(…)"


class EncryptedFileStore:
    """The file `desktop/secrets.encrypted` in the folder `state_dir`, opened with `key`.

    `operations` and `memory` (bytes) are the cost of the key's derivation for a new file.
    `on_damage` is called with an error message if the file is damaged; by default that is logged.
    """

    name = ENCRYPTED_FILE

    def __init__(
        self,
        state_dir: Path,
        key: FileKey,
        on_damage: OnDamage | None = None,
        *,
        operations: int = OPERATIONS,
        memory: int = MEMORY,
        lock_timeout: float = LOCK_TIMEOUT,
    ) -> None:
        path = state_dir / "desktop" / "secrets.encrypted"
        self._file = PrivateFile(path, _Content, on_damage, lock_timeout)
        self._key = key
        self._cost = operations, memory
        self._derived: tuple[bytes, bytes, PrivateKey] | None = None  # passphrase, salt, key

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self._file.path

    @property
    def description(self) -> str:
        """Where the secrets are."""
        return f"in {self.path}, encrypted"

    async def check(self, *, may_prompt: bool = False) -> None:
        """Raise SecretStoreUnavailable without a key, unless another process made the file."""
        content = self._file.load()
        if self._key.read() is not None:
            self._create_or_open()
        elif content is None:
            raise SecretStoreUnavailable(
                f"There is no key for {self.path}. Set desktop.passphrase_file, or load the "
                "credential ctllm-key in the desktop's unit."
            )

    async def get(self, name: str, *, may_prompt: bool = False) -> str | None:
        """Return the secret called `name`, or None if the file has none."""
        content = self._file.load()
        box = None if content is None else content.boxes.get(name)
        if content is None or box is None:
            return None
        try:
            opened = SealedBox(self._private_key(content)).decrypt(box)
            sealed = decode_json(opened, _Sealed)
        except (nacl.exceptions.CryptoError, InvalidJson):
            raise self._changed() from None
        if sealed.name != name:
            raise self._changed()
        return sealed.secret

    async def set(self, name: str, secret: str, *, may_prompt: bool = False) -> None:
        """Store a secret."""
        content = self._create_or_open()
        plain = msgspec.json.encode(_Sealed(name, secret))
        box = SealedBox(PublicKey(content.public_key)).encrypt(plain)

        def change(known: _Content | None) -> _Content:
            if known is None or known.public_key != content.public_key:
                raise self._changed()
            return replace(known, boxes={**known.boxes, name: box})

        self._file.update(change)

    async def delete(self, name: str) -> None:
        """Delete the secret called `name`, if there is one. That needs no key."""

        def change(known: _Content | None) -> _Content | None:
            if known is None or name not in known.boxes:
                return None
            boxes = {each: box for each, box in known.boxes.items() if each != name}
            return replace(known, boxes=boxes)

        self._file.update(change)

    def _create_or_open(self) -> _Content:
        """Return the content of the file, which is created with the key if it is missing.

        Raises SecretStoreUnavailable for a wrong key, or where there is no key and no file.
        """
        found: list[_Content] = []

        def change(known: _Content | None) -> _Content | None:
            if known is None:
                found.append(self._new_content())
                return found[0]
            if self._key.path is not None:
                self._private_key(known)
            found.append(known)
            return None

        self._file.update(change)
        return found[0]

    def _new_content(self) -> _Content:
        passphrase = self._require_passphrase()
        salt = nacl.utils.random(argon2id.SALTBYTES)
        key = self._derive(passphrase, salt, *self._cost)
        return _Content(salt, *self._cost, bytes(key.public_key))

    def _private_key(self, content: _Content) -> PrivateKey:
        """Return the key of the file; raises SecretStoreUnavailable for a wrong passphrase."""
        passphrase = self._require_passphrase()
        key = self._derive(passphrase, content.salt, content.operations, content.memory)
        if bytes(key.public_key) != content.public_key:
            raise SecretStoreUnavailable(
                f"The passphrase in {self._key.path} does not open {self.path}. Use the one with "
                "which it was made. Or remove that file, and run `ctllm login`."
            )
        return key

    def _require_passphrase(self) -> bytes:
        passphrase = self._key.read()
        if passphrase is None:
            raise SecretStoreUnavailable(
                f"There is no key for {self.path} here: only the desktop's service may have it. "
                "Start the desktop, or set desktop.passphrase_file."
            )
        return passphrase

    def _derive(self, passphrase: bytes, salt: bytes, operations: int, memory: int) -> PrivateKey:
        if self._derived is not None and self._derived[:2] == (passphrase, salt):
            return self._derived[2]
        try:
            seed = argon2id.kdf(PrivateKey.SIZE, passphrase, salt, operations, memory)
        except (nacl.exceptions.CryptoError, MemoryError) as error:
            raise SecretStoreUnavailable(
                f"The key of {self.path} needs {memory >> 20} MiB of memory."
            ) from error
        key = PrivateKey(seed)
        self._derived = passphrase, salt, key
        return key

    def _changed(self) -> SecretStoreUnavailable:
        return SecretStoreUnavailable(
            f"{self.path} was changed by another program. Restore it, or remove it and run "
            "`ctllm login`."
        )
