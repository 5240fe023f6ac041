"""A folder of JSON values, each found by a secret of which only the hash is kept."""

from __future__ import annotations

from collections.abc import Callable
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
    """The values of type `kind` in `folder`. A file that does not hold one counts as none.

    Looked up by its hash, a wrong guess at a secret tells by its timing nothing about a right one.
    """

    def __init__(self, folder: PrivateDirectory, value_type: type[T]) -> None:
        self._folder = folder
        self._value_type = value_type

    def get(self, secret: str) -> T | None:
        """Give the value behind `secret`, or None."""
        return self._read(_file_name(secret))

    def get_by_id(self, entry_id: str) -> T | None:
        """Give the value whose secret has this `record_id`, or None."""
        return self._read(f"{entry_id}{_SUFFIX}")

    def contains_id(self, entry_id: str) -> bool:
        """Whether there is a value whose secret has this `record_id`; it is not read."""
        return self._folder.exists(f"{entry_id}{_SUFFIX}")

    def put(self, secret: str, value: T) -> None:
        """Keep `value` behind `secret`, in the place of what was there."""
        self._folder.replace(_file_name(secret), msgspec.json.encode(value))

    def update(self, secret: str, value: T) -> bool:
        """Replace what is behind `secret` by `value`; False, and nothing is kept, if it is gone."""
        return self._folder.update(_file_name(secret), msgspec.json.encode(value))

    def remove(self, secret: str) -> bool:
        """Remove the value behind `secret`; of all who try, True only for the one who did."""
        return self._folder.remove(_file_name(secret))

    def remove_where(self, predicate: Callable[[T | None], bool]) -> int:
        """Remove the values that are `chosen` (None is a damaged one); give how many."""
        ours = [file for file in self._folder.list_files() if file.endswith(_SUFFIX)]
        return sum(self._folder.remove(file) for file in ours if predicate(self._read(file)))

    def _read(self, file: str) -> T | None:
        data = self._folder.read(file)
        try:
            return None if data is None else decode_json(data, self._value_type)
        except InvalidJson:
            _log.warn("{file} in {folder} is damaged", file=file, folder=self._folder.path)
            return None


def entry_id_of(secret: str) -> str:
    """Give what a record is known by to those who must not know its secret."""
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _file_name(secret: str) -> str:
    return f"{entry_id_of(secret)}{_SUFFIX}"
