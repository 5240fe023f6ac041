"""Log this desktop in at a cloud with an OpenID provider, and log it out again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from secrets import token_hex

from ctllm.desktop.cloud_client import CloudClient
from ctllm.desktop.cloud_session import keep_keys_of_same_user, log_in
from ctllm.desktop.credential_file import Login, LoginProvider
from ctllm.desktop.login_secrets import LoginSecrets
from ctllm.desktop.login_store import LoginStore
from ctllm.desktop.oauth.provider import Provider
from ctllm.desktop.oauth.tokens import error_of, revocation_request
from ctllm.desktop.oauth_client import OAuthClient
from ctllm.desktop.provider_login import ProviderGrant, client_id_of
from ctllm.desktop.provider_renewal import oauth_client_id
from ctllm.errors import BadGateway, BadRequest, CtllmError

#: Returns a client of a cloud's URL.
ClientFactory = Callable[[str], CloudClient]


async def find_providers(client: CloudClient) -> tuple[Provider, ...]:
    """Return the providers of the cloud; raises BadRequest if it has invite links only."""
    providers = await client.list_providers()
    if not providers:
        raise BadRequest(
            f"The cloud at {client.url} has no provider to log in with: it has invite links. Ask "
            "your sysadmin for one (`ctllm invite NAME` on the server), then run `ctllm login`."
        )
    return providers


async def log_in_with_provider(
    logins: LoginStore,
    client_factory: ClientFactory,
    oauth: OAuthClient,
    cloud_url: str,
    grant: ProviderGrant,
    warn: Callable[[str], None],
) -> Login:
    """Begin a session with the provider's token, and store the login in place of the present one.

    API keys are kept if it is the same user. The session that is replaced ends; `warn` gets
    messages about what the user may not expect. Raises CtllmError; then the present login is
    unchanged.
    """
    async with logins.exclusive() as change:
        replaced = await _load_if_readable(logins)
        await change.prepare(is_attended=True)
        token = await client_factory(cloud_url).redeem_provider_token(grant.tokens.token)
        login = Login(
            cloud_url, token.user.id, token.user.name, token_hex(8), _login_provider(grant)
        )
        tokens = LoginSecrets(
            token.refresh_token, grant.tokens.refresh_token, grant.tokens.expires_at
        )
        try:
            await change.save(login, tokens, keep_keys_of_same_user(login))
        except CtllmError as error:
            # Nobody has these tokens. If they cannot be revoked either, they expire unused.
            with suppress(CtllmError):
                await end_session(login, tokens, client_factory, oauth)
            raise error
    await _end_replaced(replaced, login, client_factory, oauth, warn)
    return login


async def log_in_with_invite(
    logins: LoginStore,
    client_factory: ClientFactory,
    oauth: OAuthClient,
    cloud_url: str,
    invite: str,
    warn: Callable[[str], None],
) -> Login:
    """Redeem an invite and store the login; otherwise as `log_in_with_provider`."""
    replaced = await _load_if_readable(logins)
    login = await log_in(logins, client_factory(cloud_url), invite)
    await _end_replaced(replaced, login, client_factory, oauth, warn)
    return login


async def _end_replaced(
    replaced: tuple[Login, LoginSecrets] | None,
    login: Login,
    client_factory: ClientFactory,
    oauth: OAuthClient,
    warn: Callable[[str], None],
) -> None:
    """End the session that `login` has replaced, if there was one."""
    if replaced is None:
        return
    if replaced[0].user_id != login.user_id:
        warn(f"The API keys of {replaced[0].user_name} are deleted, if there were any.")
    try:
        await end_session(*replaced, client_factory, oauth)
    except CtllmError as error:
        warn(f"The login that this one replaces could not be ended: {error.message}")


async def log_out(logins: LoginStore, client_factory: ClientFactory, oauth: OAuthClient) -> Login:
    """End the session and forget the login, which is returned; raises BadRequest without one.

    A provider's refresh token is revoked. The login is forgotten even if the cloud or the provider
    cannot be reached, or its tokens cannot be read; then that is raised.
    """
    login = logins.file.load().login
    if login is None:
        raise BadRequest("This desktop is not logged in.")
    async with logins.exclusive() as change:
        try:
            stored, secrets = await logins.load(may_prompt=True)
            if stored.id == login.id:
                await end_session(stored, secrets, client_factory, oauth)
        finally:
            await change.forget(_current(logins, login))
    return login


async def end_session(
    login: Login, secrets: LoginSecrets, client_factory: ClientFactory, oauth: OAuthClient
) -> None:
    """End a session at the cloud and at its provider; raises the first error, after both."""
    try:
        await client_factory(login.cloud_url).log_out(secrets.refresh_token)
    finally:
        if login.provider is not None and secrets.provider_refresh_token:
            await _revoke(login.provider, secrets.provider_refresh_token, oauth)


async def _revoke(provider: LoginProvider, refresh_token: str, oauth: OAuthClient) -> None:
    """Revoke a refresh token (RFC 7009), if the provider can; raises BadGateway if it did not."""
    if not provider.revocation_endpoint:
        return
    request = revocation_request(
        oauth_client_id(provider), provider.revocation_endpoint, refresh_token
    )
    try:
        status, body = await oauth.post(request)
        if status != 200:
            raise error_of(status, body)
    except CtllmError as error:
        raise BadGateway(
            f"The provider {provider.issuer} did not revoke this desktop's token, which expires "
            f"by itself. To revoke it now, sign out there. ({error.message})"
        ) from error


def _login_provider(grant: ProviderGrant) -> LoginProvider:
    client = client_id_of(grant.provider, grant.metadata)
    return LoginProvider(
        issuer=grant.metadata.issuer,
        client_id=client.client_id,
        token_endpoint=grant.metadata.token_endpoint,
        revocation_endpoint=grant.metadata.revocation_endpoint,
        client_secret=client.secret,
        uses_post=client.uses_post,
        scope=grant.provider.scope,
        audience=grant.provider.audience,
        token=grant.provider.token,
    )


async def _load_if_readable(logins: LoginStore) -> tuple[Login, LoginSecrets] | None:
    try:
        return await logins.load()
    except CtllmError:
        return None  # there is none, or its tokens are lost


def _current(logins: LoginStore, login: Login) -> Login:
    """Return `login` as it is stored now: its end may have been noted meanwhile."""
    stored = logins.file.load().login
    return stored if stored is not None and stored.id == login.id else login
