"""What everybody may know of the configured OpenID providers: what a client needs to sign in."""

from __future__ import annotations

from collections.abc import Mapping

from ctllm.config import Provider


def public_providers(providers: Mapping[str, Provider]) -> dict[str, list[dict[str, object]]]:
    """Return the JSON of `GET /ctllm/providers`, in the order of the configuration."""
    return {"providers": [_describe(name, settings) for name, settings in providers.items()]}


def _describe(name: str, settings: Provider) -> dict[str, object]:
    secret = settings.desktop_client_secret
    return {
        "name": name,
        "title": settings.title or name,
        "issuer": settings.issuer,
        "client_id": settings.client_id,
        **({"client_secret": secret} if secret else {}),
        "scope": settings.scope,
        "audience": settings.audience,
        "token": settings.token,
    }
