"""Verifies requests that a machine has signed, and directs unknown machines to their approval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ctllm.auth.request_signatures import PublicKey, parse_request_signature
from ctllm.cloud.audit import AuditLog
from ctllm.cloud.identity import AccessGrant, MachineRequests, Machines, machine_credential
from ctllm.common.ttl_cache import TtlCache
from ctllm.errors import SignInRequired, Unauthorized
from ctllm.http.client_address import truncate_address
from ctllm.http.message.head import RequestHead, get_header

#: Users whose tier is known from their sessions, and for how many seconds. Who has a desktop that
#: is connected presents a token of its session every minute.
MAX_USERS = 4096
TIER_LIFETIME = 86400.0


class MachineVerifier:
    """Verifies signed requests of `machines`; those of unknown keys become `requests`.

    `check_active` raises Unauthorized for a grant that is no longer active. `url` is the public URL
    of the cloud, and `now` returns epoch seconds.
    """

    def __init__(
        self,
        machines: Machines,
        requests: MachineRequests,
        check_active: Callable[[AccessGrant], None],
        audit: AuditLog,
        url: str,
        now: Callable[[], float],
    ) -> None:
        self._machines = machines
        self._requests = requests
        self._check_active = check_active
        self._audit = audit
        self._url = url.rstrip("/")
        self._now = now
        self._tiers: TtlCache[str, str] = TtlCache(MAX_USERS, now)  # by the id of the user

    def observe(self, grant: AccessGrant) -> None:
        """Note the tier of a person's own grant, which their provider may have changed.

        The machines of the user follow it.
        """
        if not grant.credential_id:
            self._tiers.put(grant.user.id, grant.tier, self._now() + TIER_LIFETIME)

    def verify(self, head: RequestHead, credentials: str, address: str) -> AccessGrant:
        """Return the grant of the machine that signed `head`, with `credentials` in a header.

        `address` is the client's. Raises Unauthorized for an invalid signature,
        Forbidden for one of another time, and SignInRequired for a machine that is not registered
        or whose user has to sign in again.
        """
        signature = parse_request_signature(credentials, head.target.partition(b"?")[2])
        signature.verify(head.method, head.path, self._now())
        machine_id = signature.key.id
        machine = self._machines.find(machine_id)
        if machine is None:
            raise self._sign_in_error(signature.key, head, address)
        grant = machine.grant(machine_id, self._now())
        try:
            self._check_active(grant)
        except Unauthorized:
            raise self._sign_in_error(signature.key, head, address) from None
        known_tier = self._tiers.get(grant.user.id)
        self._machines.record_use(machine_id, machine, truncate_address(address))
        return grant if known_tier is None else replace(grant, tier=known_tier)

    def _sign_in_error(self, key: PublicKey, head: RequestHead, address: str) -> SignInRequired:
        """Return the error with the address at which a person approves the machine."""
        user_agent = get_header(head.headers, b"user-agent") or b""
        request = self._requests.create(
            key, truncate_address(address), user_agent.decode("latin-1")
        )
        self._audit.record_identity(
            "machine.requested", address=address, credential=machine_credential(key.id)
        )
        link = f"{self._url}/#machine={request.code}"
        return SignInRequired(
            f"This machine is not registered. To let it use your models, open {link}",
            signin_url=link,
        )
