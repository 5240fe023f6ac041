"""Makes the stores of secrets that the configuration names."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from ctllm.desktop.secret_store.encrypted_file import ENCRYPTED_FILE, EncryptedFileStore
from ctllm.desktop.secret_store.file_key import FileKey
from ctllm.desktop.secret_store.keyring_process import ProcessReactor
from ctllm.desktop.secret_store.keyring_store import KEYRING, KeyringStore
from ctllm.desktop.secret_store.plain_file import PLAIN_FILE, PlainFileStore
from ctllm.desktop.secret_store.private_file import OnDamage
from ctllm.desktop.secret_store.selection import SecretStores
from ctllm.system.launch_commands import keyring_command

#: The stores for new secrets, the best one first, by the value of desktop.credential_store.
PREFERRED_STORES = {
    "auto": (KEYRING, ENCRYPTED_FILE, PLAIN_FILE),
    KEYRING: (KEYRING,),
    ENCRYPTED_FILE: (ENCRYPTED_FILE,),
    PLAIN_FILE: (PLAIN_FILE,),
}


def make_secret_stores(
    state_dir: Path,
    reactor: ProcessReactor,
    setting: str,
    passphrase_file: str,
    environ: Mapping[str, str],
    on_damage: OnDamage | None = None,
) -> SecretStores:
    """Return all stores of the folder `state_dir`, with those preferred that `setting` names."""
    stores = (
        KeyringStore(reactor, keyring_command(), environ, sys.platform),
        EncryptedFileStore(state_dir, FileKey(environ, passphrase_file), on_damage),
        PlainFileStore(state_dir, on_damage),
    )
    return SecretStores(stores, PREFERRED_STORES[setting])
