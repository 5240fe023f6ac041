"""Who is asking? Tokens to grants, sign-in, sessions, API keys, and the proxies' assertions."""

from ctllm.auth.session_assertions import ISSUER, MANAGE, SERVE, USE
from ctllm.cloud.identity.api_key_leases import ApiKeys
from ctllm.cloud.identity.assertion_signer import Assertions
from ctllm.cloud.identity.grants import SCOPES, Authentication, Grant, Identity, User
from ctllm.cloud.identity.invites import Invites, user_name
from ctllm.cloud.identity.issuer import Issuer
from ctllm.cloud.identity.login_codes import Passes
from ctllm.cloud.identity.revocations import POLL, Revocations, revoked
from ctllm.cloud.identity.sessions import Client, Session, Sessions, session_id
from ctllm.cloud.identity.signing_keys import PROXY_PREFIX, Keys, load_keys, proxy_id, user_hash
from ctllm.cloud.identity.token_verifiers import Identities, Remembered
from ctllm.system.private_dir import PrivateDirectory

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
    "Grant",
    "Identities",
    "Identity",
    "Invites",
    "Issuer",
    "Keys",
    "Passes",
    "PrivateDirectory",
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
