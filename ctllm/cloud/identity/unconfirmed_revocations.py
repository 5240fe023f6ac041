"""Revocations of API keys that no desktop has confirmed yet, on disk.

They outlive the cloud's process: a desktop that was away announces its revoked key when it comes
back, and must not bring it back to life. There is a file for each owner, with the ids of keys by
desktop. The ids of keys are hashes; owners and desktops are named by hashes that need the cloud's
instance secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta
from twisted.logger import Logger

from ctllm.auth.api_keys import KeyId
from ctllm.cloud.identity.signing_keys import user_hash
from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import BadConfiguration, Conflict, CtllmError
from ctllm.system.private_dir import PrivateDirectory

MAX_DESKTOPS = 64
"""Maximum number of desktops of one user for which revocations wait."""
_MAX_SIZE = 1 << 20
_SUFFIX = ".json"

Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Removals = dict[KeyId, float]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By desktop, then by key: until when (epoch seconds) a revocation waits."""

    desktops: dict[Hash, Removals]


class UnconfirmedRevocations:
    """The revocations in `directory`. Owners are given by the tag of their keys.

    `now` returns epoch seconds. Methods raise ServiceUnavailable for a full disk, and
    BadConfiguration if a file is damaged or the file system refuses.
    """

    _log = Logger()

    def __init__(
        self, directory: PrivateDirectory, instance_secret: bytes, now: Callable[[], float]
    ) -> None:
        self._directory = directory
        self._instance_secret = instance_secret
        self._now = now

    def load(self, owner_tag: str, desktop_id: str) -> Removals:
        """Return until when each revocation waits for a desktop, by the id of the key.

        That time may be over.
        """
        return self._read(self._file_of(owner_tag)).get(self._hash(desktop_id), {})

    def save(self, owner_tag: str, desktop_id: str, removals: Mapping[str, float]) -> None:
        """Replace what waits for a desktop; raises Conflict for more than MAX_DESKTOPS."""
        file, desktop = self._file_of(owner_tag), self._hash(desktop_id)
        desktops = self._read(file)
        desktops.pop(desktop, None)
        if removals:
            desktops[desktop] = dict(removals)
        if len(desktops) > MAX_DESKTOPS:
            raise Conflict(
                f"Revocations of API keys wait for {MAX_DESKTOPS} of your desktops already. Start "
                "some of them."
            )
        self._write(file, desktops)

    def remove_expired(self) -> None:
        """Forget what has waited for too long; a file that cannot be read is left alone."""
        for file in self._directory.list_files():
            try:
                self._remove_expired_in(file)
            except CtllmError as error:
                self._log.warn("{message}", message=error.message)

    def _remove_expired_in(self, file: str) -> None:
        now, desktops = self._now(), self._read(file)
        kept = {
            desktop: waiting
            for desktop, removals in desktops.items()
            if (waiting := {id: until for id, until in removals.items() if now < until})
        }
        if kept != desktops:
            self._write(file, kept)

    def _read(self, file: str) -> dict[Hash, Removals]:
        data = self._directory.read(file)
        if data is None:
            return {}
        try:
            return decode_json(data, _File, _MAX_SIZE).desktops
        except InvalidJson as error:  # nobody knows then which keys are revoked
            raise BadConfiguration(
                f"{self._directory.path / file} is damaged ({error}). Until it is restored or "
                "removed, the API keys of its user do not work. To remove it may bring back keys "
                "that were revoked on the page while their desktop was away."
            ) from error

    def _write(self, file: str, desktops: dict[Hash, Removals]) -> None:
        if desktops:
            self._directory.replace(file, msgspec.json.encode(_File(desktops)))
        else:
            self._directory.remove(file)

    def _file_of(self, owner_tag: str) -> str:
        return f"{self._hash(owner_tag)}{_SUFFIX}"

    def _hash(self, id: str) -> str:
        return user_hash(self._instance_secret, id)
