"""Where a desktop keeps its tokens: the system's keyring, or a file of its own."""

from ctllm.desktop.secret_store.interface import SecretReference, SecretStore
from ctllm.desktop.secret_store.plain_file import PlainFileStore
from ctllm.desktop.secret_store.selection import SecretStores

__all__ = ["PlainFileStore", "SecretReference", "SecretStore", "SecretStores"]
