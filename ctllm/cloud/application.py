"""Composes the parts of a running cloud: stores, authentication, proxies, API and gateway."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from ctllm.cloud.access_enforcer import (
    TUNNEL_POLL_INTERVAL,
    AccessEnforcer,
    AccessRules,
    MachineConfirmation,
)
from ctllm.cloud.active_requests import ActiveRequests
from ctllm.cloud.admin.api import admin_service
from ctllm.cloud.api import ManagementApi
from ctllm.cloud.audit import COUNT_INTERVAL, AuditLog
from ctllm.cloud.auth_request import AuthRequestHandler
from ctllm.cloud.browser_login.api import CALLBACK_PATH, BrowserLogin
from ctllm.cloud.browser_login.interfaces import LoginProvider
from ctllm.cloud.browser_login.renewals import ProviderRenewals
from ctllm.cloud.browser_login.transactions import LoginTransactions
from ctllm.cloud.connected_desktops import ConnectedDesktops
from ctllm.cloud.direct_requests import DirectRequests, GrantSealer
from ctllm.cloud.gateway import Gateway
from ctllm.cloud.identity import (
    POLL_INTERVAL,
    PROXY_PREFIX,
    AccessGrant,
    AccessTokenIssuer,
    ApiKeyLeases,
    AssertionSigner,
    CachingTokenVerifier,
    CompositeTokenVerifier,
    DisabledUsers,
    Invites,
    KnownUsers,
    LoginCodes,
    MachineRequests,
    Machines,
    PrivateDirectory,
    Revocations,
    Sessions,
    TokenVerifier,
    UnconfirmedRevocations,
    load_signing_keys,
    proxy_id,
    user_hash,
)
from ctllm.cloud.identity.sealed_tokens import TokenSealer
from ctllm.cloud.key_api import KeyApi
from ctllm.cloud.limits.attempts import AttemptLimiter
from ctllm.cloud.limits.concurrency import UserLimiter
from ctllm.cloud.limits.guard import CredentialGuard
from ctllm.cloud.limits.sessions import SessionLimits
from ctllm.cloud.limits.users import Tiers, UserLimits
from ctllm.cloud.machines import MachineApi, MachineVerifier
from ctllm.cloud.metrics import Metrics
from ctllm.cloud.origin_policy import OriginPolicy
from ctllm.cloud.proxies.manager import ProxyManager
from ctllm.cloud.proxy_access import ProxyAccess
from ctllm.cloud.refusals import Refusals
from ctllm.cloud.request_authenticator import RequestAuthenticator
from ctllm.cloud.session_api import SessionApi
from ctllm.cloud.session_renewer import SessionRenewer
from ctllm.cloud.spawners.factory import create_spawner
from ctllm.config import Cloud, Proxy
from ctllm.http.request_log import RequestLog
from ctllm.reactor.periodic import PeriodicService
from ctllm.reactor.services import MultiService
from ctllm.web_ui.page_files import PageFiles

if TYPE_CHECKING:
    from ctllm.cloud.identity.oidc.verifier import OidcVerifier

#: Seconds between removals of expired invites and sessions. Each reads every file.
CLEANUP_INTERVAL = 3600.0
#: Seconds between removals of the API keys of desktops that do not run any more.
LEASE_CLEANUP_INTERVAL = 5.0
#: Seconds after the start in which desktops that are still connected lease their API keys again.
RECOVERY_SECONDS = 8.0
#: Ids of proxies that are remembered. Each request needs its user's several times.
MAX_PROXY_IDS = 4096
#: Seconds between two looks at the requests that a reverse proxy has sent to streaming proxies.
DIRECT_POLL_INTERVAL = 1.0


class CloudApplication(MultiService):
    """A gateway and the services that it needs.

    Creates missing keys and directories in `state_dir`, so privileges must be dropped before.
    `url` is the public URL of the cloud. Raises BadConfiguration.
    """

    def __init__(
        self,
        reactor: Any,
        settings: Cloud,
        proxy_settings: Proxy,
        state_dir: Path,
        url: str,
        metrics: Metrics,
        request_limiter: UserLimiter,
    ) -> None:
        super().__init__()
        directory = PrivateDirectory(state_dir / "cloud")
        keys = load_signing_keys(directory)
        directory.replace("url", url.encode())

        now = time.time
        audit = self.audit = AuditLog(
            state_dir,
            now,
            lambda user_id: user_hash(keys.instance_secret, user_id),
            settings.audit_max_bytes,
            settings.audit_retention_days,
        )

        # What authenticates users.
        self.invites = Invites(directory.subdirectory("invites"), now, settings.invite_ttl_minutes)
        sessions = Sessions(directory.subdirectory("sessions"), now, settings.session_ttl_days)
        login_codes = LoginCodes(now)
        key_revocations = UnconfirmedRevocations(
            directory.subdirectory("key-revocations"), keys.instance_secret, now
        )
        api_key_leases = ApiKeyLeases(key_revocations, now)
        machines = Machines(directory.subdirectory("machines"), now)
        machine_requests = MachineRequests(now)
        attempts = AttemptLimiter(
            settings.failed_logins_per_minute,
            settings.failed_requests_per_minute,
            reactor.seconds,
        )
        token_seconds = settings.access_token_ttl_seconds
        issuer = AccessTokenIssuer(
            keys.signing_key,
            now,
            token_seconds,
            partial(attempts.succeeded, lifetime=token_seconds),
        )
        revocations = Revocations(directory.subdirectory("revocations"), keys.instance_secret)
        known_users = KnownUsers(directory.subdirectory("users"), keys.instance_secret)
        disabled_users = DisabledUsers(
            directory.subdirectory("disabled-users"), keys.instance_secret
        )
        revocations.read_changes()  # before the first request
        disabled_users.read_changes()
        confirmation = MachineConfirmation(known_users, now, settings.session_ttl_days * 86400)
        rules = AccessRules(
            revocations,
            disabled_users,
            sessions,
            (machines.check_active, api_key_leases.check_active, confirmation.check),
        )

        provider_verifier = _create_provider_verifier(settings, reactor, metrics)
        verifiers: list[TokenVerifier] = [api_key_leases, CachingTokenVerifier(issuer, now)]
        if provider_verifier is not None:
            provider_verifier.setServiceParent(self)
            verifiers.append(provider_verifier)  # the last one: it matches every JWT
        token_verifier = CompositeTokenVerifier(verifiers, rules.check_active, known_users.record)

        # The streaming proxies.
        hashed_proxy_id = lru_cache(MAX_PROXY_IDS)(partial(proxy_id, keys.instance_secret))

        def proxy_id_of(grant: AccessGrant) -> str:
            return hashed_proxy_id(grant.user.id)

        def revocation_time(proxy_id: str) -> float:
            hash_of_user = proxy_id.removeprefix(PROXY_PREFIX)
            if disabled_users.is_disabled(hash_of_user):
                return math.inf
            return revocations.not_before(hash_of_user)

        assertion_signer = AssertionSigner(keys.signing_key, now)
        self.proxies = ProxyManager(
            create_spawner(reactor, settings, proxy_settings, state_dir, keys),
            reactor,
            settings,
            audit,
            metrics,
            assertion_signer.sign_assignment,
            revocation_time=revocation_time,
        )

        guard = CredentialGuard(attempts, audit, metrics, now)

        # What ends access before it expires.
        active_requests = ActiveRequests()
        api_key_leases.add_observer(
            lambda grant: active_requests.abort_of_proxy(proxy_id_of(grant), rules.check_active)
        )
        connected_desktops = ConnectedDesktops(self.proxies, assertion_signer, proxy_id_of, reactor)
        sealer = TokenSealer(keys.instance_secret)
        direct_requests = DirectRequests(
            active_requests,
            self.proxies,
            assertion_signer,
            GrantSealer(sealer, now),
            rules.check_active,
            connected_desktops.hasten_leases,
            guard.record_refused_by_proxy,
            reactor,
        )
        enforcer = AccessEnforcer(
            rules,
            active_requests,
            login_codes,
            api_key_leases,
            direct_requests.revoke,
            keys.instance_secret,
            now,
            token_seconds,
        )

        # Signing in browsers with a provider.
        login_providers = _create_login_providers(provider_verifier, url, now)
        renewals = ProviderRenewals(login_providers, sealer, now)

        # The HTTP APIs.
        user_limits = UserLimits(Tiers.of_settings(settings), request_limiter, reactor.seconds)
        session_limits = SessionLimits(guard, user_limits, partial(proxy_id, keys.instance_secret))
        session_api = SessionApi(
            issuer,
            self.invites,
            login_codes,
            sessions,
            SessionRenewer(
                sessions, enforcer, provider_verifier, renewals, now, known_users.confirm
            ),
            enforcer,
            known_users,
            audit,
            session_limits,
            now,
            settings.session_ttl_days,
            url,
            provider_names={each.user_issuer: name for name, each in settings.providers.items()},
        )
        machine_api = MachineApi(
            machines,
            machine_requests,
            audit,
            rules.check_active,
            lambda grant: active_requests.abort_of_proxy(proxy_id_of(grant), rules.check_active),
            now,
            reactor,
        )
        key_api = KeyApi(
            api_key_leases,
            connected_desktops,
            audit,
            rules.check_active,
            session_limits.admit_credential,
            now,
            reactor,
        )
        browser_login = BrowserLogin(
            login_providers,
            LoginTransactions(keys.instance_secret, now),
            renewals,
            session_api,
            enforcer,
            self.audit,
            attempts,
            url,
        )
        management_api = ManagementApi(
            session_api,
            browser_login,
            api_key_leases,
            assertion_signer,
            proxy_id_of,
            self.proxies,
            machine_api,
            key_api,
            connected_desktops,
            user_limits.tiers,
            reactor,
            settings.providers,
        )
        machine_verifier = MachineVerifier(
            machines, machine_requests, rules.check_active, audit, url, now
        )
        recovers_until = reactor.seconds() + RECOVERY_SECONDS
        authenticator = RequestAuthenticator(
            token_verifier,
            machine_verifier,
            api_key_leases,
            guard,
            reactor,
            lambda: reactor.seconds() < recovers_until and self.proxies.may_have_adopted,
        )
        proxy_access = ProxyAccess(
            self.proxies, assertion_signer, proxy_id_of, user_limits, rules.check_active
        )
        origin_policy = OriginPolicy(settings.cors_origins)
        refusals, page_files = Refusals(reactor.seconds), PageFiles()
        request_log = RequestLog(reactor, proxy_settings.log_requests == "on")
        self.gateway = Gateway(
            authenticator,
            proxy_access,
            management_api,
            metrics,
            origin_policy,
            reactor,
            user_limits,
            guard,
            active_requests,
            direct_requests,
            page_files,
            refusals,
            request_log,
        )
        self.auth_request = AuthRequestHandler(
            authenticator,
            proxy_access,
            origin_policy,
            user_limits,
            direct_requests,
            refusals,
            page_files,
            request_log,
            reactor,
        )

        # The services.
        self.proxies.setServiceParent(self)
        admin = admin_service(reactor, state_dir, self.proxies, metrics)
        if admin is not None:
            admin.setServiceParent(self)
        for seconds, work, description in (
            (POLL_INTERVAL, enforcer.poll, "Ending access"),
            (DIRECT_POLL_INTERVAL, direct_requests.poll, "Ending direct requests"),
            (TUNNEL_POLL_INTERVAL, enforcer.end_unrenewed_tunnels, "Ending unrenewed tunnels"),
            (LEASE_CLEANUP_INTERVAL, api_key_leases.remove_expired, "Removing expired leases"),
            (CLEANUP_INTERVAL, self.invites.remove_expired, "Removing expired invites"),
            (CLEANUP_INTERVAL, key_revocations.remove_expired, "Removing expired revocations"),
            (
                CLEANUP_INTERVAL,
                partial(sessions.remove_expired, rules.is_void),
                "Removing expired sessions",
            ),
            (COUNT_INTERVAL, audit.write_counts, "Counting audit events"),
            (CLEANUP_INTERVAL, audit.remove_expired, "Removing old audit logs"),
        ):
            PeriodicService(seconds, work, reactor, description).setServiceParent(self)

    def stopService(self) -> Deferred[Any] | None:
        """Stop everything, and write what the audit log has only counted so far."""
        stopping = super().stopService()
        self.audit.close()
        return stopping


def _create_provider_verifier(
    settings: Cloud, reactor: Any, metrics: Metrics
) -> OidcVerifier | None:
    """Return the verifier of provider tokens, unless there are no providers.

    It is imported here: a cloud without providers does not pay for it.
    """
    if not settings.providers:
        return None
    from ctllm.cloud.identity.oidc.verifier import OidcVerifier

    return OidcVerifier(settings.providers, settings.tiers, reactor, metrics.provider_fetch_failed)


def _create_login_providers(
    verifier: OidcVerifier | None, url: str, now: Callable[[], float]
) -> Mapping[str, LoginProvider]:
    """Return the providers of `verifier`, if any, for browsers; raises BadConfiguration."""
    if verifier is None:
        return {}
    from ctllm.cloud.browser_login.oidc_login import create_login_providers

    return create_login_providers(verifier, f"{url}{CALLBACK_PATH}", now)
