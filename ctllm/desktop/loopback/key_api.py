"""The API keys of this desktop, for the page on loopback: the paths that the cloud has, too."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ctllm.auth.api_keys import KeyUse, key_id
from ctllm.auth.key_requests import CreateKey, describe_key
from ctllm.desktop.api_keys import KeyOptions, create_api_key, revoke_api_key
from ctllm.desktop.credential_file import CredentialFile
from ctllm.desktop.loopback.api import MAX_BODY, Route
from ctllm.errors import NotFound
from ctllm.http.server.json_body import decode_json_body, read_json_body
from ctllm.http.server.request import ServerRequest
from ctllm.reactor.interfaces import Clock


class LoopbackKeyApi:
    """The handlers of `/ctllm/keys` and the path below it.

    `uses` returns the use of each key, by its id. `now` returns epoch seconds.
    """

    def __init__(
        self,
        file: CredentialFile,
        uses: Callable[[], Mapping[str, KeyUse]],
        now: Callable[[], float],
        clock: Clock,
    ) -> None:
        self._file = file
        self._uses = uses
        self._now = now
        self._clock = clock

    @property
    def routes(self) -> tuple[Route, ...]:
        """The paths as patterns, each with its handlers by method."""
        return (
            (re.compile("/ctllm/keys"), {"GET": self._list, "POST": self._create}),
            (re.compile("/ctllm/keys/([0-9a-f]{16})"), {"DELETE": self._revoke}),
        )

    async def _list(self, request: ServerRequest, _: tuple[str, ...]) -> None:
        known, uses, now = self._file.load(), self._uses(), self._now()
        keys = []
        for key in sorted(known.api_keys, key=lambda key: key.name):
            use = uses.get(key.id)
            last_use = (use.last_used, use.address) if use is not None else (0, "")
            if not key.is_expired(now):
                keys.append(describe_key(key, key.name, known.desktop_id, "confirmed", last_use))
        request.respond(200, {"keys": keys})

    async def _create(self, request: ServerRequest, _: tuple[str, ...]) -> None:
        body = await read_json_body(request, MAX_BODY, self._clock)
        wanted = decode_json_body(body, CreateKey)
        desktop_id = self._file.load().desktop_id
        if wanted.desktop not in (None, desktop_id):
            raise NotFound("This page creates API keys of this desktop only.")
        now = self._now()
        options = KeyOptions(wanted.scope, wanted.expiry(now), wanted.models, wanted.rate)
        key = create_api_key(self._file, wanted.name, now, options)
        request.respond(201, {"id": key_id(key), "key": key, "desktop": desktop_id})

    async def _revoke(self, request: ServerRequest, groups: tuple[str, ...]) -> None:
        found = [key.name for key in self._file.load().api_keys if key.id == groups[0]]
        if not found:
            raise NotFound("There is no such API key on this desktop.")
        revoke_api_key(self._file, found[0])
        request.respond(204)
