"""The desktop's calls to its cloud: sign in, renew, tell which API keys count.

What the cloud says is checked where it comes in: a cloud may be hostile, and what it calls itself
and its user ends up in headers, files, programs and terminals.
"""

from __future__ import annotations

import re
import socket
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from ctllm import __version__
from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.common.sanitize import sanitize_line
from ctllm.desktop.cloud_endpoint import dialler
from ctllm.desktop.proxy_environment import is_loopback
from ctllm.errors import BadGateway, BadRequest, CtllmError, Unauthorized, error_from_wire
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.client.fetch import fetch
from ctllm.http.message.head import Headers, RequestHead

T = TypeVar("T")

#: Seconds that a call may take; these are small and the cloud answers them by itself.
TIMEOUT = 30
#: Most bytes of an answer: a token, a link, an error.
MAX_ANSWER = 64 * 1024
#: Most characters of an error's text.
MAX_SENTENCE = 1000
#: A sign-in link's address: what a URL may have (RFC 3986), with no user and no query in it.
_ADDRESS = re.compile(
    r"https?://(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:/[!-~]*)?"
)
#: What a pattern ends with is \Z: $ would let a line break pass at the end.
_INVITE = r"^[A-Za-z0-9_-]{1,256}\Z"

#: What a header may carry as a token (RFC 6750, section 2.1: b64token).
Secret = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._~+/-]+=*\Z", max_length=8192)]


class User(msgspec.Struct, frozen=True):
    """Who is signed in."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    id: Annotated[str, Meta(min_length=1, max_length=512)]

    def __post_init__(self) -> None:
        """Neither steers a terminal; raises ValueError, which is how msgspec is told."""
        if not (self.name.isprintable() and self.id.isprintable()):
            raise ValueError("a name that cannot be printed")


class Token(msgspec.Struct, frozen=True):
    """A short access token, and after a first sign-in what renews it."""

    user: User
    token: Secret
    expires_in: Annotated[float, Meta(ge=1, le=366 * 86400)]
    refresh: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._~+/-]*=*\Z", max_length=8192)] = ""


class _Invite(msgspec.Struct, frozen=True):
    invite: Annotated[str, Meta(pattern=_INVITE)]


class _Told(msgspec.Struct, frozen=True):
    code: Annotated[str, Meta(pattern=r"^[a-z_]{1,64}\Z")]
    message: str


class _Error(msgspec.Struct, frozen=True):
    error: _Told


def split_link(link: str) -> tuple[str, str]:
    """A sign-in link as (cloud's URL, invitation); raises BadRequest."""
    address, _, fragment = link.strip().partition("#")
    word, _, invite = fragment.partition("=")
    if not _ADDRESS.fullmatch(address) or word != "invite" or not re.match(_INVITE, invite):
        raise BadRequest(
            "that is not a sign-in link; one looks like https://cloud.example/#invite=… "
            "and is printed by: ctllm invite NAME"
        )
    return address.rstrip("/"), invite


def refuse_plain_http(url: str) -> None:
    """Raise BadRequest for a cloud that is reached over a network without TLS.

    Who listens on the way could use the sign-in, and read what is said.
    """
    parts = urlsplit(url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise BadRequest(
            f"{url} is not encrypted: whoever is on the way reads everything, the sign-in too. "
            "Use an https:// address (cloud.url); or, where the network itself is private, as a "
            "VPN is: ctllm login --insecure-http"
        )


class CloudClient:
    """The cloud at `url`."""

    def __init__(self, url: str, reactor: Any) -> None:
        self.url = url
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
        except InvalidJson as error:
            raise BadGateway(f"{self.url} does not answer like a ctllm cloud") from error

    async def _call(self, method: str, path: str, body: object, headers: dict[str, str]) -> bytes:
        data = b"" if body is None else msgspec.json.encode(body)
        head = RequestHead(method.encode(), self._target(path), self._headers(data, headers))
        endpoint = dialler(self.url, self._reactor)
        origin = ConnectionPool(endpoint, self._reactor, self.url, BadGateway, self._host)
        try:
            status, answer = await fetch(origin, head, self._reactor, TIMEOUT, MAX_ANSWER, data)
        except BadGateway as error:
            raise BadGateway(self._named(error.message)) from error
        finally:
            origin.close()
        if status >= 400:
            raise self._error(status, answer)
        return answer

    @property
    def _host(self) -> bytes:
        return urlsplit(self.url).netloc.encode()

    def _target(self, path: str) -> bytes:
        return f"{urlsplit(self.url).path}{path}".encode()

    def _headers(self, data: bytes, more: dict[str, str]) -> Headers:
        """What is decoded is JSON and nothing else: an answer that is compressed is none."""
        headers = {
            "User-Agent": f"ctllm/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Connection": "close",
            **more,
        }
        if data:
            headers["Content-Type"] = "application/json"
        headers["Content-Length"] = str(len(data))
        return tuple((name.encode(), value.encode()) for name, value in headers.items())

    def _named(self, message: str) -> str:
        return message if self.url in message else f"{self.url}: {message}"

    def _error(self, status: int, answer: bytes) -> CtllmError:
        try:
            told = decode_json(answer, _Error).error
        except InvalidJson:
            kind = Unauthorized if status == 401 else BadGateway
            return kind(f"{self.url} answered with status {status}")
        return error_from_wire(told.code, sanitize_line(told.message, MAX_SENTENCE))


def host_name() -> str:
    """What this machine calls itself, for people."""
    return socket.gethostname().partition(".")[0][:64] or "desktop"
