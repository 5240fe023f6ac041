"""The discovery document of a provider (OpenID Connect Discovery 1.0, section 3; RFC 8414)."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.config import is_loopback_host
from ctllm.errors import BadGateway

PATH = "/.well-known/openid-configuration"
"""The path of the document, below the issuer without its trailing slash."""

_Url = Annotated[str, Meta(max_length=2048)]
_Word = Annotated[str, Meta(max_length=100)]
_ENDPOINTS = (
    "jwks_uri",
    "authorization_endpoint",
    "token_endpoint",
    "device_authorization_endpoint",
    "end_session_endpoint",
    "revocation_endpoint",
)


class ProviderMetadata(msgspec.Struct, frozen=True):
    """The members of the document that are used; a missing endpoint is an empty string."""

    issuer: _Url
    jwks_uri: _Url
    authorization_endpoint: _Url = ""
    token_endpoint: _Url = ""
    device_authorization_endpoint: _Url = ""
    end_session_endpoint: _Url = ""
    revocation_endpoint: _Url = ""
    token_endpoint_auth_methods_supported: tuple[_Word, ...] | None = None
    authorization_response_iss_parameter_supported: bool = False


def metadata_url(issuer: str) -> str:
    """Return the URL of the discovery document of `issuer`."""
    return issuer.removesuffix("/") + PATH


def is_same_issuer(first: str, second: str) -> bool:
    """Return whether two issuers are the same, except for one trailing slash."""
    return first.removesuffix("/") == second.removesuffix("/")


def parse_metadata(body: bytes, issuer: str) -> ProviderMetadata:
    """Return the metadata of the provider that is configured with `issuer`; raises BadGateway."""
    try:
        found = decode_json(body, ProviderMetadata)
    except InvalidJson as error:
        raise BadGateway("Its discovery document is not valid.") from error
    if not is_same_issuer(found.issuer, issuer):
        # Otherwise one provider could speak for the users of another (section 4.3).
        raise BadGateway("Its discovery document is that of another issuer.")
    is_local = issuer.startswith("http:")
    for name in _ENDPOINTS:
        url = getattr(found, name)
        if (url or name == "jwks_uri") and not _is_secure(url, is_local):
            raise BadGateway(f"Its discovery document has a {name} that is not an https URL.")
    return found


def _is_secure(url: str, is_local: bool) -> bool:
    """Return whether `url` is https; of a provider on this machine it may be http to it."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port  # raises ValueError
    except ValueError:
        return False
    if not url.isascii() or not url.isprintable() or " " in url or "@" in parts.netloc:
        return False
    return bool(host) and (
        parts.scheme == "https" or (is_local and parts.scheme == "http" and is_loopback_host(host))
    )
