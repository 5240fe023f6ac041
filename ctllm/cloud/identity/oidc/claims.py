"""What the claims of a provider token say, by the configuration of its provider.

Sources: OpenID Connect Core 1.0 (section 2 and 5), RFC 7519 (section 4.1), RFC 9068 (section 2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ctllm.auth.jws import MAX_TIMESTAMP
from ctllm.auth.session_assertions import MANAGE, SERVE, USE
from ctllm.cloud.identity.grants import AccessGrant, User
from ctllm.common.json_decoder import JsonObject
from ctllm.config import Provider, Tier
from ctllm.errors import GroupNotAllowed, Unauthorized

#: Seconds by which the clocks of provider and cloud may differ.
LEEWAY = 30.0
#: The most characters of a user's subject: OpenID Connect Core allows 255.
MAX_SUBJECT = 255
#: The most characters of a user's name.
MAX_NAME = 100
#: The most groups of a user that are read.
MAX_GROUPS = 1000

#: The claims with a displayed name, after the configured one.
_NAME_CLAIMS = ("preferred_username", "nickname", "email")
#: What Keycloak writes into the claim `typ` of tokens that are no access tokens. Its refresh tokens
#: are in the same form.
_OTHER_TOKENS = frozenset(("id", "refresh", "offline", "logout"))


def check_claims(claims: JsonObject, provider: Provider, now: float) -> None:
    """Raise Unauthorized unless `claims` are for this cloud, and valid at `now` (epoch seconds)."""
    check_times(claims, now)
    if not set(_audiences(claims)) & accepted_audiences(provider):
        raise Unauthorized("This token is for another service (its audience is not this cloud).")
    kind = claims.get("typ")
    if (
        provider.token != "id_token"  # noqa: S105
        and isinstance(kind, str)
        and kind.lower() in _OTHER_TOKENS
    ):
        raise Unauthorized("This is not an access token: send the access token of the provider.")
    if "cnf" in claims:  # RFC 7800: whoever sends it must prove that he has a key
        raise Unauthorized("This token is bound to a key, which this cloud cannot verify.")


def read_grant(
    claims: JsonObject, provider: Provider, tiers: Mapping[str, Tier], now: float
) -> AccessGrant:
    """Return what verified `claims` grant.

    Raises Unauthorized without a valid user, and GroupNotAllowed for one who may not sign in.
    """
    user = read_user(claims, provider)
    groups = read_groups(claims, provider)
    if provider.allowed_groups and not groups & set(provider.allowed_groups):
        raise GroupNotAllowed(
            f"{user.name} is in no group that may use this cloud. Ask its administrator.",
            user=user,
        )
    return AccessGrant(
        user,
        frozenset((USE, MANAGE, SERVE) if _is_of_desktop(claims, provider) else (USE, MANAGE)),
        expires_at=claims["exp"],
        auth_time=_auth_time(claims, now),
        tier=find_tier(groups, tiers),
    )


def read_user(claims: JsonObject, provider: Provider) -> User:
    """Return the user of `claims`; raises Unauthorized."""
    subject = find_claim(claims, provider.user_claim)
    if not _is_subject(subject):
        raise Unauthorized(
            f"This token does not say who its user is: its claim {provider.user_claim} is missing "
            "or not valid."
        )
    if provider.user_claim == "email" and claims.get("email_verified") is not True:
        raise Unauthorized("The provider has not verified your email address.")
    return User(provider.user_issuer, subject, _read_name(claims, provider) or subject[:MAX_NAME])


def read_groups(claims: JsonObject, provider: Provider) -> frozenset[str]:
    """Return the groups of the user: a list of strings, or one string."""
    found = find_claim(claims, provider.groups_claim) if provider.groups_claim else ()
    values = [found] if isinstance(found, str) else found
    if not isinstance(values, list):
        return frozenset()
    return frozenset(each for each in values[:MAX_GROUPS] if isinstance(each, str))


def find_tier(groups: frozenset[str], tiers: Mapping[str, Tier]) -> str:
    """Return the first tier, in the order of the file, that has one of `groups`; else ""."""
    return next((name for name, tier in tiers.items() if groups & set(tier.groups)), "")


def find_claim(claims: JsonObject, name: str) -> Any:
    """Return the claim `name`, else the value at that path of names with dots, else None.

    A claim of exactly that name has precedence. A URL is never a path.
    """
    if name in claims or "://" in name:
        return claims.get(name)
    value: Any = claims
    for part in name.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def accepted_audiences(provider: Provider) -> frozenset[str]:
    """Return the audiences of which a token must have one: `audience`, else the client ids."""
    if provider.audience:
        return frozenset((provider.audience,))
    return frozenset(filter(None, (provider.client_id, provider.page_client_id)))


def check_times(claims: JsonObject, now: float) -> None:
    """Raise Unauthorized unless a token with `claims` is valid at `now` (epoch seconds)."""
    issued, expires = _time(claims, "iat"), _time(claims, "exp")
    not_before = _time(claims, "nbf") if "nbf" in claims else issued
    if now >= expires + LEEWAY:
        raise Unauthorized("The provider token has expired: sign in again.")
    if max(issued, not_before) > now + LEEWAY:
        raise Unauthorized("The provider token is not valid yet: check the clocks.")
    if expires < max(issued, not_before):
        raise Unauthorized("The provider token expires before it is valid.")


def _time(claims: JsonObject, name: str) -> float:
    """Return a NumericDate (RFC 7519, section 2); raises Unauthorized."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unauthorized(f"The provider token has no valid time in its claim {name}.")
    if not 0 < value <= MAX_TIMESTAMP or not math.isfinite(value):
        raise Unauthorized(f"The provider token has no valid time in its claim {name}.")
    return float(value)


def _audiences(claims: JsonObject) -> list[str]:
    found = claims.get("aud")
    values = found if isinstance(found, list) else [found]
    return [each for each in values if isinstance(each, str)]


def _is_subject(value: object) -> bool:
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_SUBJECT
        and value.isprintable()
        and not value.isspace()
    )


def _read_name(claims: JsonObject, provider: Provider) -> str:
    """Return the first of the name's claims that can be displayed, or an empty string."""
    for claim in (provider.name_claim, *_NAME_CLAIMS):
        value = find_claim(claims, claim)
        if isinstance(value, str) and value.strip() and value.isprintable():
            return value.strip()[:MAX_NAME]
    return ""


def _is_of_desktop(claims: JsonObject, provider: Provider) -> bool:
    """Return whether the token was issued to a desktop, by every claim that names its client."""
    named = [claims[name] for name in ("azp", "client_id") if name in claims]
    if not named:
        return provider.client_id in _audiences(claims)
    return all(client == provider.client_id for client in named)


def _auth_time(claims: JsonObject, now: float) -> float:
    """Return when the user was authenticated, never in the future: revocations compare it."""
    given = claims.get("auth_time")
    is_time = isinstance(given, int | float) and not isinstance(given, bool) and given > 0
    return float(min(given if is_time else claims["iat"], claims["iat"], now))
