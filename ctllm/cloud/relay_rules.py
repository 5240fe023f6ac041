"""Which requests belong to the streaming proxies of users, and which scopes they need."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from ctllm.cloud.identity import CONVERSATIONS, MANAGE, SERVE, USE, AccessGrant, is_machine
from ctllm.errors import Forbidden
from ctllm.http.credentials import presented_signature, presented_tokens
from ctllm.http.message.head import RequestHead
from ctllm.http.request_timeout import get_timeout
from ctllm.http.timeouts import HANDSHAKE_TIMEOUT
from ctllm.ollama.endpoints import Scope, describe_request, find_endpoint, refusal_error

RequiredScopes = Callable[[AccessGrant, RequestHead], frozenset[str]]
"""Returns the scopes with which a request is relayed; raises CtllmError if it may not be."""

_USE = frozenset((USE,))
_RESUMED_PATH = re.compile(rb"/ctllm/exchanges/([0-9a-f]{32})")


@dataclass(frozen=True, slots=True)
class RelayRule:
    """What a kind of request needs.

    `scope` is what the client must have. `is_new_request` is False for what goes on while the cloud
    drains. `default_timeout` is for how many seconds the client waits for a response if it does not
    say so.
    """

    required_scopes: RequiredScopes
    scope: str = USE
    is_new_request: bool = True
    default_timeout: float = math.inf

    def timeout(self, head: RequestHead) -> float:
        """Return the seconds for which the client waits for the response to `head`."""
        stated = get_timeout(head, math.inf)
        return self.default_timeout if math.isinf(stated) else stated


def relay_rule(head: RequestHead) -> RelayRule | None:
    """Return the rule for `head`, or None for what the cloud itself responds to."""
    path = head.path
    if path == b"/ws/tunnel":
        return TUNNEL
    if path.startswith(b"/ctllm/exchanges/"):
        return RESUMPTION
    if path.startswith(b"/ctllm/desktop/"):
        return RESOURCE
    if path == b"/health" or path.startswith((b"/ctllm/", b"/ws/")):
        return None
    return OLLAMA


def resumed_id(head: RequestHead) -> bytes | None:
    """Return the id of the request whose response `head` resumes, or None if it resumes none."""
    found = _RESUMED_PATH.fullmatch(head.path)
    return bytes.fromhex(found[1].decode()) if found else None


def is_signed(head: RequestHead) -> bool:
    """Whether `ollama` signed `head`, and that shall authorize it.

    `HEAD /` detects a server. A refusal of it would have no body to explain it.
    """
    is_detection = (head.method, head.path) == (b"HEAD", b"/")
    return not is_detection and bool(presented_signature(head))


def is_for_cloud(head: RequestHead) -> bool:
    """Whether the cloud itself responds to a request for Ollama's API: it has no credentials.

    It also tells `ollama signin` who uses this machine.
    """
    if not presented_tokens(head) and not is_signed(head):
        return True
    return (head.method, head.path) == (b"POST", b"/api/me") and is_signed(head)


def _scopes_to_resume(grant: AccessGrant, head: RequestHead) -> frozenset[str]:
    return _USE


def _scopes_for_resources(grant: AccessGrant, head: RequestHead) -> frozenset[str]:
    """Return the scopes for a resource of a desktop; raises Forbidden."""
    if CONVERSATIONS not in grant.scopes:
        raise Forbidden(
            "Only the chat page may use the conversations of a desktop. API keys, machines and "
            "programs may not."
        )
    return frozenset((USE, MANAGE, CONVERSATIONS))


def _scopes_of_tunnel(grant: AccessGrant, head: RequestHead) -> frozenset[str]:
    return frozenset((USE, SERVE))


def _required_scopes(grant: AccessGrant, head: RequestHead) -> frozenset[str]:
    """Return the scopes that `head` needs and `grant` has; raises Forbidden or MethodNotAllowed.

    A path that is not in the table of Ollama's endpoints needs the scope `manage`. The desktop
    decides whether it relays it (`desktop.allowed_requests`).
    """
    endpoint = find_endpoint(head)
    if endpoint is not None and endpoint.scope is Scope.USE:
        return _USE
    if MANAGE in grant.scopes:
        return frozenset((USE, MANAGE))
    if endpoint is not None and endpoint.scope is Scope.MANAGE:
        if is_machine(grant):
            raise Forbidden(
                f"{describe_request(head)} changes models, which this machine may not do. To "
                "change that, remove it in the settings of the page, and run `ollama signin` again."
            )
        raise Forbidden(
            f"{describe_request(head)} changes models and needs the scope manage, which this key "
            "does not have. Create a key that has it with: ctllm keys add NAME --scope manage"
        )
    raise refusal_error(
        head,
        f"{describe_request(head)} is not relayed: it is not one of the endpoints that every key "
        "may use. It needs a key created with `ctllm keys add NAME --scope manage`, and an entry "
        "in desktop.allowed_requests on the machine with Ollama.",
    )


OLLAMA = RelayRule(_required_scopes)
RESUMPTION = RelayRule(_scopes_to_resume, is_new_request=False, default_timeout=HANDSHAKE_TIMEOUT)
RESOURCE = RelayRule(_scopes_for_resources)
#: A desktop of an earlier version does not say for how long it waits.
TUNNEL = RelayRule(
    _scopes_of_tunnel, scope=SERVE, is_new_request=False, default_timeout=HANDSHAKE_TIMEOUT
)
