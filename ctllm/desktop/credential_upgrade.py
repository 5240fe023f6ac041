"""What earlier versions of the credentials file had: the refresh token, and API keys as text."""

from __future__ import annotations

import msgspec

from ctllm.auth.api_keys import record_key
from ctllm.common.json_decoder import JsonObject


def remove_refresh_token(document: JsonObject) -> str | None:
    """Remove the refresh token of the login from `document`, and return it if there is one."""
    login = document.get("sign_in")
    if not isinstance(login, dict) or not isinstance(login.get("refresh"), str):
        return None
    return str(login.pop("refresh"))


def convert_plain_keys(document: JsonObject) -> bool:
    """Replace API keys in clear text by records of them, which remain valid.

    Returns whether there were some; False also if they have another type.
    """
    keys, managing = document.get("keys"), document.get("managing", [])
    if not isinstance(keys, dict) or not isinstance(managing, list):
        return False
    if not all(isinstance(key, str) for key in keys.values()):
        return False
    document["api_keys"] = [
        {
            **msgspec.to_builtins(record_key(key, "manage" if name in managing else "use")),
            "name": name,
        }
        for name, key in keys.items()
    ]
    del document["keys"]
    document.pop("managing", None)
    return True
