"""What an ID token must say to finish a login: OpenID Connect Core, section 3.1.3.7."""

from __future__ import annotations

import hmac

from ctllm.cloud.identity.oidc.claims import check_times
from ctllm.cloud.identity.oidc.metadata import is_same_issuer
from ctllm.common.json_decoder import JsonObject
from ctllm.errors import Unauthorized


def check_id_token(claims: JsonObject, issuer: str, client_id: str, nonce: str, now: float) -> None:
    """Raise Unauthorized unless `claims` are those of a login that the cloud began itself.

    `client_id` is the cloud's, `nonce` that of the transaction; `now` is in epoch seconds.
    """
    issued_by, audience, party = claims.get("iss"), claims.get("aud"), claims.get("azp", client_id)
    audiences = audience if isinstance(audience, list) else [audience]
    if not isinstance(issued_by, str) or not is_same_issuer(issued_by, issuer):
        raise Unauthorized("The ID token is of another provider.")
    if client_id not in audiences or party != client_id:
        raise Unauthorized("The ID token is for another client.")
    if len(audiences) > 1 and "azp" not in claims:
        raise Unauthorized("The ID token is for several clients and does not say for which.")
    check_times(claims, now)
    found = claims.get("nonce")
    if not isinstance(found, str) or not hmac.compare_digest(found.encode(), nonce.encode()):
        raise Unauthorized("The ID token belongs to another login.")
