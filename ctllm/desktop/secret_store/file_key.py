"""The key of the encrypted file: from systemd's credentials, or from a file with a passphrase."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ctllm.errors import SecretStoreUnavailable

#: The name of the credential (systemd.exec(5), LoadCredential=).
CREDENTIAL = "ctllm-key"
#: Bytes of a key or passphrase.
MIN_LENGTH, MAX_LENGTH = 8, 4096

_GROUP_AND_OTHERS = 0o077


class FileKey:
    """The key: that of `$CREDENTIALS_DIRECTORY/ctllm-key`, else of the file `passphrase_file`."""

    def __init__(self, environ: Mapping[str, str], passphrase_file: str = "") -> None:
        directory = environ.get("CREDENTIALS_DIRECTORY", "")
        credential = Path(directory) / CREDENTIAL if directory else None
        self._is_credential = credential is not None and credential.exists()
        self.path = credential if self._is_credential else _path_or_none(passphrase_file)

    def read(self) -> bytes | None:
        """Return the key, or None where there is none; raises SecretStoreUnavailable.

        A line break at its end is removed: editors add one.
        """
        if self.path is None:
            return None
        try:
            with self.path.open("rb") as file:
                content = file.read(MAX_LENGTH + 2).rstrip(b"\r\n")
                mode = os.fstat(file.fileno()).st_mode
        except OSError as error:
            raise SecretStoreUnavailable(
                f"Cannot read the passphrase in {self.path}: {error.strerror}."
            ) from error
        if mode & _GROUP_AND_OTHERS and not self._is_credential:
            raise SecretStoreUnavailable(
                f"Others can read the passphrase. Run: chmod 600 {self.path}"
            )
        if not MIN_LENGTH <= len(content) <= MAX_LENGTH:
            raise SecretStoreUnavailable(
                f"The passphrase in {self.path} must have {MIN_LENGTH} to {MAX_LENGTH} bytes."
            )
        return content


def _path_or_none(path: str) -> Path | None:
    return Path(path).expanduser() if path else None
