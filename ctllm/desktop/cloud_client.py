"""A client of the cloud's API: log in, refresh access tokens, lease API keys.

Responses are validated here, because a cloud may be hostile: its strings end up in headers, files,
command lines and terminals.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from ctllm.auth.api_keys import MAX_KEYS, KeyChanges, KeyRecord, KeyReport, KeyUse
from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.common.sanitize import sanitize_line
from ctllm.desktop.http_request import send_request
from ctllm.desktop.machines import Machine, MachineList
from ctllm.desktop.oauth.provider import MAX_DOCUMENT, Provider, parse_providers
from ctllm.errors import BadGateway, BadRequest, CtllmError, Unauthorized, error_from_wire
from ctllm.http.client.proxy_environment import is_loopback
from ctllm.http.client.url_endpoint import endpoint_for_url
from ctllm.reactor.interfaces import Clock, Endpoint

T = TypeVar("T")

#: The most bytes of a response: a token, a link, an error.
MAX_RESPONSE = 64 * 1024
#: That of a lease: the records of new keys, each with 16 patterns of models.
MAX_LEASE_RESPONSE = 1024 * 1024
#: The most characters of an error message.
MAX_ERROR_LENGTH = 1000
#: The URL in an invite link: what RFC 3986 allows, without user and query.
_CLOUD_URL = re.compile(
    r"https?://(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:/[!-~]*)?"
)
#: Patterns end with \Z, because $ also matches before a line break.
_INVITE = r"^[A-Za-z0-9_-]{1,256}\Z"

#: A token that a header can carry (RFC 6750, section 2.1: b64token).
BearerToken = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._~+/-]+=*\Z", max_length=8192)]


class UnexplainedRefusal(Unauthorized):
    """A status 401 without ctllm's error: perhaps of another server, such as a captive portal."""


class User(msgspec.Struct, frozen=True):
    """The user who is logged in."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    id: Annotated[str, Meta(min_length=1, max_length=512)]

    def __post_init__(self) -> None:
        """Refuse control characters; msgspec turns a ValueError into a ValidationError."""
        if not (self.name.isprintable() and self.id.isprintable()):
            raise ValueError("a name with control characters")


class TokenResponse(msgspec.Struct, frozen=True):
    """An access token; after a login also the refresh token."""

    user: User
    access_token: BearerToken = msgspec.field(name="token")
    expires_in: Annotated[float, Meta(ge=1, le=366 * 86400)]
    refresh_token: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._~+/-]*=*\Z", max_length=8192)] = (
        msgspec.field(default="", name="refresh")
    )


class _InviteResponse(msgspec.Struct, frozen=True):
    invite: Annotated[str, Meta(pattern=_INVITE)]


class _TunnelAuthorization(msgspec.Struct, frozen=True):
    assertion: BearerToken


class LeaseResponse(msgspec.Struct, frozen=True):
    """The use of the keys since the last lease, and what the page has changed of them."""

    usage: Annotated[tuple[KeyUse, ...], Meta(max_length=MAX_KEYS)] = ()
    changes: KeyChanges = KeyChanges()


class _ErrorDetail(msgspec.Struct, frozen=True):
    code: Annotated[str, Meta(pattern=r"^[a-z_]{1,64}\Z")]
    message: str


class _ErrorResponse(msgspec.Struct, frozen=True):
    error: _ErrorDetail


def parse_invite_link(link: str) -> tuple[str, str]:
    """Return the cloud's URL and the invite in an invite link; raises BadRequest."""
    url, _, fragment = link.strip().partition("#")
    key, _, invite = fragment.partition("=")
    if not _CLOUD_URL.fullmatch(url) or key != "invite" or not re.match(_INVITE, invite):
        raise BadRequest(
            "Not an invite link. It looks like https://cloud.example/#invite=… and is printed by "
            "the command `ctllm invite NAME` on the server."
        )
    return url.rstrip("/"), invite


def is_invite_link(link: str) -> bool:
    """Return whether `link` has an invite, or was meant to: a cloud's URL has no fragment."""
    return "#" in link


def parse_cloud_url(text: str) -> str:
    """Return the URL of a cloud that somebody entered; https is added. Raises BadRequest."""
    given = text.strip()
    url = given if "://" in given else f"https://{given}"
    if not _CLOUD_URL.fullmatch(url) or "?" in url or not _has_valid_port(url):
        raise BadRequest(
            "Not the address of a cloud, nor an invite link. Ask your sysadmin for one of them. "
            "They look like https://cloud.example and https://cloud.example/#invite=…"
        )
    return url.rstrip("/")


def _has_valid_port(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def require_https(url: str) -> None:
    """Raise BadRequest for a cloud that is reached over a network without TLS."""
    parts = urlsplit(url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise BadRequest(
            f"The connection to {url} would not be encrypted: others on the network could read the "
            "login and everything after it. Use an https:// address (cloud.public_url). On a "
            "private network, such as a VPN, use `ctllm login --insecure-http`."
        )


class CloudClient:
    """A client of the cloud at `url`.

    `endpoint_for` returns the endpoint of a URL; by default it is `endpoint_for_url`.
    """

    def __init__(
        self,
        url: str,
        reactor: Clock,
        endpoint_for: Callable[[str], Endpoint] | None = None,
    ) -> None:
        self.url = url
        self._clock = reactor
        self._endpoint_for = endpoint_for or (lambda url: endpoint_for_url(url, reactor))

    async def redeem_invite(self, invite: str) -> TokenResponse:
        """Log this desktop in."""
        body = {"invite": invite, "client": "desktop"}
        return await self._request_token("/ctllm/session", body)

    async def list_providers(self) -> tuple[Provider, ...]:
        """Return the OpenID providers with which users of this cloud log in."""
        status, body = await self._send("GET", "/ctllm/providers", b"", {}, MAX_DOCUMENT)
        return parse_providers(status, body, self.url)

    async def redeem_provider_token(self, token: str) -> TokenResponse:
        """Log this desktop in with a token of one of those providers."""
        body = {"provider_token": token, "client": "desktop"}
        return await self._request_token("/ctllm/session", body)

    async def refresh_access_token(
        self, refresh_token: str, scope: str = "", provider_token: str = ""
    ) -> TokenResponse:
        """Return a new access token; raises Unauthorized once the session has ended.

        With a `scope`, the token has only that one. Where the user logged in with a provider, the
        cloud raises ProviderTokenRequired when it needs a fresh `provider_token`.
        """
        body = {"refresh": refresh_token}
        body |= {"scope": scope} if scope else {}
        body |= {"provider_token": provider_token} if provider_token else {}
        return await self._request_token("/ctllm/session/token", body)

    async def create_login_code(self, access_token: str) -> str:
        """Return a code that logs a browser in as this user, once, within two minutes."""
        headers = {"Authorization": f"Bearer {access_token}"}
        response = await self._request("POST", "/ctllm/session/invite", None, headers)
        return self._decode(response, _InviteResponse).invite

    async def authorize_tunnel(self, access_token: str) -> str:
        """Return a session assertion that extends the authorization of a connected tunnel."""
        headers = {"Authorization": f"Bearer {access_token}"}
        response = await self._request("POST", "/ctllm/tunnel/authorization", None, headers)
        return self._decode(response, _TunnelAuthorization).assertion

    async def log_out(self, refresh_token: str) -> None:
        """End the session."""
        await self._request("DELETE", "/ctllm/session", None, {"Ctllm-Refresh": refresh_token})

    async def lease_keys(
        self,
        access_token: str,
        desktop_id: str,
        keys: Sequence[KeyRecord],
        seconds: int,
        report: KeyReport | None = None,
    ) -> LeaseResponse:
        """Lease API keys to the cloud for `seconds`.

        A cloud of an earlier version refuses a `report` with BadRequest.
        """
        body: dict[str, object] = {"keys": keys, "seconds": seconds}
        body |= {} if report is None else {"report": report}
        return await self._request_lease("PUT", access_token, desktop_id, body)

    async def withdraw_keys(self, access_token: str, desktop_id: str) -> tuple[KeyUse, ...]:
        """End the lease of API keys; return their use since the last lease."""
        return (await self._request_lease("DELETE", access_token, desktop_id, None)).usage

    async def _request_lease(
        self, method: str, access_token: str, desktop_id: str, body: object
    ) -> LeaseResponse:
        path = f"/ctllm/desktops/{desktop_id}/keys"
        headers = {"Authorization": f"Bearer {access_token}"}
        response = await self._request(method, path, body, headers, MAX_LEASE_RESPONSE)
        return self._decode(response, LeaseResponse)

    async def list_machines(self, access_token: str) -> tuple[Machine, ...]:
        """Return the machines whose `ollama` command may use the models, the oldest first."""
        headers = {"Authorization": f"Bearer {access_token}"}
        response = await self._request("GET", "/ctllm/machines", None, headers)
        return self._decode(response, MachineList).machines

    async def rename_machine(self, access_token: str, machine_id: str, name: str) -> None:
        """Rename a machine."""
        headers = {"Authorization": f"Bearer {access_token}"}
        await self._request("PATCH", f"/ctllm/machines/{machine_id}", {"name": name}, headers)

    async def remove_machine(self, access_token: str, machine_id: str) -> None:
        """Remove a machine, and end its requests in progress."""
        headers = {"Authorization": f"Bearer {access_token}"}
        await self._request("DELETE", f"/ctllm/machines/{machine_id}", None, headers)

    async def _request_token(self, path: str, body: object) -> TokenResponse:
        return self._decode(await self._request("POST", path, body, {}), TokenResponse)

    def _decode(self, response: bytes, kind: type[T]) -> T:
        try:
            return decode_json(response, kind)
        except InvalidJson as error:
            raise BadGateway(f"The response of {self.url} is not that of a ctllm cloud.") from error

    async def _request(
        self,
        method: str,
        path: str,
        body: object,
        headers: dict[str, str],
        max_response: int = MAX_RESPONSE,
    ) -> bytes:
        encoded = b"" if body is None else msgspec.json.encode(body)
        if encoded:
            headers = {**headers, "Content-Type": "application/json"}
        status, response = await self._send(method, path, encoded, headers, max_response)
        if status >= 400:
            raise self._error_of(status, response)
        return response

    async def _send(
        self, method: str, path: str, body: bytes, headers: dict[str, str], max_response: int
    ) -> tuple[int, bytes]:
        return await send_request(
            method, f"{self.url}{path}", headers, body,
            self._clock, self._endpoint_for, max_response, name=self.url,
        )  # fmt: skip

    def _error_of(self, status: int, response: bytes) -> CtllmError:
        try:
            error = decode_json(response, _ErrorResponse).error
        except InvalidJson:
            kind = UnexplainedRefusal if status == 401 else BadGateway
            return kind(f"{self.url} responded with status {status}.")
        return error_from_wire(error.code, sanitize_line(error.message, MAX_ERROR_LENGTH))


def host_name() -> str:
    """Return the name of this machine, for people."""
    return socket.gethostname().partition(".")[0][:64] or "desktop"
