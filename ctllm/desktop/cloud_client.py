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
from ctllm.desktop.cloud_endpoint import endpoint_for_url
from ctllm.desktop.proxy_environment import is_loopback
from ctllm.errors import BadGateway, BadRequest, CtllmError, Unauthorized, error_from_wire
from ctllm.http.client.connection_pool import ConnectionPool
from ctllm.http.client.fetch import fetch
from ctllm.http.message.head import Headers, RequestHead

T = TypeVar("T")

#: Seconds that a call may take; these are small and the cloud answers them by itself.
REQUEST_TIMEOUT = 30
#: Most bytes of an answer: a token, a link, an error.
MAX_RESPONSE = 64 * 1024
#: Most characters of an error's text.
MAX_ERROR_LENGTH = 1000
#: A sign-in link's address: what a URL may have (RFC 3986), with no user and no query in it.
_CLOUD_URL = re.compile(
    r"https?://(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:/[!-~]*)?"
)
#: What a pattern ends with is \Z: $ would let a line break pass at the end.
_INVITE = r"^[A-Za-z0-9_-]{1,256}\Z"

#: What a header may carry as a token (RFC 6750, section 2.1: b64token).
BearerToken = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._~+/-]+=*\Z", max_length=8192)]


class User(msgspec.Struct, frozen=True):
    """Who is signed in."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    id: Annotated[str, Meta(min_length=1, max_length=512)]

    def __post_init__(self) -> None:
        """Neither steers a terminal; raises ValueError, which is how msgspec is told."""
        if not (self.name.isprintable() and self.id.isprintable()):
            raise ValueError("a name that cannot be printed")


class TokenResponse(msgspec.Struct, frozen=True):
    """A short access token, and after a first sign-in what renews it."""

    user: User
    token: BearerToken
    expires_in: Annotated[float, Meta(ge=1, le=366 * 86400)]
    refresh: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._~+/-]*=*\Z", max_length=8192)] = ""


class _InviteResponse(msgspec.Struct, frozen=True):
    invite: Annotated[str, Meta(pattern=_INVITE)]


class _ErrorDetail(msgspec.Struct, frozen=True):
    code: Annotated[str, Meta(pattern=r"^[a-z_]{1,64}\Z")]
    message: str


class _ErrorResponse(msgspec.Struct, frozen=True):
    error: _ErrorDetail


def parse_invite_link(link: str) -> tuple[str, str]:
    """A sign-in link as (cloud's URL, invitation); raises BadRequest."""
    address, _, fragment = link.strip().partition("#")
    key, _, invite = fragment.partition("=")
    if not _CLOUD_URL.fullmatch(address) or key != "invite" or not re.match(_INVITE, invite):
        raise BadRequest(
            "that is not a sign-in link; one looks like https://cloud.example/#invite=… "
            "and is printed by: ctllm invite NAME"
        )
    return address.rstrip("/"), invite


def require_https(url: str) -> None:
    """Raise BadRequest for a cloud that is reached over a network without TLS.

    Who listens on the way could use the sign-in, and read what is said.
    """
    parts = urlsplit(url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise BadRequest(
            f"{url} is not encrypted: whoever is on the way reads everything, the sign-in too. "
            "Use an https:// address (cloud.public_url); or, where the network itself is private, as a "
            "VPN is: ctllm login --insecure-http"
        )


class CloudClient:
    """The cloud at `url`."""

    def __init__(self, url: str, reactor: Any) -> None:
        self.url = url
        self._reactor = reactor

    async def redeem_invite(self, invite: str) -> TokenResponse:
        """Sign this desktop in with an invitation."""
        body = {"invite": invite, "client": "desktop"}
        return await self._request_token("POST", "/ctllm/session", body)

    async def refresh_access_token(self, refresh_token: str, scope: str = "") -> TokenResponse:
        """A new access token; raises Unauthenticated when the sign-in is over.

        With a `scope`, the token has no other.
        """
        body = {"refresh": refresh_token, **({"scope": scope} if scope else {})}
        return await self._request_token("POST", "/ctllm/session/token", body)

    async def create_login_code(self, token: str) -> str:
        """What signs this user's browser in, once, within two minutes."""
        headers = {"Authorization": f"Bearer {token}"}
        response = await self._request("POST", "/ctllm/session/invite", None, headers)
        return self._decode(response, _InviteResponse).invite

    async def log_out(self, refresh_token: str) -> None:
        """End the sign-in."""
        await self._request("DELETE", "/ctllm/session", None, {"Ctllm-Refresh": refresh_token})

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
        await self._request("PUT", path, body, headers)

    async def _request_token(self, method: str, path: str, body: object) -> TokenResponse:
        response = await self._request(method, path, body, {})
        return self._decode(response, TokenResponse)

    def _decode(self, response: bytes, kind: type[T]) -> T:
        try:
            return decode_json(response, kind)
        except InvalidJson as error:
            raise BadGateway(f"{self.url} does not answer like a ctllm cloud") from error

    async def _request(
        self, method: str, path: str, body: object, headers: dict[str, str]
    ) -> bytes:
        encoded = b"" if body is None else msgspec.json.encode(body)
        head = RequestHead(method.encode(), self._target(path), self._headers(encoded, headers))
        endpoint = endpoint_for_url(self.url, self._reactor)
        pool = ConnectionPool(endpoint, self._reactor, self.url, BadGateway, self._host)
        try:
            status, response = await fetch(
                pool, head, self._reactor, REQUEST_TIMEOUT, MAX_RESPONSE, encoded
            )
        except BadGateway as error:
            raise BadGateway(self._with_url(error.message)) from error
        finally:
            pool.close()
        if status >= 400:
            raise self._error_of(status, response)
        return response

    @property
    def _host(self) -> bytes:
        return urlsplit(self.url).netloc.encode()

    def _target(self, path: str) -> bytes:
        return f"{urlsplit(self.url).path}{path}".encode()

    def _headers(self, body: bytes, extra: dict[str, str]) -> Headers:
        """What is decoded is JSON and nothing else: an answer that is compressed is none."""
        headers = {
            "User-Agent": f"ctllm/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Connection": "close",
            **extra,
        }
        if body:
            headers["Content-Type"] = "application/json"
        headers["Content-Length"] = str(len(body))
        return tuple((name.encode(), value.encode()) for name, value in headers.items())

    def _with_url(self, message: str) -> str:
        return message if self.url in message else f"{self.url}: {message}"

    def _error_of(self, status: int, response: bytes) -> CtllmError:
        try:
            error = decode_json(response, _ErrorResponse).error
        except InvalidJson:
            kind = Unauthorized if status == 401 else BadGateway
            return kind(f"{self.url} answered with status {status}")
        return error_from_wire(error.code, sanitize_line(error.message, MAX_ERROR_LENGTH))


def host_name() -> str:
    """What this machine calls itself, for people."""
    return socket.gethostname().partition(".")[0][:64] or "desktop"
