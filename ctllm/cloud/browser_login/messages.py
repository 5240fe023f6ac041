"""The messages of the authorization code flow, as values: OpenID Connect Core, section 3.1.

The provider and whoever sends the browser back are not trusted, so all of it has limits.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import parse_qsl, quote_plus, urlencode, urlsplit

import msgspec
from msgspec import Meta

from ctllm.cloud.browser_login.transactions import LoginTransaction
from ctllm.common.json_decoder import decode_json
from ctllm.errors import BadRequest
from ctllm.http.message.head import Headers

#: The longest query of a callback in bytes, and the most parameters. Codes may be some kilobytes.
MAX_QUERY = 16 * 1024
MAX_PARAMETERS = 32
_MAX_TOKEN = 16 * 1024

#: The parameters of a callback that are read (RFC 6749, sections 4.1.2 and 4.1.2.1; RFC 9207).
_CALLBACK = frozenset(("code", "state", "iss", "error"))
#: An issuer that returns refresh tokens only for these parameters, and has no `prompt=login`:
#: Using OAuth 2.0 for Web Server Applications, step 1.
_GOOGLE = "https://accounts.google.com"
_GOOGLE_PROMPT = {False: "consent", True: "select_account consent"}
_PROVIDER_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """The cloud as a client of a provider. `secret` is empty for a public client."""

    issuer: str
    client_id: str
    redirect_uri: str
    scope: str
    audience: str = ""
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Callback:
    """What the provider appended to the redirect URI; empty where it did not."""

    code: str = field(default="", repr=False)
    state: str = field(default="", repr=False)
    iss: str = ""
    error: str = ""


Token = Annotated[str, Meta(min_length=1, max_length=_MAX_TOKEN)]


class TokenResponse(msgspec.Struct, frozen=True):
    """A successful response of a token endpoint. Other members are ignored (RFC 6749, 5.1)."""

    access_token: Token
    id_token: Annotated[str, Meta(max_length=_MAX_TOKEN)] = ""
    refresh_token: Annotated[str, Meta(max_length=_MAX_TOKEN)] = ""

    def __repr__(self) -> str:
        return "TokenResponse()"


class TokenError(msgspec.Struct, frozen=True):
    """A refusal of a token endpoint (RFC 6749, section 5.2)."""

    error: Annotated[str, Meta(max_length=100)]


def decode_token_response(body: bytes) -> TokenResponse:
    """Decode a response of a token endpoint; raises InvalidJson."""
    return decode_json(body, TokenResponse)


def decode_token_error(body: bytes) -> TokenError:
    """Decode an error of a token endpoint; raises InvalidJson."""
    return decode_json(body, TokenError)


def parse_login(target: bytes) -> tuple[str, bool]:
    """Return the parameter `provider` of a request, and whether it has `fresh=1`.

    Raises BadRequest.
    """
    found = _query(target, frozenset(("provider", "fresh")))
    name = found.get("provider", "")
    if not _PROVIDER_NAME.fullmatch(name):
        raise BadRequest("The URL must name the provider: /ctllm/login?provider=NAME.")
    return name, found.get("fresh") == "1"


def parse_callback(target: bytes) -> Callback:
    """Return the parameters of a callback; raises BadRequest."""
    return Callback(**_query(target, _CALLBACK))


def _query(target: bytes, wanted: frozenset[str]) -> dict[str, str]:
    """Return the `wanted` parameters of a request's query.

    Raises BadRequest if one occurs twice (RFC 6749, section 3.1), or if they exceed the limits.
    """
    query = target.partition(b"?")[2]
    error = BadRequest("The parameters of the URL are invalid. Start again on the page.")
    if len(query) > MAX_QUERY:
        raise error
    try:
        pairs = parse_qsl(query.decode("ascii"), errors="strict", max_num_fields=MAX_PARAMETERS)
    except ValueError:
        raise error from None  # its message may quote the query
    found = [(name, value) for name, value in pairs if name in wanted]
    if len(dict(found)) != len(found):
        raise error
    return dict(found)


def authorization_url(
    endpoint: str, client: OAuthClient, transaction: LoginTransaction, fresh: bool = False
) -> str:
    """Return the URL at the provider's authorization `endpoint` that signs in a person.

    With `fresh` the provider asks also those who are signed in there.
    """
    parameters = {
        "response_type": "code",
        "client_id": client.client_id,
        "redirect_uri": client.redirect_uri,
        "scope": client.scope,
        "state": transaction.state,
        "nonce": transaction.nonce,
        "code_challenge": transaction.challenge,
        "code_challenge_method": "S256",
        **({"audience": client.audience} if client.audience else {}),
        **_own_parameters(client.issuer.removesuffix("/"), fresh),
    }
    separator = "&" if urlsplit(endpoint).query else "?"
    return f"{endpoint}{separator}{urlencode(parameters)}"


def _own_parameters(issuer: str, fresh: bool) -> Mapping[str, str]:
    """Return the parameters of an issuer that asks also those who are signed in if `fresh`."""
    if issuer == _GOOGLE:
        return {"access_type": "offline", "prompt": _GOOGLE_PROMPT[fresh]}
    return {"prompt": "login"} if fresh else {}


def code_parameters(
    client: OAuthClient, transaction: LoginTransaction, code: str
) -> dict[str, str]:
    """Return the parameters that redeem a code (RFC 6749, section 4.1.3; RFC 7636, 4.5)."""
    return {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": client.redirect_uri,
        "code_verifier": transaction.verifier,
    }


def refresh_parameters(client: OAuthClient, refresh_token: str) -> dict[str, str]:
    """Return the parameters that renew tokens (RFC 6749, section 6)."""
    audience = {"audience": client.audience} if client.audience else {}
    return {"grant_type": "refresh_token", "refresh_token": refresh_token, **audience}


def revocation_parameters(refresh_token: str) -> dict[str, str]:
    """Return the parameters that revoke a refresh token (RFC 7009, section 2.1)."""
    return {"token": refresh_token, "token_type_hint": "refresh_token"}


def form_request(
    client: OAuthClient, parameters: Mapping[str, str], auth_methods: tuple[str, ...] | None
) -> tuple[Headers, bytes]:
    """Return the headers and the body of a request of the client (RFC 6749, section 2.3).

    `auth_methods` are those that the provider supports; without a list, Basic is the default
    (OpenID Connect Discovery, section 3).
    """
    headers: Headers = ((b"Content-Type", b"application/x-www-form-urlencoded"),)
    own = {"client_id": client.client_id}
    if client.secret and "client_secret_basic" in (auth_methods or ("client_secret_basic",)):
        pair = f"{quote_plus(client.client_id)}:{quote_plus(client.secret)}"
        headers += ((b"Authorization", b"Basic " + b64encode(pair.encode())),)
        own = {}
    elif client.secret:
        own["client_secret"] = client.secret
    return headers, urlencode({**parameters, **own}).encode()
