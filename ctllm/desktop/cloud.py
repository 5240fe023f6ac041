"""The desktop's calls to its cloud: sign in, renew, tell which API keys count."""

from __future__ import annotations

import socket
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import treq
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.web.client import Agent, HTTPConnectionPool, ResponseFailed
from twisted.web.http_headers import Headers

from ctllm.errors import BadRequest, CtllmError, Unauthenticated, UpstreamFailed, from_wire
from ctllm.wire.json_decoder import decode_json

T = TypeVar("T")

#: Seconds that a call may take; these are small and the cloud answers them by itself.
TIMEOUT = 15


class User(msgspec.Struct, frozen=True):
    """Who is signed in."""

    name: str
    id: str


class Token(msgspec.Struct, frozen=True):
    """A short access token, and after a first sign-in what renews it."""

    user: User
    token: str
    expires_in: float
    refresh: str = ""


class _Invite(msgspec.Struct, frozen=True):
    invite: str


class _Told(msgspec.Struct, frozen=True):
    code: str
    message: str


class _Error(msgspec.Struct, frozen=True):
    error: _Told


def split_link(link: str) -> tuple[str, str]:
    """A sign-in link as (cloud's URL, invitation); raises BadRequest."""
    parts = urlsplit(link.strip())
    word, _, invite = parts.fragment.partition("=")
    if parts.scheme not in ("http", "https") or not parts.netloc or word != "invite" or not invite:
        raise BadRequest(
            "that is not a sign-in link; one looks like https://cloud.example/#invite=… "
            "and is printed by: ctllm invite NAME"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", invite


class CloudClient:
    """The cloud at `url`."""

    def __init__(self, url: str, agent: Any, reactor: Any) -> None:
        self.url = url
        self._treq = treq.client.HTTPClient(agent)
        self._reactor = reactor

    async def redeem(self, invite: str) -> Token:
        """Sign this desktop in with an invitation."""
        body = {"invite": invite, "client": "desktop"}
        return await self._token("POST", "/ctllm/session", body)

    async def renew(self, refresh: str, scope: str = "") -> Token:
        """A new access token; raises Unauthenticated when the sign-in is over.

        With a `scope`, the token has no other.
        """
        body = {"refresh": refresh, **({"scope": scope} if scope else {})}
        return await self._token("POST", "/ctllm/session/token", body)

    async def invite(self, token: str) -> str:
        """What signs this user's browser in, once, within two minutes."""
        headers = {"Authorization": f"Bearer {token}"}
        answer = await self._call("POST", "/ctllm/session/invite", None, headers)
        return self._read(answer, _Invite).invite

    async def sign_out(self, refresh: str) -> None:
        """End the sign-in."""
        await self._call("DELETE", "/ctllm/session", None, {"Ctllm-Refresh": refresh})

    async def lease_keys(
        self, token: str, desktop: str, hashes: list[str], seconds: int, manage: list[str]
    ) -> None:
        """Tell the cloud the hashes of the API keys that count, for the next `seconds`.

        Those that may change models are in `manage` too.
        """
        path = f"/ctllm/desktops/{desktop}/keys"
        headers = {"Authorization": f"Bearer {token}"}
        body: dict[str, object] = {"hashes": hashes, "seconds": seconds}
        if manage:
            body["manage"] = manage
        await self._call("PUT", path, body, headers)

    async def _token(self, method: str, path: str, body: object) -> Token:
        answer = await self._call(method, path, body, {})
        return self._read(answer, Token)

    def _read(self, answer: bytes, kind: type[T]) -> T:
        try:
            return decode_json(answer, kind)
        except ValueError as error:
            raise UpstreamFailed(f"{self.url} does not answer like a ctllm cloud") from error

    async def _call(self, method: str, path: str, body: object, headers: dict[str, str]) -> bytes:
        data = None if body is None else msgspec.json.encode(body)
        if data is not None:
            headers = {**headers, "Content-Type": "application/json"}
        asking = Deferred.fromCoroutine(self._exchange(method, path, data, headers))
        try:
            status, answer = await asking.addTimeout(TIMEOUT, self._reactor)
        except (ConnectError, DNSLookupError, ResponseFailed, OSError) as error:
            raise UpstreamFailed(f"{self.url} cannot be reached: {error}") from error
        except CancelledError:
            raise
        except Exception as error:  # among them the time-out
            raise UpstreamFailed(f"{self.url} does not answer ({type(error).__name__})") from error
        if status >= 400:
            raise self._error(status, answer)
        return answer

    async def _exchange(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        response = await self._treq.request(
            method,
            self.url + path,
            data=data,
            headers=Headers({name: [value] for name, value in headers.items()}),
            allow_redirects=False,
            reactor=self._reactor,
        )
        return response.code, await response.content()

    def _error(self, status: int, answer: bytes) -> CtllmError:
        try:
            told = decode_json(answer, _Error).error
        except ValueError:
            kind = Unauthenticated if status == 401 else UpstreamFailed
            return kind(f"{self.url} answered with status {status}")
        return from_wire(told.code, told.message)


def agent(reactor: Any) -> Agent:
    """An agent for few calls, far apart: no kept connections."""
    pool = HTTPConnectionPool(reactor, persistent=False)
    pool._factory.noisy = False  # its factories would log each call twice
    return Agent(reactor, pool=pool)


def host_name() -> str:
    """What this machine calls itself, for people."""
    return socket.gethostname().partition(".")[0][:64] or "desktop"
