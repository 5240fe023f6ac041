"""The desktop's own API on the loopback endpoint: that of the cloud, as far as the page needs it.

Whoever has the loopback session may do everything with this desktop. `/ctllm/desktop/...` reaches
the same resources as the tunnel does, but `/ctllm/desktop/setup` is here alone.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ctllm import __version__
from ctllm.desktop.loopback.local_requests import require_own_page
from ctllm.desktop.loopback.sessions import SESSION_LIFETIME, LoopbackSessions
from ctllm.errors import MethodNotAllowed, NoCredentials, NotFound
from ctllm.http.credentials import presented_tokens
from ctllm.http.header_policy import ALLOWED_MODELS, ASSERTION, SCOPE
from ctllm.http.interfaces import Upstream
from ctllm.http.message.head import RequestHead, without_headers
from ctllm.http.server.json_body import decode_json_body, read_json_body
from ctllm.http.server.request import ServerRequest
from ctllm.reactor.interfaces import Clock

#: The largest body of a request that is answered here, in bytes.
MAX_BODY = 16 * 1024
#: What the loopback session allows, as a proxy says it (`Ctllm-Scope`).
SCOPES = ("conversations", "manage", "use")
_RESOURCES = b"/ctllm/desktop/"

Handler = Callable[[ServerRequest, tuple[str, ...]], Awaitable[None]]
"""Responds to a request of a session; the argument after it has the groups of the pattern."""
Route = tuple[re.Pattern[str], Mapping[str, Handler]]


class CreateSession(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request to redeem a one-time code."""

    client: Literal["browser"]
    invite: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43}\Z", max_length=43)]


class LoopbackApi:
    """Responds to `/health` and to the paths below `/ctllm/`.

    `describe_desktop` returns this desktop's JSON in `/ctllm/desktops`. `get_user_id` returns the
    id of the user, by which the page keeps apart what it stores in the browser. It is called before
    a session is looked up, and may end sessions. `resources` answers
    `/ctllm/desktop/...`, but for the paths of `local_resources`. `routes` are those that other
    parts of the desktop add.
    """

    def __init__(
        self,
        sessions: LoopbackSessions,
        describe_desktop: Callable[[], Mapping[str, object]],
        get_user_id: Callable[[], str],
        clock: Clock,
        resources: Upstream | None = None,
        routes: Sequence[Route] = (),
        local_resources: Mapping[bytes, Upstream] = MappingProxyType({}),
    ) -> None:
        self._sessions = sessions
        self._describe_desktop = describe_desktop
        self._clock = clock
        self._resources = resources
        self._local_resources = local_resources
        self._get_user_id = get_user_id
        self._user_name = local_user_name()
        self._public: Mapping[str, Mapping[str, Handler]] = {
            "/health": {"GET": self._get_health},
            "/ctllm/page": {"GET": self._get_page},
            "/ctllm/session": {"POST": self._create_session, "DELETE": self._delete_session},
        }
        self._routes: tuple[Route, ...] = (
            (re.compile("/ctllm/session"), {"GET": self._get_session}),
            (re.compile("/ctllm/desktops"), {"GET": self._list_desktops}),
            *routes,
        )

    async def handle(self, request: ServerRequest) -> None:
        """Respond to `request`, whose path is one of `is_own_path`; raises CtllmError."""
        head = request.head
        require_own_page(head, request.client_address)
        path, method = head.path.decode("latin-1"), head.method.decode("latin-1")
        handler = self._public.get(path, {}).get(method)
        if handler is not None:
            await handler(request, ())
            return
        self._authenticate(head)
        await self._handle_in_session(request, path, method)

    def _authenticate(self, head: RequestHead) -> None:
        """Raise Unauthorized without the token of a session."""
        tokens = presented_tokens(head)
        if not tokens:
            raise NoCredentials(
                "This page is not logged in. Open it with the tray icon, or with `ctllm show` on "
                "this machine."
            )
        self._get_user_id()
        self._sessions.verify(tokens[0])

    async def _handle_in_session(self, request: ServerRequest, path: str, method: str) -> None:
        for pattern, handlers in self._routes:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            if method not in handlers:
                supported = [*handlers, *self._public.get(path, {})]
                raise MethodNotAllowed(
                    f"{path} does not support {method}.", allow=", ".join(supported)
                )
            await handlers[method](request, match.groups())
            return
        resource = self._local_resources.get(request.head.path, self._resources)
        if resource is None or not request.head.path.startswith(_RESOURCES):
            raise NotFound(f"This desktop has nothing at {path}.")
        request.relay_to(resource.start_request(_as_from_proxy(request.head), request))

    # -- without a session

    async def _get_health(self, request: ServerRequest, _: tuple[str, ...]) -> None:
        request.respond(200, {"status": "ok", "version": __version__})

    async def _get_page(self, request: ServerRequest, _: tuple[str, ...]) -> None:
        request.respond(200, {"role": "desktop", "version": __version__})

    async def _create_session(self, request: ServerRequest, _: tuple[str, ...]) -> None:
        body = await read_json_body(request, MAX_BODY, self._clock)
        user = self._describe_user()
        token = self._sessions.redeem(decode_json_body(body, CreateSession).invite)
        request.respond(201, {"user": user, "token": token, "expires_in": int(SESSION_LIFETIME)})

    async def _delete_session(self, request: ServerRequest, _: tuple[str, ...]) -> None:
        for token in presented_tokens(request.head):
            self._sessions.close(token)
        request.respond(204)

    # -- with a session

    async def _get_session(self, request: ServerRequest, _: tuple[str, ...]) -> None:
        request.respond(
            200,
            {
                "user": self._describe_user(),
                "scopes": SCOPES,
                "expires_in": int(SESSION_LIFETIME),
            },
        )

    def _describe_user(self) -> dict[str, str]:
        return {"id": self._get_user_id(), "name": self._user_name}

    async def _list_desktops(self, request: ServerRequest, _: tuple[str, ...]) -> None:
        request.respond(200, {"desktops": [self._describe_desktop()]})


def is_own_path(path: bytes) -> bool:
    """Return whether the desktop itself answers a path, and not Ollama. It must be canonical."""
    return path == b"/health" or path.startswith(b"/ctllm/")


def local_user_name() -> str:
    """Return the name of the user of this process, for people."""
    with suppress(OSError, KeyError, ImportError):
        return getpass.getuser()[:64] or "you"
    return "you"


def _as_from_proxy(head: RequestHead) -> RequestHead:
    """Return `head` with the headers that a proxy sets; those that the client sent are dropped."""
    internal = (ASSERTION.lower(), SCOPE.lower(), ALLOWED_MODELS.lower(), b"authorization")
    headers = (*without_headers(head.headers, internal), (SCOPE, " ".join(SCOPES).encode()))
    return RequestHead(head.method, head.target, headers)
