"""A client that signs its requests as the `ollama` command does with OLLAMA_AUTH=1."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

from twisted.internet.threads import deferToThread

from tests.ollama_key import OllamaKey

USER_AGENT = "ollama/0.17.4 (amd64 linux) Go/go1.24.1"


class OllamaCli:
    """An `ollama` command with a key of its own, for the cloud at `port`.

    A reverse proxy adds `forwarded_for`, the address of the machine.
    """

    def __init__(
        self, port: int, key: OllamaKey | None = None, forwarded_for: str = "127.0.0.1"
    ) -> None:
        self.port = port
        self.key = key or OllamaKey()
        self._forwarded_for = forwarded_for

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        signed: tuple[str, str] | None = None,
        ts: int | None = None,
        query: str | None = None,
        credentials: str | None = None,
    ) -> tuple[int, Any]:
        """Send a request; return its status and its JSON, of lines the last one.

        The signature is for `signed`, a method and a path, at the time `ts`; by default that of the
        request, now. `query` and `credentials` replace what is sent.
        """
        ts = int(time.time()) if ts is None else ts
        credentials = credentials or self.key.sign(*(signed or (method, path)), ts)
        target = f"{path}?{f'ts={ts}' if query is None else query}"
        headers = {
            "Authorization": credentials,
            "User-Agent": USER_AGENT,
            "X-Forwarded-For": self._forwarded_for,
        }
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        return await deferToThread(_send, self.port, method, target, body, headers)

    async def ask(self) -> str:
        """Send a request of an unknown machine and return the link to approve it."""
        status, response = await self.send("POST", "/api/me")
        assert status == 401, response
        return str(response["signin_url"])


def _send(
    port: int, method: str, target: str, body: bytes | None, headers: dict[str, str]
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, target, body, headers)
        response = connection.getresponse()
        try:
            lines = response.read().splitlines()
        except http.client.IncompleteRead as broken_off:
            lines = broken_off.partial.splitlines()
        return response.status, json.loads(lines[-1]) if lines and lines[-1][:1] == b"{" else None
    finally:
        connection.close()
