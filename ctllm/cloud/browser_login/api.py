"""The two URLs that a browser visits to sign in with a provider: /ctllm/login, /ctllm/callback.

A browser navigates to them, so each responds with a redirect: to the provider, or back to the page,
with the word for an error in the fragment. No response depends on a URL in the request.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ctllm.cloud.audit import AuditLog, IdentityEvent
from ctllm.cloud.browser_login.interfaces import BrowserSessions, LoginProvider, ProviderLogin
from ctllm.cloud.browser_login.messages import Callback, parse_callback, parse_login
from ctllm.cloud.browser_login.outcomes import LoginError, LoginFailed, outcome_of
from ctllm.cloud.browser_login.renewals import ProviderRenewals
from ctllm.cloud.browser_login.transactions import (
    LIFETIME,
    LoginTransaction,
    LoginTransactions,
    is_browser_secret,
    new_browser_secret,
)
from ctllm.cloud.identity import User
from ctllm.cloud.limits.attempts import AttemptLimiter
from ctllm.cloud.session_renewer import UserAccess
from ctllm.errors import CtllmError, GroupNotAllowed, RateLimited, Unauthorized
from ctllm.http.cookies import CookieKind
from ctllm.http.message.head import Headers, RequestHead, get_header
from ctllm.http.same_site import is_from_other_site
from ctllm.http.server.request import ServerRequest

T = TypeVar("T")

LOGIN_PATH = "/ctllm/login"
CALLBACK_PATH = "/ctllm/callback"
#: Logins that may ask a provider at once: whoever sends them need not have an account.
MAX_ASKING = 64

#: No cache keeps the response, and no other server learns its URL.
_HEADERS: Headers = ((b"Cache-Control", b"no-store"), (b"Referrer-Policy", b"no-referrer"))


class BrowserLogin:
    """Signs in browsers with `providers`, by name. `url` is the public URL of the cloud."""

    def __init__(
        self,
        providers: Mapping[str, LoginProvider],
        transactions: LoginTransactions,
        renewals: ProviderRenewals,
        sessions: BrowserSessions,
        access: UserAccess,
        audit: AuditLog,
        attempts: AttemptLimiter,
        url: str,
        max_asking: int = MAX_ASKING,
    ) -> None:
        self._providers = providers
        self._transactions = transactions
        self._renewals = renewals
        self._sessions = sessions
        self._access = access
        self._audit = audit
        self._attempts = attempts
        self._authority = urlsplit(url).netloc.lower().encode()
        self._url = url.encode()
        self._cookie = CookieKind(b"ctllm-login", b"/ctllm/", url.startswith("https:"), b"Lax")
        self._max_asking = max_asking
        self._asking = 0

    async def begin(self, request: ServerRequest) -> None:
        """Redirect to the provider that the request names.

        Only the page leads here: a link of another site leads to the page.
        """
        head = request.head
        if is_from_other_site(head) or not _is_navigation(head):
            return request.respond(303, None, ((b"Location", b"/"), *_HEADERS))
        if head.authority.lower() != self._authority:
            # The provider will send the browser to the public URL, where its cookie must be.
            return request.respond(303, None, ((b"Location", self._url + b"/"), *_HEADERS))
        try:
            location, cookie = await self._begin(head)
        except CtllmError as error:
            return self._respond_to_page(request, outcome_of(error))
        request.respond(302, None, ((b"Location", location), *cookie, *_HEADERS))

    async def _begin(self, head: RequestHead) -> tuple[bytes, Headers]:
        """Return the URL of the provider, and the header with the browser's secret."""
        name, is_fresh = parse_login(head.target)
        provider = self._providers.get(name)
        if provider is None:
            raise LoginFailed(LoginError.UNKNOWN, "This cloud has no provider of that name.")
        # Another tab of this browser may be signing in, so its secret stays.
        secret = self._browser_secret(head) or new_browser_secret()
        transaction = self._transactions.begin(name, secret)
        location = await self._ask(provider.authorization_url(transaction, is_fresh))
        return location.encode("ascii"), self._cookie.set(secret.encode(), int(LIFETIME))

    async def finish(self, request: ServerRequest) -> None:
        """Redeem what the provider sent with the browser, and redirect to the page."""
        provider = ""
        try:
            callback = parse_callback(request.head.target)
            transaction = self._find_transaction(request.head, callback)
            provider = transaction.provider
            self._attempts.admit(request.client_address, callback.state, is_login=True)
            user, cookie = await self._sign_in(request.head, transaction, callback)
        except CtllmError as error:
            self._count_failure(request, error)
            user_id = _user_id_of(error)
            self._record("login.refused", request, user_id, provider, outcome_of(error))
            return self._respond_to_page(request, outcome_of(error))
        self._record("session.created", request, user.id, provider)
        request.respond(303, None, ((b"Location", b"/"), *cookie, *_HEADERS))

    async def _sign_in(
        self, head: RequestHead, transaction: LoginTransaction, callback: Callback
    ) -> tuple[User, Headers]:
        """Return the user and the header with the cookie of the new session."""
        login = await self._redeem(transaction, callback)
        consent = self._renewals.consent(transaction.provider, login)
        try:
            cookie = self._sessions.create_browser_session(
                head, consent.grant, consent.sealed_refresh, consent.ask_at
            )
        except Unauthorized as error:
            raise LoginFailed(LoginError.REVOKED, error.message) from error
        return consent.grant.user, cookie

    def _count_failure(self, request: ServerRequest, error: CtllmError) -> None:
        """Count a code that the provider refused: it costs a request there to find out."""
        if isinstance(error, Unauthorized):
            with suppress(RateLimited):  # the next callback is refused
                self._attempts.failed(request.client_address, is_login=True)

    def _record(
        self,
        event: IdentityEvent,
        request: ServerRequest,
        user_id: str,
        provider: str,
        reason: str = "",
    ) -> None:
        self._audit.record_identity(
            event, user_id, address=request.client_address, method=provider, reason=reason
        )

    def _find_transaction(self, head: RequestHead, callback: Callback) -> LoginTransaction:
        """Return the transaction of this browser; raises LoginFailed."""
        secret = self._browser_secret(head) if _is_navigation(head) else None
        transaction = self._transactions.finish(callback.state, secret) if secret else None
        if transaction is None or transaction.provider not in self._providers:
            raise LoginFailed(LoginError.EXPIRED, "This browser has not begun this sign-in.")
        return transaction

    async def _redeem(self, transaction: LoginTransaction, callback: Callback) -> ProviderLogin:
        provider = self._providers[transaction.provider]
        try:
            return await self._ask(provider.redeem(transaction, callback))
        except GroupNotAllowed as refused:
            if isinstance(refused.user, User):
                self._access.end_access(refused.user)
            raise

    async def _ask(self, question: Coroutine[Any, Any, T]) -> T:
        """Return the answer of a provider; raises LoginFailed if too many ask at once."""
        if self._asking >= self._max_asking:
            question.close()
            raise LoginFailed(LoginError.UNAVAILABLE, "Too many people sign in at once.")
        self._asking += 1
        try:
            return await question
        finally:
            self._asking -= 1

    def _browser_secret(self, head: RequestHead) -> str | None:
        secret = self._cookie.read(head)
        return secret if secret and is_browser_secret(secret) else None

    def _respond_to_page(self, request: ServerRequest, outcome: LoginError) -> None:
        location = f"/#login-error={outcome}".encode()
        request.respond(303, None, ((b"Location", location), *_HEADERS))


def _user_id_of(error: CtllmError) -> str:
    """Return the id of the user whom a provider has authenticated, and who was refused."""
    user = error.user if isinstance(error, GroupNotAllowed) else None
    return user.id if isinstance(user, User) else ""


def _is_navigation(head: RequestHead) -> bool:
    """Return whether a person navigates here: not an image, frame or script of a page.

    Fetch Metadata Request Headers, section 2.1. Browsers without them send no cookie with those.
    """
    return (get_header(head.headers, b"sec-fetch-dest") or b"document") == b"document"
