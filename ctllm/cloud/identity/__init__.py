"""Who is asking? Tokens to grants, sign-in, sessions, API keys, and the proxies' assertions."""

from ctllm.cloud.identity.apikeys import ApiKeys
from ctllm.cloud.identity.assertions import Assertions
from ctllm.cloud.identity.grants import SCOPES, Authentication, Grant, Identity, User
from ctllm.cloud.identity.identities import Identities, Remembered
from ctllm.cloud.identity.invites import Invites, user_name
from ctllm.cloud.identity.issuer import Issuer
from ctllm.cloud.identity.keys import PROXY_PREFIX, Keys, load_keys, proxy_id, user_hash
from ctllm.cloud.identity.passes import Passes
from ctllm.cloud.identity.revocations import POLL, Revocations, revoked
from ctllm.cloud.identity.sessions import Client, Session, Sessions, session_id
from ctllm.cloud.identity.store import Folder
from ctllm.wire.assertions import ISSUER, MANAGE, SERVE, USE

__all__ = [
    "ISSUER",
    "MANAGE",
    "POLL",
    "PROXY_PREFIX",
    "SCOPES",
    "SERVE",
    "USE",
    "ApiKeys",
    "Assertions",
    "Authentication",
    "Client",
    "Folder",
    "Grant",
    "Identities",
    "Identity",
    "Invites",
    "Issuer",
    "Keys",
    "Passes",
    "Remembered",
    "Revocations",
    "Session",
    "Sessions",
    "User",
    "load_keys",
    "proxy_id",
    "revoked",
    "session_id",
    "user_hash",
    "user_name",
]
