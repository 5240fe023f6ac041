"""Users and their credentials: invites, sessions, access tokens, API keys, and revocations."""

from ctllm.auth.session_assertions import CONVERSATIONS, ISSUER, MANAGE, SERVE, USE
from ctllm.cloud.identity.access_token_issuer import AccessTokenIssuer
from ctllm.cloud.identity.api_key_leases import (
    ApiKeyLeases,
    ListedKey,
    is_api_key,
    key_credential,
)
from ctllm.cloud.identity.assertion_signer import AssertionSigner
from ctllm.cloud.identity.composite_verifiers import CachingTokenVerifier, CompositeTokenVerifier
from ctllm.cloud.identity.disabled_users import DisabledUsers
from ctllm.cloud.identity.grants import (
    SCOPES,
    AccessGrant,
    Authentication,
    TokenVerifier,
    User,
)
from ctllm.cloud.identity.invites import Invites, parse_user_name
from ctllm.cloud.identity.known_users import KnownUser, KnownUsers
from ctllm.cloud.identity.login_codes import LoginCodes
from ctllm.cloud.identity.machine_requests import MachineRequest, MachineRequests
from ctllm.cloud.identity.machines import Machine, Machines, is_machine, machine_credential
from ctllm.cloud.identity.revocations import POLL_INTERVAL, Revocations
from ctllm.cloud.identity.sessions import (
    ClientType,
    ProviderProof,
    Session,
    Sessions,
    session_id_of,
)
from ctllm.cloud.identity.signing_keys import (
    PROXY_PREFIX,
    SigningKeys,
    load_signing_keys,
    proxy_id,
    user_hash,
)
from ctllm.cloud.identity.unconfirmed_revocations import UnconfirmedRevocations
from ctllm.system.private_dir import PrivateDirectory

__all__ = [
    "CONVERSATIONS",
    "ISSUER",
    "MANAGE",
    "POLL_INTERVAL",
    "PROXY_PREFIX",
    "SCOPES",
    "SERVE",
    "USE",
    "AccessGrant",
    "AccessTokenIssuer",
    "ApiKeyLeases",
    "AssertionSigner",
    "Authentication",
    "CachingTokenVerifier",
    "ClientType",
    "CompositeTokenVerifier",
    "DisabledUsers",
    "Invites",
    "KnownUser",
    "KnownUsers",
    "ListedKey",
    "LoginCodes",
    "Machine",
    "MachineRequest",
    "MachineRequests",
    "Machines",
    "PrivateDirectory",
    "ProviderProof",
    "Revocations",
    "Session",
    "Sessions",
    "SigningKeys",
    "TokenVerifier",
    "UnconfirmedRevocations",
    "User",
    "is_api_key",
    "is_machine",
    "key_credential",
    "load_signing_keys",
    "machine_credential",
    "parse_user_name",
    "proxy_id",
    "session_id_of",
    "user_hash",
]
