"""An OpenID provider as a process: npm's certified oidc-provider, shaped like Auth0.

Start one beside a cluster, which also ends it, and configure the cloud with it:

    provider = await start_provider(cluster, users={"ada": ["staff"], "bob": []})
    configure(cluster, provider.table("acme", allowed_groups=["staff"]))
    await cluster.start_cloud()
    tokens = await provider.sign_in("ada")             # code + PKCE, without a browser
    await cluster.request("GET", "/api/tags", token=tokens["access_token"])

Its users sign in by name, with any password. Each has the claims name, email, email_verified, and
their groups in `groups`, `https://example.org/groups` and `realm_access.roles`; `set_user` changes
them. The clients, all with PKCE and rotated refresh tokens (one that is used twice ends its grant):

- `desktop` and `another`: public, on loopback redirects (`http://127.0.0.1:PORT/callback`) and with
  the device grant; `installed` is the same with the secret `not-confidential`.
- `page`, with the secret `page-secret`, and `public-page`, without: `ORIGIN/ctllm/callback` of each
  origin in `page_origins`.

As at Auth0, an access token is a JWT only if `audience=API` was requested, and its paths are
`/authorize`, `/oauth/token`, `/oauth/device/code`, `/activate` and `/.well-known/jwks.json`.
`path` is that of the issuer: `/` (Auth0's trailing slash), `""`, or `/realms/example` (Keycloak's).

To sign in without a browser:

- `sign_in(user, client)`: the whole code flow; the response of the token endpoint.
- `authorize(url, user)`: follows any authorization URL; returns the redirect to the client.
- `approve_device(verification_uri_complete, user)`, `deny_device(…)`.
- `refresh(token, client)`: the status and the response of the token endpoint.

To misbehave: `rotate_keys()`, `retire_keys()`, `set_token_seconds(n)`, `set_delay(ms)`, `stop()`,
`resume()`, `end_grants(user)` (refresh tokens fail with `invalid_grant`), `remove_user(user)`, and
`answer(path, …)`, which replaces the provider's response of a path. `requests(path)` lists what it
was asked. `mint(…)` makes any token with the provider's real private key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import re
import secrets
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import jwt
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import BIN, ChildProcess, Cluster, wait_until
from tests.ports import free_port

SCRIPT = Path(__file__).with_name("oidc_provider.mjs")
MODULES = BIN.parent / "npm" / "node_modules"
API = "https://ctllm.example.org/api"
SCOPE = "openid profile email offline_access"
JWKS = "/.well-known/jwks.json"
DISCOVERY = "/.well-known/openid-configuration"
TOKEN_ENDPOINT = "/oauth/token"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
#: Seconds for Node to start and to generate a key, on a busy machine.
START_TIMEOUT = 120.0
CLIENT_SECRETS = {"installed": "not-confidential", "page": "page-secret"}


def node() -> str:
    """Return the path of Node: that of the environment, else the system's."""
    own = BIN / "node"
    return str(own) if own.exists() else shutil.which("node") or "node"


def configure(cluster: Cluster, *tables: str) -> Path:
    """Write the configuration file of `cluster`'s processes from TOML texts; return its path."""
    path = cluster.directory / "ctllm.toml"
    path.write_text("\n".join(tables), "utf-8")
    cluster.extra_environment["CTLLM_CONFIG"] = str(path)
    return path


async def start_provider(
    cluster: Cluster,
    *,
    users: Mapping[str, Sequence[str]] | None = None,
    path: str = "/",
    audience: str = API,
    page_origins: Sequence[str] = (),
    device_grant: bool = True,
    host: str = "",
) -> OidcProvider:
    """Start a provider that ends with `cluster`. `users` are names with their groups.

    With `host`, its issuer is https://HOST:PORT. It listens without TLS on the same port of
    127.0.0.1, and the test has to lead one to the other.
    """
    port = free_port()
    options = {
        "modules": str(MODULES),
        "port": port,
        "host": host,
        "path": path,
        "audience": audience,
        "page_origins": list(page_origins),
        "device_grant": device_grant,
        "users": {name: {"groups": list(groups)} for name, groups in (users or {}).items()},
    }
    process, control = await _run_provider(cluster, json.dumps(options))
    return OidcProvider(process, port, control, path, audience, host)


async def _run_provider(cluster: Cluster, options: str) -> tuple[ChildProcess, int]:
    """Start the process; return it and the port of its controls.

    Node was seen to hang before its first line, once in a thousand tests. It is started again then.
    """
    process = cluster.start_process("provider", node(), str(SCRIPT), options)

    def ready() -> dict[str, int] | None:
        assert process.exit_code is None, process.output
        # A warning on standard error may precede it in the same line.
        found = re.search(r'\{"port":\d+,"control":\d+\}', process.output)
        return json.loads(found[0]) if found else None

    try:
        return process, (await wait_until(ready, "the provider"))["control"]
    except AssertionError:
        if process.exit_code is not None:
            raise
    await process.stop(signal.SIGKILL)
    process = cluster.start_process("provider", node(), str(SCRIPT), options)
    return process, (await wait_until(ready, "the provider", START_TIMEOUT))["control"]


class OidcProvider:
    """A running provider: its address, its users' browser, and its controls."""

    def __init__(
        self,
        process: ChildProcess,
        port: int,
        control: int,
        path: str,
        audience: str,
        host: str = "",
    ) -> None:
        self.process = process
        self.port = port
        self.audience = audience
        self.origin = f"https://{host}:{port}" if host else f"http://127.0.0.1:{port}"
        self.issuer = self.origin + path
        self.base = self.issuer.removesuffix("/")
        self._control_port = control

    def table(self, name: str, **keys: Any) -> str:
        """Return `[cloud.providers.NAME]` as TOML: issuer, client_id, audience, and `keys`."""
        defaults = {"issuer": self.issuer, "client_id": "desktop", "audience": self.audience}
        lines = [f"{key} = {json.dumps(value)}" for key, value in {**defaults, **keys}.items()]
        return "\n".join([f"[cloud.providers.{name}]", *lines, ""])

    # -- controls

    async def _control(self, action: str, **arguments: Any) -> dict[str, Any]:
        status, _, body = await deferToThread(
            _exchange, self._control_port, "POST", f"/{action}", json.dumps(arguments), {}
        )
        assert status == 200, body
        found: dict[str, Any] = json.loads(body)
        return found

    async def rotate_keys(self) -> None:
        """Sign with a new key from now on; the old ones are still published."""
        await self._control("rotate")

    async def retire_keys(self) -> None:
        """Publish only the key that signs now."""
        await self._control("retire")

    async def private_keys(self) -> list[dict[str, Any]]:
        """Return the private keys (JWK), that which signs now first."""
        keys: list[dict[str, Any]] = (await self._control("keys"))["keys"]
        return keys

    async def stop(self) -> None:
        """Refuse connections until `resume`."""
        await self._control("down")

    async def resume(self) -> None:
        """Listen again."""
        await self._control("up")

    async def set_delay(self, milliseconds: int) -> None:
        """Wait so long before each response."""
        await self._control("settings", delay=milliseconds)

    async def set_token_seconds(self, seconds: int) -> None:
        """Set the lifetime of the tokens that are issued from now on."""
        await self._control("settings", token_seconds=seconds)

    async def set_opaque(self, opaque: bool = True) -> None:
        """Issue access tokens that are no JWTs, as Google does."""
        await self._control("settings", opaque=opaque)

    async def answer(self, path: str, **answer: Any) -> None:
        """Replace the response of `path` (below the issuer); without more, no longer.

        `status`, `headers`, `body` (text), `repeat` (times), `endless`, `drip` (milliseconds
        between two characters).
        """
        await self._control("answer", path=path, **answer)

    async def set_user(self, name: str, **claims: Any) -> None:
        """Add a user, or change claims of one (`groups=[…]`); tokens have them from now on."""
        await self._control("user", name=name, **claims)

    async def remove_user(self, name: str) -> None:
        """Remove a user and all their grants."""
        await self._control("remove_user", name=name)

    async def end_grants(self, name: str) -> None:
        """End a user's sessions and refresh tokens."""
        await self._control("end_grants", name=name)

    async def requests(self, path: str = "") -> list[dict[str, Any]]:
        """Return the requests so far (method, path, headers): all, or those of one path."""
        found = (await self._control("requests"))["requests"]
        return [each for each in found if path in ("", each["path"])]

    async def forget_requests(self) -> None:
        """Begin the list of requests anew."""
        await self._control("forget_requests")

    # -- tokens that the provider would not issue

    async def mint(
        self,
        user: str = "ada",
        *,
        key: Any = None,
        algorithm: str = "RS256",
        headers: Mapping[str, Any] | None = None,
        without: Sequence[str] = (),
        **claims: Any,
    ) -> str:
        """Return a token of `user`, signed with the provider's key unless `key` is another one.

        `headers` and `claims` replace those of the provider's own tokens; `without` are claims
        that it lacks.
        """
        jwk = (await self.private_keys())[0]
        now = int(time.time())
        payload = {
            "iss": self.issuer,
            "sub": user,
            "aud": self.audience,
            "iat": now,
            "exp": now + 300,
            "client_id": "desktop",
            "scope": SCOPE,
            "name": user,
            **claims,
        }
        header = {"kid": jwk["kid"], "typ": "at+jwt", **(headers or {})}
        return _encode(
            {name: value for name, value in payload.items() if name not in without},
            jwt.PyJWK(jwk).key if key is None else key,
            algorithm,
            header,
        )

    # -- a browser without a screen

    async def authorize(self, url: str, user: str) -> str:
        """Sign `user` in at the authorization URL; return the redirect to the client."""
        return await deferToThread(self._authorize, url, user)

    async def sign_in(
        self, user: str, client: str = "desktop", redirect_uri: str = "", **parameters: str
    ) -> dict[str, Any]:
        """Run the code flow with PKCE; return the response of the token endpoint."""
        return await deferToThread(self._sign_in, user, client, redirect_uri, parameters)

    async def approve_device(self, verification_uri: str, user: str) -> None:
        """Approve a device as `user`; `verification_uri` is the complete one, with the code."""
        await deferToThread(self._verify_device, verification_uri, user, True)

    async def deny_device(self, verification_uri: str, user: str) -> None:
        """Decline what `approve_device` approves."""
        await deferToThread(self._verify_device, verification_uri, user, False)

    async def token_request(
        self, client: str = "desktop", **parameters: str
    ) -> tuple[int, dict[str, Any]]:
        """Send a request to the token endpoint; return the status and the JSON."""
        return await deferToThread(self._token_request, client, parameters)

    async def refresh(self, token: str, client: str = "desktop") -> tuple[int, dict[str, Any]]:
        """Use a refresh token."""
        return await self.token_request(client, grant_type="refresh_token", refresh_token=token)

    def _token_request(
        self, client: str, parameters: Mapping[str, str]
    ) -> tuple[int, dict[str, Any]]:
        form, headers = {**parameters}, dict(_FORM)
        secret = CLIENT_SECRETS.get(client)
        if client == "page" and secret:
            pair = base64.b64encode(f"{client}:{secret}".encode()).decode()
            headers["Authorization"] = f"Basic {pair}"
        else:
            form |= {"client_id": client} | ({"client_secret": secret} if secret else {})
        url = f"{self.base}{TOKEN_ENDPOINT}"
        status, _, body = _exchange(self.port, "POST", url, urlencode(form), headers)
        return status, json.loads(body)

    def _sign_in(
        self, user: str, client: str, redirect_uri: str, parameters: Mapping[str, str]
    ) -> dict[str, Any]:
        redirect_uri = redirect_uri or "http://127.0.0.1:9/callback"
        verifier = secrets.token_urlsafe(32)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
        query = {
            "client_id": client,
            "response_type": "code",
            "redirect_uri": redirect_uri,
            "scope": SCOPE,
            "audience": self.audience,
            "code_challenge": challenge.rstrip(b"=").decode(),
            "code_challenge_method": "S256",
            "state": "state",
            **parameters,
        }
        location = self._authorize(f"{self.base}/authorize?{urlencode(query)}", user)
        found = parse_qs(urlsplit(location).query)
        assert "code" in found, location
        status, tokens = self._token_request(
            client,
            {
                "grant_type": "authorization_code",
                "code": found["code"][0],
                "redirect_uri": redirect_uri,
                "code_verifier": verifier,
            },
        )
        assert status == 200, tokens
        return tokens

    def _authorize(self, url: str, user: str) -> str:
        browser = _Browser(self.port)
        page = browser.log_in(browser.open(url), user)
        assert browser.left, page
        return browser.location

    def _verify_device(self, verification_uri: str, user: str, approve: bool) -> None:
        browser = _Browser(self.port)
        page = browser.open(verification_uri)
        page = browser.submit(page)  # the code of the complete URI
        if not approve:
            browser.submit(page, abort="yes")
            return
        page = browser.log_in(browser.submit(page, confirm="yes"), user)
        assert "Sign-in Success" in page, page


_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_INPUT = re.compile(r'<input[^>]*type="hidden"[^>]*name="([^"]+)"[^>]*value="([^"]*)"')


class _Browser:
    """Follows the provider's redirects with its cookies, and submits its forms."""

    def __init__(self, port: int) -> None:
        self.location = ""
        self.left = False
        self._port = port
        self._cookies: dict[str, str] = {}

    def open(self, url: str, form: Mapping[str, str] | None = None) -> str:
        """Return the page that `url` leads to; empty once a redirect leads to another server."""
        for _ in range(20):
            self.location = urljoin(self.location, url)
            if urlsplit(self.location).port != self._port:
                self.left = True
                return ""
            url, body = self._request(form)
            if not url:
                return body
            form = None
        raise AssertionError("The provider redirects without an end.")

    def log_in(self, page: str, user: str) -> str:
        """Fill in the forms that ask who is there, and whether a native client may sign them in."""
        while prompt := re.search(r'name="prompt" value="(login|consent)"', page):
            fields = {"login": user, "password": "any"} if prompt[1] == "login" else {}
            page = self.submit(page, **fields)
        return page

    def submit(self, page: str, **fields: str) -> str:
        """Submit the form of `page` with its hidden fields and `fields`."""
        action = re.search(r'<form[^>]*action="([^"]+)"', page)
        assert action, page
        return self.open(action[1], {**dict(_INPUT.findall(page)), **fields})

    def _request(self, form: Mapping[str, str] | None) -> tuple[str, str]:
        cookie = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        headers = {"Cookie": cookie, "Host": f"127.0.0.1:{self._port}"}
        method = "GET" if form is None else "POST"
        encoded = None if form is None else urlencode(form)
        status, received, body = _exchange(
            self._port, method, self.location, encoded, headers | (_FORM if form else {})
        )
        for name, value in received:
            if name.lower() == "set-cookie":
                self._cookies |= {key: each.value for key, each in SimpleCookie(value).items()}
        location = {name.lower(): value for name, value in received}.get("location", "")
        assert status < 400, body
        return location if status in (301, 302, 303) else "", body.decode()


def _exchange(
    port: int, method: str, url: str, body: str | None, headers: Mapping[str, str]
) -> tuple[int, list[tuple[str, str]], bytes]:
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, target, body, dict(headers))
        response = connection.getresponse()
        return response.status, response.getheaders(), response.read()
    finally:
        connection.close()


def _encode(payload: Mapping[str, Any], key: Any, algorithm: str, header: Mapping[str, Any]) -> str:
    """Sign `payload`. Unlike PyJWT's own function this signs whatever it is given."""
    head = {"alg": algorithm, **header}
    signed = f"{_base64url(json.dumps(head))}.{_base64url(json.dumps(dict(payload)))}"
    signature = sign(signed.encode(), key, algorithm)
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def sign(data: bytes, key: Any, algorithm: str) -> bytes:
    """Return the signature (JWS) of `data`; that of `none` is empty, that of HS256 uses bytes."""
    if algorithm == "none":
        return b""
    if algorithm == "HS256":
        return hmac.digest(key, data, "sha256")
    return jwt.get_algorithm_by_name(algorithm).sign(data, key)


def _base64url(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()
