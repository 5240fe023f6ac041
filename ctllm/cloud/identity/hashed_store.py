"""A directory of JSON files, each found by a secret of which only the hash is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Generic, TypeVar

import msgspec
from twisted.logger import Logger

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.system.private_dir import PrivateDirectory

T = TypeVar("T")
_SUFFIX = ".json"
_log = Logger()


class HashedStore(Generic[T]):
    """Values of `value_type` in `directory`. A file that cannot be decoded counts as missing.

    Files are named by a hash of the secret, so the time of a lookup gives nothing away about the
    secrets of others.
    """

    def __init__(self, directory: PrivateDirectory, value_type: type[T]) -> None:
        self._directory = directory
        self._value_type = value_type

    def get(self, secret: str) -> T | None:
        """Return the value of `secret`, or None."""
        return self._read(_file_name(secret))

    def get_by_id(self, entry_id: str) -> T | None:
        """Return the value of the secret with this `entry_id_of`, or None."""
        return self._read(f"{entry_id}{_SUFFIX}")

    def contains_id(self, entry_id: str) -> bool:
        """Return whether there is a file for the secret with this `entry_id_of`, unread."""
        return self._directory.exists(f"{entry_id}{_SUFFIX}")

    def list_ids(self) -> frozenset[str]:
        """Return the `entry_id_of` of every secret, without reading files."""
        names = self._directory.list_files()
        return frozenset(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))

    def list_values(self) -> list[T]:
        """Return every value; reads every file."""
        values = [self._read(f"{entry_id}{_SUFFIX}") for entry_id in self.list_ids()]
        return [value for value in values if value is not None]

    def read_all(self) -> Iterator[tuple[str, T | None]]:
        """Yield the `entry_id_of` and the value of every secret; None for a damaged file."""
        for entry_id in self.list_ids():
            yield entry_id, self.get_by_id(entry_id)

    def put(self, secret: str, value: T) -> None:
        """Store `value` for `secret`, replacing an earlier value."""
        self._directory.replace(_file_name(secret), msgspec.json.encode(value))

    def update(self, secret: str, value: T) -> bool:
        """Replace the value of `secret`. Store nothing and return False if there is none."""
        return self._directory.update(_file_name(secret), msgspec.json.encode(value))

    def remove(self, secret: str) -> bool:
        """Remove the value of `secret`. Of several concurrent calls, only one returns True."""
        return self._directory.remove(_file_name(secret))

    def remove_id(self, entry_id: str) -> bool:
        """Remove the value of the secret with this `entry_id_of`, as `remove` does."""
        return self._directory.remove(f"{entry_id}{_SUFFIX}")

    def remove_where(self, predicate: Callable[[T | None], bool]) -> int:
        """Remove the values for which `predicate` returns True, and return their number.

        `predicate` is called with None for a file that cannot be decoded.
        """
        files = [name for name in self._directory.list_files() if name.endswith(_SUFFIX)]
        return sum(self._directory.remove(name) for name in files if predicate(self._read(name)))

    def _read(self, name: str) -> T | None:
        data = self._directory.read(name)
        try:
            return None if data is None else decode_json(data, self._value_type)
        except InvalidJson:
            _log.warn(
                "The file {name} in {directory} is damaged and is ignored.",
                name=name,
                directory=self._directory.path,
            )
            return None


def entry_id_of(secret: str) -> str:
    """Return the id of the entry of `secret`, from which the secret cannot be computed."""
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _file_name(secret: str) -> str:
    return f"{entry_id_of(secret)}{_SUFFIX}"
