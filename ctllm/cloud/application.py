"""Composes the parts of a running cloud: stores, authentication, proxies, API and gateway."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
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
from ctllm.cloud.browser_login.api import CALLBACK_PATH, BrowserLogin
from ctllm.cloud.browser_login.interfaces import LoginProvider
from ctllm.cloud.browser_login.renewals import ProviderRenewals
from ctllm.cloud.browser_login.sealed_tokens import TokenSealer
from ctllm.cloud.browser_login.transactions import LoginTransactions
from ctllm.cloud.connected_desktops import ConnectedDesktops
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
    load_signing_keys,
    proxy_id,
    user_hash,
)
from ctllm.cloud.key_api import KeyApi
from ctllm.cloud.limits.attempts import AttemptLimiter
from ctllm.cloud.limits.concurrency import UserLimiter
from ctllm.cloud.limits.guard import CredentialGuard
from ctllm.cloud.limits.sessions import SessionLimits
from ctllm.cloud.limits.users import Tiers, UserLimits
from ctllm.cloud.machines import MachineApi, MachineVerifier
from ctllm.cloud.metrics import Metrics
from ctllm.cloud.proxies.manager import ProxyManager
from ctllm.cloud.session_api import SessionApi
from ctllm.cloud.session_renewer import SessionRenewer
from ctllm.cloud.spawners.factory import create_spawner
from ctllm.config import Cloud, Proxy
from ctllm.reactor.periodic import PeriodicService
from ctllm.reactor.services import MultiService
from ctllm.web_ui.page_files import PageFiles

if TYPE_CHECKING:
    from ctllm.cloud.identity.oidc.verifier import OidcVerifier

#: Seconds between removals of expired invites and sessions. Each reads every file.
CLEANUP_INTERVAL = 3600.0
#: Seconds between removals of the API keys of desktops that do not run any more.
LEASE_CLEANUP_INTERVAL = 5.0


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
        api_key_leases = ApiKeyLeases(now)
        machines = Machines(directory.subdirectory("machines"), now)
        machine_requests = MachineRequests(now)
        attempts = AttemptLimiter(
            settings.failed_logins_per_minute,
            settings.failed_requests_per_minute,
            reactor.seconds,
        )
        issuer = AccessTokenIssuer(
            keys.signing_key, now, settings.access_token_ttl_seconds, attempts.succeeded
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
        def proxy_id_of(grant: AccessGrant) -> str:
            return proxy_id(keys.instance_secret, grant.user.id)

        def revocation_time(proxy_id: str) -> float:
            hash_of_user = proxy_id.removeprefix(PROXY_PREFIX)
            if disabled_users.is_disabled(hash_of_user):
                return math.inf
            return revocations.not_before(hash_of_user)

        self.proxies = ProxyManager(
            create_spawner(reactor, settings, proxy_settings, state_dir, keys),
            reactor,
            settings,
            audit,
            metrics,
            revocation_time=revocation_time,
        )
        assertion_signer = AssertionSigner(keys.signing_key, now)

        # What ends access before it expires.
        active_requests = ActiveRequests()
        api_key_leases.add_observer(
            lambda grant: active_requests.abort_of_proxy(proxy_id_of(grant), rules.check_active)
        )
        enforcer = AccessEnforcer(
            rules,
            active_requests,
            login_codes,
            api_key_leases,
            self.proxies,
            keys.instance_secret,
            now,
            settings.access_token_ttl_seconds,
        )

        # Signing in browsers with a provider.
        login_providers = _create_login_providers(provider_verifier, url, now)
        renewals = ProviderRenewals(login_providers, TokenSealer(keys.instance_secret), now)

        # The HTTP APIs.
        user_limits = UserLimits(Tiers.of_settings(settings), request_limiter, reactor.seconds)
        guard = CredentialGuard(attempts, audit, metrics)
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
            SessionLimits(guard, user_limits, partial(proxy_id, keys.instance_secret)),
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
        connected_desktops = ConnectedDesktops(self.proxies, assertion_signer, proxy_id_of, reactor)
        key_api = KeyApi(
            api_key_leases,
            connected_desktops,
            audit,
            rules.check_active,
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
        self.gateway = Gateway(
            token_verifier,
            assertion_signer,
            proxy_id_of,
            self.proxies,
            management_api,
            metrics,
            settings.cors_origins,
            reactor,
            user_limits,
            guard,
            active_requests,
            MachineVerifier(machines, machine_requests, rules.check_active, audit, url, now),
            api_key_leases,
            PageFiles(),
        )

        # The services.
        self.proxies.setServiceParent(self)
        admin = admin_service(reactor, state_dir, self.proxies)
        if admin is not None:
            admin.setServiceParent(self)
        for seconds, work, description in (
            (POLL_INTERVAL, enforcer.poll, "Ending access"),
            (TUNNEL_POLL_INTERVAL, enforcer.end_unrenewed_tunnels, "Ending unrenewed tunnels"),
            (LEASE_CLEANUP_INTERVAL, api_key_leases.remove_expired, "Removing expired leases"),
            (CLEANUP_INTERVAL, self.invites.remove_expired, "Removing expired invites"),
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
