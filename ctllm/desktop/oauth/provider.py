"""OpenID providers: the cloud's list of them, and what discovery says about one.

A hostile cloud could name any provider, and a hostile provider any endpoint. So all URLs are https,
except on this machine, and all text is bounded and printable.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.errors import BadGateway, BadRequest
from ctllm.http.origins import is_loopback_host

#: The most providers of a cloud.
MAX_PROVIDERS = 32
#: The most bytes of a list of providers, or of a discovery document.
MAX_DOCUMENT = 64 * 1024
#: What RFC 3986 allows in a URL, without user and fragment; patterns end with \Z because $ also
#: matches before a line break.
_URL = re.compile(
    r"https?://(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
    r"(?:[/?][A-Za-z0-9._~:/?\[\]@!$&'()*+,;=%-]*)?\Z"
)
_MAX_URL = 2048

#: A value of a form field: printable ASCII (RFC 6749, appendix A: VSCHAR).
Printable = Annotated[str, Meta(pattern=r"^[ -~]*\Z", max_length=1024)]
#: A URL of a discovery document, or an empty string.
Url = Annotated[str, Meta(max_length=_MAX_URL)]

TokenKind = Literal["access_token", "id_token"]


class Provider(msgspec.Struct, frozen=True):
    """A provider that the cloud accepts, and its client for desktops.

    `client_secret` is for providers that give one to native apps; it is no secret (RFC 8252,
    section 8.5). `token` is the kind of token that the cloud verifies.
    """

    name: Annotated[str, Meta(pattern=r"^[!-~]{1,64}\Z")]
    issuer: Annotated[str, Meta(min_length=1, max_length=512)]
    client_id: Annotated[str, Meta(pattern=r"^[!-~]{1,512}\Z")]
    title: Annotated[str, Meta(max_length=128)] = ""
    client_secret: Printable = ""
    scope: Printable = "openid offline_access"
    audience: Printable = ""
    token: TokenKind = "access_token"  # noqa: S105

    def __post_init__(self) -> None:
        """Refuse control characters; msgspec turns a ValueError into a ValidationError."""
        if not (self.title.isprintable() and self.issuer.isprintable()):
            raise ValueError("text with control characters")

    @property
    def label(self) -> str:
        """The title, or the name without one, for people."""
        return self.title or self.name


class _ProviderList(msgspec.Struct, frozen=True):
    providers: Annotated[tuple[Provider, ...], Meta(max_length=MAX_PROVIDERS)]


class ProviderMetadata(msgspec.Struct, frozen=True):
    """The part of a discovery document that a desktop uses (OpenID Connect Discovery, section 3).

    A missing endpoint is an empty string.
    """

    issuer: Annotated[str, Meta(min_length=1, max_length=512)]
    token_endpoint: Url
    authorization_endpoint: Url = ""
    device_authorization_endpoint: Url = ""
    revocation_endpoint: Url = ""
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False


def parse_providers(status: int, body: bytes, cloud_url: str) -> tuple[Provider, ...]:
    """Return the providers in the response to `GET /ctllm/providers`.

    A cloud without that path has none. Raises BadGateway for anything else.
    """
    if status == 404:
        return ()
    if status != 200:
        raise BadGateway(f"{cloud_url} responded with status {status}.")
    try:
        return decode_json(body, _ProviderList, MAX_DOCUMENT).providers
    except InvalidJson as error:
        raise BadGateway(f"The providers that {cloud_url} lists are not valid: {error}.") from error


def choose_provider(providers: tuple[Provider, ...], name: str) -> Provider:
    """Return the provider called `name`, or the only one; raises BadRequest."""
    found = [each for each in providers if name in ("", each.name)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(each.name for each in providers)
    if name:
        raise BadRequest(f"This cloud has no provider called {name!r}. It has: {names}.")
    raise BadRequest(f"This cloud has several providers ({names}). Choose one: --provider NAME")


def discovery_url(issuer: str) -> str:
    """Return the URL of the discovery document of `issuer`; raises BadGateway."""
    check_url("issuer", issuer, allows_http=is_local(issuer))
    if "?" in issuer:
        raise BadGateway("The provider's issuer is not a URL that can be used.")
    return f"{issuer.rstrip('/')}/.well-known/openid-configuration"


def parse_metadata(issuer: str, status: int, body: bytes) -> ProviderMetadata:
    """Return the discovery document of `issuer`; raises BadGateway."""
    if status != 200:
        raise BadGateway(f"The provider {issuer} responded to discovery with status {status}.")
    try:
        found = decode_json(body, ProviderMetadata, MAX_DOCUMENT)
    except InvalidJson as error:
        raise BadGateway(
            f"The discovery document of the provider {issuer} is not valid: {error}."
        ) from error
    if found.issuer.removesuffix("/") != issuer.removesuffix("/"):
        raise BadGateway(
            f"The discovery document of the provider {issuer} is that of another issuer. "
            "The cloud's configuration must have the issuer as the provider spells it."
        )
    for name in _ENDPOINTS:
        if url := getattr(found, name):
            check_url(name, url, allows_http=is_local(issuer))
    return found


_ENDPOINTS = (
    "token_endpoint", "authorization_endpoint", "device_authorization_endpoint",
    "revocation_endpoint",
)  # fmt: skip


def check_url(what: str, url: str, allows_http: bool) -> None:
    """Raise BadGateway unless `url` is an https URL, or an http URL of this machine if allowed."""
    if len(url) > _MAX_URL or not _URL.match(url) or not _has_valid_port(url):
        raise BadGateway(f"The provider's {what} is not a URL that can be used.")
    if url.startswith("http://") and not (allows_http and is_local(url)):
        raise BadGateway(
            f"The provider's {what} ({url}) is not encrypted: others on the network could read "
            "the login. It must be an https URL."
        )


def _has_valid_port(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def is_local(url: str) -> bool:
    """Return whether `url` is http on this machine, where nobody can listen in."""
    if not url.startswith("http://") or not _URL.match(url):
        return False
    return is_loopback_host(urlsplit(url).hostname or "")
