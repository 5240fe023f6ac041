"""API keys that were created or revoked on the page: the cloud's changes, and the reply to them.

The cloud could act as its users anyway, as all their requests pass through it. What it adds here
stays within that: a key is of use at this cloud alone, allows no more than requests through the
cloud do (`desktop.allowed_requests`), is listed by `ctllm keys`, and replaces none that exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec
from msgspec.structs import replace
from twisted.logger import Logger

from ctllm.auth.api_keys import (
    MAX_KEYS,
    KeyChanges,
    KeyDescription,
    KeyId,
    KeyRefusal,
    KeyReport,
    KeyUse,
    NamedKeyRecord,
)
from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.desktop.credential_file import CredentialFile, Credentials, Login, name_key
from ctllm.desktop.resources.json_exchange import JsonExchange, Response
from ctllm.errors import MethodNotAllowed
from ctllm.http.interfaces import RequestSink, ResponseSink
from ctllm.http.message.head import RequestHead

_TOO_MANY = f"This desktop has {MAX_KEYS} API keys, and stores no more. Revoke one first."
_OLDER = "This desktop runs a version of ctllm that does not know this kind of API key. Upgrade it."
_EXISTS = "This desktop has another API key with this id."


class _Identified(msgspec.Struct, frozen=True):
    id: KeyId


class RemoteKeys:
    """Makes the changes in `file`, if `is_allowed`. `now` returns epoch seconds."""

    _log = Logger()

    def __init__(self, file: CredentialFile, is_allowed: bool, now: Callable[[], float]) -> None:
        self._file = file
        self._is_allowed = is_allowed
        self._now = now
        self._refused: dict[str, KeyRefusal] = {}

    def report(self, known: Credentials, uses: Mapping[str, KeyUse]) -> KeyReport:
        """Return what the cloud is told of the keys in `known`; `uses` are theirs, by id."""
        now = self._now()
        described = [
            KeyDescription(
                key.id,
                key.name,
                uses[key.id].last_used if key.id in uses else 0,
                uses[key.id].address if key.id in uses else "",
            )
            for key in known.api_keys
            if not key.is_expired(now)
        ]
        refused = tuple(self._refused.values())
        return KeyReport(self._is_allowed, tuple(described[:MAX_KEYS]), refused)

    def apply(self, login: Login, changes: KeyChanges) -> bool:
        """Make the changes of the cloud of `login`; return whether it should be told at once.

        Raises BadConfiguration if they cannot be stored: then the cloud sends them again.
        """
        self._refused = {}
        if not self._is_allowed or not (changes.added or changes.removed):
            return False
        added = [record for raw in changes.added if (record := self._decode(raw)) is not None]
        before = self._file.load()

        def change(known: Credentials) -> Credentials:
            if known.login is None or known.login.id != login.id:
                return known  # another login has begun meanwhile
            kept = tuple(key for key in known.api_keys if key.id not in changes.removed)
            return self._with_added(replace(known, api_keys=kept), added, login.cloud_url)

        after = self._file.update(change)
        self._log_changes(before, after)
        return after.api_keys != before.api_keys or bool(self._refused)

    def _with_added(
        self, known: Credentials, added: Iterable[NamedKeyRecord], cloud_url: str
    ) -> Credentials:
        for record in added:
            existing = next((key for key in known.api_keys if key.id == record.id), None)
            if existing is not None:
                if existing.digest != record.digest:
                    self._refuse(record.id, _EXISTS)
                continue
            now = self._now()
            if sum(not key.is_expired(now) for key in known.api_keys) >= MAX_KEYS:
                self._refuse(record.id, _TOO_MANY)
                continue
            name = _free_name(record.name, {key.name for key in known.api_keys})
            key = name_key(name, record, int(now), cloud_url)
            known = replace(known, api_keys=(*known.api_keys, key))
        return known

    def _decode(self, raw: msgspec.Raw) -> NamedKeyRecord | None:
        try:
            return decode_json(raw, NamedKeyRecord)
        except InvalidJson:
            pass
        try:
            self._refuse(decode_json(raw, _Identified).id, _OLDER)
        except InvalidJson:
            self._log.error("The cloud has sent the record of an API key without an id")
        return None

    def _refuse(self, id: str, reason: str) -> None:
        self._log.warn("Cannot store an API key of the page: {reason}", reason=reason)
        self._refused[id] = KeyRefusal(id, reason)

    def _log_changes(self, before: Credentials, after: Credentials) -> None:
        for one, another, done in ((before, after, "deleted"), (after, before, "stored")):
            known = {key.id for key in another.api_keys}
            for key in one.api_keys:
                if key.id not in known:
                    self._log.info(
                        "The API key {id} was {done}, as the page wants", id=key.id, done=done
                    )


def _free_name(name: str, used: set[str]) -> str:
    """Return `name`, or `name-2`, `name-3` … if a key with that name was created meanwhile."""
    number, free = 1, name
    while free in used:
        number += 1
        free = f"{name}-{number}"
    return free


class LeaseResource:
    """The resource `lease`: the cloud has changes of API keys. An `Upstream`.

    `renew` renews the lease soon. The request says nothing else, so that a streaming proxy can do
    no more with it than hasten a request that the desktop makes anyway.
    """

    def __init__(self, renew: Callable[[], None]) -> None:
        self._renew = renew

    def start_request(self, head: RequestHead, sink: ResponseSink) -> RequestSink:
        """Start a request; raises MethodNotAllowed."""
        if head.method != b"POST":
            raise MethodNotAllowed("A lease is renewed with POST.", allow="POST")
        return JsonExchange(sink, 0, self._handle)

    async def _handle(self, _: bytes) -> Response:
        self._renew()
        return Response(204)
