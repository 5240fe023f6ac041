"""Tokens of OpenID providers as Bearer tokens: a real provider, a real cloud, real bytes."""

from __future__ import annotations

import base64
import hmac
import json
import re
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
import pytest_twisted
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.threads import deferToThread
from twisted.web.resource import Resource
from twisted.web.server import Site

from tests.e2e.certificates import CertificateAuthority
from tests.e2e.cluster import ANY_FAILURES, Cluster, wait_until
from tests.e2e.oidc_provider import (
    API,
    DISCOVERY,
    JWKS,
    OidcProvider,
    configure,
    start_provider,
)
from tests.e2e.raw_client import RawClient

SESSION = "/ctllm/session"
#: The claims of somebody who may sign in at `acme`.
STAFF: dict[str, Any] = {"https://example.org/groups": ["staff"]}
CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]}
USERS = {"ada": ["staff"], "bob": ["guests"], "eve": []}


class ProviderCluster:
    """A cloud with two providers: `acme`, where only staff may sign in, and `other`."""

    def __init__(self, cluster: Cluster, acme: OidcProvider, other: OidcProvider) -> None:
        self.cluster = cluster
        self.acme = acme
        self.other = other

    async def get(self, token: str, path: str = SESSION) -> tuple[int, dict[str, str], Any]:
        """Send a request with a Bearer token; return status, headers and JSON."""
        status, headers, body = await self.cluster.request("GET", path, token=token)
        return status, headers, json.loads(body)

    async def refused(self, token: str, status: int = 401) -> str:
        """Require that a token is refused, on each kind of route, and return the message."""
        found = await self.get(token)
        assert found[0] == status, found
        for method, path, body in (
            ("GET", "/api/tags", None),
            ("POST", "/v1/chat/completions", CHAT),
        ):
            other, _, text = await self.cluster.request(method, path, body, token)
            assert other == status, text
        if status == 401:
            assert found[1]["www-authenticate"] == 'Bearer realm="ctllm", error="invalid_token"'
        message: str = found[2]["error"]["message"]
        assert token not in message and self.acme.issuer not in message
        return message

    async def user_of(self, token: str) -> str:
        """Require that a token is accepted, and return the id of its user."""
        status, _, session = await self.get(token)
        assert status == 200, session
        return str(session["user"]["id"])

    async def token(self, user: str = "ada") -> str:
        """Sign in at `acme` and return the access token."""
        return str((await self.acme.sign_in(user))["access_token"])

    async def next_refresh(self) -> None:
        """Wait until the cloud has asked `acme` for its keys again."""
        await self.acme.forget_requests()

        async def is_asked() -> bool:
            await self.get(await self.acme.mint())
            return bool(await self.acme.requests(JWKS))

        await wait_until(is_asked, "the next request for the keys", 40)


async def start(cluster: Cluster) -> ProviderCluster:
    acme = await start_provider(cluster, users=USERS)
    other = await start_provider(cluster, users=USERS, path="/realms/example")
    configure(
        cluster,
        acme.table("acme", groups_claim="https://example.org/groups", allowed_groups=["staff"]),
        # Configured with a trailing slash, which its tokens and its discovery document lack.
        other.table("other", issuer=f"{other.issuer}/", groups_claim="realm_access.roles"),
        '[cloud.tiers.gold]\ngroups = ["staff"]\n',
    )
    await cluster.start_cloud(*ANY_FAILURES)
    return ProviderCluster(cluster, acme, other)


@pytest.fixture(scope="module")
def shared_providers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Providers and a cloud for the tests that leave them as they were."""
    cluster = Cluster(tmp_path_factory.mktemp("providers"))
    yield pytest_twisted.blockon(Deferred.fromCoroutine(start(cluster)))
    pytest_twisted.blockon(Deferred.fromCoroutine(cluster.stop()))


def without_signature(token: str) -> str:
    return token.rpartition(".")[0]


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


# -- whose token it is


@ensureDeferred
async def test_a_token_of_a_provider_reaches_the_models_of_its_user(cluster: Cluster) -> None:
    """The desktop is signed in at the same provider; the token is that of another program."""
    providers = await start(cluster)
    await start_desktop(providers, "ada")
    token = (await providers.acme.sign_in("ada", "another"))["access_token"]
    status, _, tags = await providers.get(token, "/api/tags")
    assert (status, [each["name"] for each in tags["models"]]) == (200, ["llama3.2:latest"])
    status, _, body = await cluster.request("POST", "/v1/chat/completions", CHAT, token)
    assert (status, json.loads(body)["object"]) == (200, "chat.completion")
    await providers.user_of(token)
    # The same name at another provider is somebody else, who has no desktop.
    other = (await providers.other.sign_in("ada"))["access_token"]
    assert (await providers.get(other, "/api/tags"))[0] == 503


async def start_desktop(providers: ProviderCluster, user: str) -> None:
    """Sign a desktop in at `acme` with the device grant, and connect it."""
    cluster, state = providers.cluster, f"--state-dir={providers.cluster.state_dir(user)}"
    options = (cluster.url, "--device", "--no-browser", "--provider", "acme")
    login = cluster.start_process("login", "ctllm", state, "login", *options)
    link = await wait_until(lambda: re.search(r"http://\S+user_code=\S+", login.output), "a link")
    await providers.acme.approve_device(link[0], user)
    assert await login.exited == 0, login.output
    _, port = cluster.start_fake_ollama("llama3.2")
    desktop = cluster.run_role(
        "desktop", user, f"--ollama-host=127.0.0.1:{port}", "--desktop-listen=off"
    )
    await wait_until(lambda: "Cloud connection: connected" in desktop.output, "the bridge")


@ensureDeferred
async def test_a_token_of_a_provider_is_a_bearer_token_on_every_route(
    shared_providers: ProviderCluster,
) -> None:
    token = await shared_providers.token()
    status, _, session = await shared_providers.get(token)
    assert status == 200
    assert session["user"] == {"name": "ada", "id": f"{shared_providers.acme.base}|ada"}
    assert session["scopes"] == ["manage", "serve", "use"]
    assert 0 < session["expires_in"] <= 300
    for method, path, body in (
        ("GET", "/api/tags", None),
        ("POST", "/v1/chat/completions", CHAT),
    ):
        # The user's proxy responds: it has no desktop.
        status, _, text = await shared_providers.cluster.request(method, path, body, token)
        assert status == 503 and b"desktop" in text, text
    for headers in ({"x-api-key": token}, {"Authorization": f"bEARER {token}"}):
        status, _, _ = await shared_providers.cluster.request("GET", SESSION, headers=headers)
        assert status == 200


@ensureDeferred
async def test_a_token_of_another_client_does_not_serve_as_a_desktop(
    shared_providers: ProviderCluster,
) -> None:
    tokens = await shared_providers.acme.sign_in("ada", "another")
    _, _, session = await shared_providers.get(tokens["access_token"])
    assert session["scopes"] == ["manage", "use"]


@ensureDeferred
async def test_two_providers_at_once_have_two_users(shared_providers: ProviderCluster) -> None:
    """The same name at two providers is two people, and neither speaks for the other."""
    first = await shared_providers.user_of(await shared_providers.token())
    other = await shared_providers.other.sign_in("ada")
    second = await shared_providers.user_of(other["access_token"])
    assert first == f"{shared_providers.acme.base}|ada"
    assert second == f"{shared_providers.other.base}|ada"
    forged = await shared_providers.other.mint(iss=shared_providers.acme.issuer)
    await shared_providers.refused(forged)


@ensureDeferred
async def test_who_is_in_no_allowed_group_gets_403(shared_providers: ProviderCluster) -> None:
    for user in ("bob", "eve"):
        message = await shared_providers.refused(await shared_providers.token(user), 403)
        assert message == f"{user} is in no group that may use this cloud. Ask its administrator."
    # The other provider lets everybody in.
    guest = await shared_providers.other.sign_in("bob")
    await shared_providers.user_of(guest["access_token"])


@ensureDeferred
async def test_providers_of_one_namespace_have_the_same_users(cluster: Cluster) -> None:
    first = await start_provider(cluster, users=USERS)
    second = await start_provider(cluster, users=USERS, path="")
    people = {"namespace": "people", "user_claim": "email"}
    configure(cluster, first.table("first", **people), second.table("second", **people))
    await cluster.start_cloud(*ANY_FAILURES)
    case = ProviderCluster(cluster, first, second)
    found = set()
    for provider in (first, second):
        tokens = await provider.sign_in("ada")
        found.add(await case.user_of(tokens["access_token"]))
    assert found == {"people|ada@example.org"}
    await second.set_user("mallory", email="ada@example.org", email_verified=False)
    tokens = await second.sign_in("mallory")
    assert "has not verified your email" in await case.refused(tokens["access_token"])


@ensureDeferred
async def test_an_id_token_is_accepted_where_it_is_configured(cluster: Cluster) -> None:
    """As for Google, whose access tokens are no JWTs."""
    provider = await start_provider(cluster, users=USERS, path="")
    await provider.set_opaque()
    configure(cluster, provider.table("google", token="id_token", audience=""))
    await cluster.start_cloud(*ANY_FAILURES)
    case = ProviderCluster(cluster, provider, provider)
    tokens = await provider.sign_in("ada")
    assert tokens["access_token"].count(".") == 0
    await case.refused(tokens["access_token"])
    _, _, session = await case.get(tokens["id_token"])
    assert session["scopes"] == ["manage", "serve", "use"]


# -- what is no valid token


@ensureDeferred
async def test_refuses_tokens_of_other_issuers_and_audiences(
    shared_providers: ProviderCluster,
) -> None:
    acme = shared_providers.acme
    for issuer in (
        "https://stranger.example/",
        f"{acme.issuer}/",
        acme.issuer.replace("127.0.0.1", "localhost"),
        f"{acme.issuer}x",
        "ctllm",
        "",
        [acme.issuer],
        None,
    ):
        await shared_providers.refused(await acme.mint(iss=issuer))
    for audience in ("another", [], ["another"], f"{API}/", "", None, {API: 1}, [[API]]):
        await shared_providers.refused(await acme.mint(aud=audience))
    for audience in (API, ["another", API]):
        token = await acme.mint(aud=audience, **STAFF)
        await shared_providers.user_of(token)


@ensureDeferred
async def test_refuses_a_token_of_another_tenant(shared_providers: ProviderCluster) -> None:
    """Another issuer on the same kind of server, with the same users, clients and audience."""
    tenant = await start_provider(shared_providers.cluster, users=USERS)
    tokens = await tenant.sign_in("ada")
    message = await shared_providers.refused(tokens["access_token"])
    assert message == "This cloud does not accept tokens of this issuer."
    assert await tenant.requests(JWKS) == [], "and it is not even asked"
    await tenant.process.stop()


@ensureDeferred
async def test_refuses_tokens_outside_their_time(shared_providers: ProviderCluster) -> None:
    now = int(time.time())
    acme, staff = shared_providers.acme, STAFF
    for times in ({"iat": now + 4}, {"nbf": now + 20}, {"iat": now + 4.5}):
        await shared_providers.user_of(await acme.mint(**times, **staff))
    await shared_providers.user_of(await acme.mint(iat=now - 300, exp=now - 10, **staff))
    wrong: dict[str, Any]
    for wrong in (
        {"exp": now - 60, "iat": now - 300},
        {"exp": now - 60},
        {"nbf": now + 60},
        {"iat": now + 60},
        {"exp": -1},
        {"exp": True},
        {"exp": str(now + 60)},
        {"exp": 10**30},
        {"exp": None},
        {"iat": [now]},
        {"nbf": {}},
        {"exp": float("nan")},
        {"iat": float("inf")},
    ):
        await shared_providers.refused(await acme.mint(**wrong, **staff))
    for claim in ("iss", "sub", "aud", "exp", "iat"):
        await shared_providers.refused(await acme.mint(without=[claim], **staff))


@ensureDeferred
async def test_refuses_users_that_are_no_names(shared_providers: ProviderCluster) -> None:
    staff = STAFF
    for subject in ("", " ", "a" * 5000, "a\nb", "\x00", 5, True, None, ["ada"], {"a": 1}):
        await shared_providers.refused(await shared_providers.acme.mint(sub=subject, **staff))


@ensureDeferred
async def test_refuses_unsigned_and_otherwise_signed_tokens(
    shared_providers: ProviderCluster,
) -> None:
    acme, staff = shared_providers.acme, STAFF
    good = await acme.mint(**staff)
    await shared_providers.user_of(good)
    public = jwt.PyJWK((await acme.private_keys())[0]).key.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    forger = rsa.generate_private_key(65537, 2048)
    forged_jwk = jwt.get_algorithm_by_name("RS256").to_jwk(forger.public_key(), as_dict=True)
    for token in (
        await acme.mint(algorithm="none", **staff),
        await acme.mint(algorithm="HS256", key=pem, **staff),
        await acme.mint(algorithm="HS256", key=pem.strip(), **staff),
        await acme.mint(algorithm="RS512", **staff),
        await acme.mint(algorithm="PS256", **staff),
        await acme.mint(key=forger, **staff),
        await acme.mint(key=forger, headers={"jwk": forged_jwk}, **staff),
        await acme.mint(key=forger, headers={"jku": "http://127.0.0.1:1/"}, **staff),
        await acme.mint(key=forger, headers={"x5u": "http://127.0.0.1:1/"}, **staff),
        await acme.mint(headers={"typ": "dpop+jwt"}, **staff),
        await acme.mint(headers={"crit": ["exp"]}, **staff),
        f"{without_signature(good)}.",
        f"{without_signature(good)}.{base64url(b'x' * 256)}",
        good[:-6] + "AAAAAA",
    ):
        await shared_providers.refused(token)
    head, payload, signature = good.split(".")
    hmac_signature = base64url(hmac.digest(pem, f"{head}.{payload}".encode(), "sha256"))
    await shared_providers.refused(f"{head}.{payload}.{hmac_signature}")
    changed = json.dumps({**json.loads(base64.urlsafe_b64decode(payload + "==")), "sub": "bob"})
    await shared_providers.refused(f"{head}.{base64url(changed.encode())}.{signature}")


#: A header with two algorithms, and ends of claims that are no JSON for everybody.
TWICE = b'{"alg":"none","alg":"RS256"}'
ENDS = (',"iss":"x"}', ',"sub":"a","sub":"b"}', ',"x":NaN}', ',"x":1e999}', ',"x":"\\ud800"}')


@ensureDeferred
async def test_refuses_huge_and_malformed_tokens(shared_providers: ProviderCluster) -> None:
    good = await shared_providers.acme.mint()
    head, payload, signature = good.split(".")
    start = '{"iss":' + json.dumps(shared_providers.acme.issuer)
    for token in (
        "eyJ.eyJ.eyJ",
        "eyJ..",
        f"{head}.{payload}",
        f"{good}.{signature}",
        f"{head}.{base64url(b'[' * 4000)}.{signature}",
        f"{head}.{base64url(b'null')}.{signature}",
        f"{head}.{base64url(b'{')}.{signature}",
        f"{base64url(b'{}')}.{payload}.{signature}",
        f"{base64url(b'[' * 3000)}.{payload}.{signature}",
        f"{base64url(TWICE)}.{payload}.{signature}",
        *(f"{head}.{base64url((start + end).encode())}.{signature}" for end in ENDS),
        f"{head}.{payload}.{signature}=",
        f"eyJ{'A' * 9000}.{payload}.{signature}",
        f"{head}.eyJ{'A' * 50_000}.{signature}",
        await shared_providers.acme.mint(name="x" * 9000),
    ):
        await shared_providers.refused(token)
    await shared_providers.user_of(await shared_providers.token())
    (cloud,) = (each for each in shared_providers.cluster.processes if each.name == "cloud")
    assert "Traceback" not in cloud.output
    assert head not in cloud.output and signature not in cloud.output


# -- keys


@ensureDeferred
async def test_a_new_key_works_at_once_and_a_retired_one_within_seconds_no_longer(
    cluster: Cluster,
) -> None:
    providers = await start(cluster)
    old = await providers.token()
    await providers.user_of(old)
    await providers.acme.rotate_keys()
    new = await providers.token()
    await providers.user_of(new)
    await providers.user_of(old)
    await providers.acme.retire_keys()

    async def is_refused() -> bool:
        status, _, _ = await providers.get(old)
        assert status in (200, 401)
        return status == 401

    await wait_until(is_refused, "the retired key to be refused", 60)
    await providers.user_of(new)


@ensureDeferred
async def test_a_hundred_unknown_keys_do_not_delay_a_new_one(cluster: Cluster) -> None:
    """They cost the provider one request at once, and one when the next is due."""
    providers = await start(cluster)
    acme, staff = providers.acme, STAFF
    await providers.user_of(await providers.token())
    await acme.forget_requests()
    unknown = [await acme.mint(headers={"kid": f"made-up-{n}"}, **staff) for n in range(100)]
    began = time.monotonic()
    assert (await providers.get(unknown[0]))[0] == 401, "one request is made at once"
    port = providers.cluster.cloud_port
    waiting = [RawClient(port).send_request("GET", SESSION, token) for token in unknown[1:]]
    await acme.rotate_keys()
    await providers.user_of(await acme.mint(**staff))
    for client in waiting:
        answer = await deferToThread(client.read_until, b"}}")
        assert answer.startswith(b"HTTP/1.1 401 "), answer
        client.socket.close()
    regular = (time.monotonic() - began) / 10
    assert len(await acme.requests(JWKS)) <= 2 + regular, "and those that nobody has forced"


@ensureDeferred
async def test_a_key_of_the_future_is_refused_until_it_is_published(cluster: Cluster) -> None:
    providers = await start(cluster)
    future = await providers.acme.mint(
        key=rsa.generate_private_key(65537, 2048), headers={"kid": "key-2"}
    )
    assert (await providers.get(future))[0] == 401
    await providers.acme.rotate_keys()
    await providers.user_of(await providers.token())
    assert (await providers.get(future))[0] == 401, "it is another key of the same name"


@ensureDeferred
async def test_many_first_tokens_cause_one_request_for_the_keys(cluster: Cluster) -> None:
    providers = await start(cluster)
    tokens = [await providers.token() for _ in range(5)]
    await providers.acme.set_delay(300)
    found = await gatherResults(
        [Deferred.fromCoroutine(providers.get(token)) for token in tokens * 4]
    )
    assert {status for status, _, _ in found} == {200}
    assert len(await providers.acme.requests(JWKS)) == 1
    assert len(await providers.acme.requests(DISCOVERY)) == 1


# -- a provider that does not work


@ensureDeferred
async def test_a_provider_that_is_down_is_503_at_first_and_nothing_once_its_keys_are_known(
    cluster: Cluster,
) -> None:
    providers = await start(cluster)
    ada, eve = await providers.token(), await providers.acme.mint(headers={"kid": "unknown"})
    guest = (await providers.other.sign_in("eve"))["access_token"]
    await providers.acme.stop()
    status, headers, body = await providers.get(ada)
    assert (status, body["error"]["code"]) == (503, "overloaded"), "no 401: that would sign out"
    assert 1 <= int(headers["retry-after"]) <= 10
    # Neither the health nor the users of another provider are affected.
    status, _, body = await providers.cluster.request("GET", "/health")
    assert (status, json.loads(body)["status"]) == (200, "ok")
    await providers.user_of(guest)
    _, _, text = await providers.cluster.request(
        "GET", "/metrics", port=providers.cluster.metrics_port
    )
    count = re.search(rb'ctllm_provider_fetch_failures_total{provider="acme"} (\S+)', text)
    assert count and float(count[1]) >= 1

    await providers.acme.resume()

    async def works() -> bool:
        return (await providers.get(ada))[0] == 200

    await wait_until(works, "the provider's users after it is back")
    await providers.acme.stop()
    for _ in range(3):
        assert (await providers.get(ada))[0] == 200
    assert (await providers.get(eve))[0] == 503, "the key may be new"


@ensureDeferred
async def test_a_slow_provider_delays_only_its_first_users(cluster: Cluster) -> None:
    providers = await start(cluster)
    ada = await providers.token()
    guest = (await providers.other.sign_in("eve"))["access_token"]
    await providers.acme.set_delay(1500)
    slow = Deferred.fromCoroutine(providers.get(ada))
    await providers.user_of(guest)
    assert not slow.called
    assert (await slow)[0] == 200
    await providers.acme.set_delay(60_000)
    assert (await providers.get(ada))[0] == 200


LIES: dict[str, dict[str, Any]] = {
    "html": {"body": "<html>Log in</html>", "headers": {"content-type": "text/html"}},
    "nothing": {"status": 204},
    "error": {"status": 500, "body": "{}"},
    "redirect": {"status": 302, "headers": {"location": "http://127.0.0.1:1/"}},
    "huge": {"body": " " * 65536, "repeat": 100},
    "endless": {"body": "[" * 1024, "endless": True},
    "drip": {"body": " " * 1000, "drip": 200},
    "deep": {"body": "[" * 200_000},
    "null": {"body": "null"},
    "binary": {"body": "\x00\udc80"},
}
KEY_LIES: dict[str, dict[str, Any]] = {
    "no-keys": {"body": '{"keys":[]}'},
    "strings": {"body": '{"keys":["key-1"]}'},
    "many": {"body": json.dumps({"keys": [{"kty": "RSA", "kid": "key-1"}] * 101})},
    "broken": {"body": '{"keys":[{"kty":"RSA","kid":"key-1","n":"!","e":"AQAB"}]}'},
}


#: A key of each kind that must not verify a signature: that of b"x" * 32 is known to everybody.
SECRET = {"kty": "oct", "kid": "key-1", "k": base64url(b"x" * 32)}
BAD_KEYS = (SECRET, {**SECRET, "alg": "RS256"}, {**SECRET, "alg": "HS256"})


class Liar:
    """Issuers below the address of one provider, each with answers of its own."""

    def __init__(self, provider: OidcProvider) -> None:
        self.provider = provider
        self.tables: list[str] = []
        self.issuers: list[str] = []

    async def add(self, discovery: dict[str, Any], keys: dict[str, Any]) -> str:
        """Add an issuer, with the answers for its discovery document and its keys."""
        name = f"liar-{len(self.issuers)}"
        issuer = f"{self.provider.base}/{name}"
        document = {"issuer": issuer, "jwks_uri": f"{issuer}{JWKS}"}
        honest = {"body": json.dumps({**document, **discovery.pop("document", {})})}
        await self.provider.answer(f"/{name}{DISCOVERY}", **(discovery or honest))
        await self.provider.answer(f"/{name}{JWKS}", **keys)
        self.tables.append(self.provider.table(name, issuer=issuer))
        self.issuers.append(issuer)
        return issuer

    async def honest_keys(self, **changes: Any) -> dict[str, Any]:
        """Return the answer with the provider's own public key."""
        (key,) = await self.provider.private_keys()
        public = {name: key[name] for name in ("kty", "n", "e", "kid", "alg", "use")}
        return {"body": json.dumps({"keys": [{**public, **changes}]})}


@ensureDeferred
async def test_a_provider_that_lies_authenticates_nobody_and_disturbs_nobody(
    cluster: Cluster,
) -> None:
    """Each answer for the keys, and for the discovery document; an honest one among them works."""
    liar = Liar(await start_provider(cluster))
    keys = await liar.honest_keys()
    honest = await liar.add({}, keys)
    for lie in LIES.values():
        await liar.add({**lie}, keys)
    for document in (
        {"issuer": honest},
        {"issuer": liar.provider.issuer},
        {"jwks_uri": "http://192.0.2.1/jwks"},
        {"jwks_uri": None},
    ):
        await liar.add({"document": document}, keys)
    for answer in (*LIES.values(), *KEY_LIES.values()):
        await liar.add({}, answer)
    for key in (*BAD_KEYS, (await liar.provider.private_keys())[0]):
        await liar.add({}, {"body": json.dumps({"keys": [key]})})
    await liar.add({}, await liar.honest_keys(use="enc"))
    await liar.add({}, await liar.honest_keys(alg="RS512"))
    configure(cluster, *liar.tables)
    cloud = await cluster.start_cloud(*ANY_FAILURES)

    case = ProviderCluster(cluster, liar.provider, liar.provider)
    tokens = [await liar.provider.mint(iss=issuer) for issuer in liar.issuers]
    port = cluster.cloud_port
    asked = [RawClient(port).send_request("GET", SESSION, token) for token in tokens[1:]]
    await case.user_of(tokens[0])
    for issuer, client in zip(liar.issuers[1:], asked, strict=True):
        response = await deferToThread(client.read_until, b"}}")
        assert response[9:12] in (b"401", b"503"), (issuer, response)
        client.socket.close()
    for issuer in liar.issuers[1:]:
        for algorithm in ("HS256", "none"):
            forged = await liar.provider.mint(iss=issuer, algorithm=algorithm, key=b"x" * 32)
            assert (await case.get(forged))[0] == 401
    await case.user_of(tokens[0])
    assert "Traceback" not in cloud.output, cloud.output
    status, _, body = await cluster.request("GET", "/health")
    assert (status, json.loads(body)["status"]) == (200, "ok")


class HttpsIssuer(Resource):
    """An issuer on https with a key of its own, which is the only page that it has."""

    isLeaf = True

    def __init__(self, certificates: Path, host: str) -> None:
        super().__init__()
        self.key = rsa.generate_private_key(65537, 2048)
        pems = str(certificates / "key.pem"), str(certificates / "cert.pem")
        context = DefaultOpenSSLContextFactory(*pems)
        listener: Any = reactor
        self.port = listener.listenSSL(0, Site(self), context, interface="127.0.0.1")
        self.url = f"https://{host}:{self.port.getHost().port}"

    def render_GET(self, request: Any) -> bytes:
        if request.path.decode() == DISCOVERY:
            return json.dumps({"issuer": self.url, "jwks_uri": f"{self.url}{JWKS}"}).encode()
        public = jwt.get_algorithm_by_name("RS256").to_jwk(self.key.public_key(), as_dict=True)
        return json.dumps({"keys": [{**public, "kid": "a"}]}).encode()

    def token(self) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "sub": "ada", "aud": "api", "iat": now, "exp": now + 300}
        return jwt.encode(claims, self.key, "RS256", {"kid": "a"})

    def table(self, name: str) -> str:
        keys = f'issuer = "{self.url}"\nclient_id = "a"\naudience = "api"\n'
        return f"[cloud.providers.{name}]\n{keys}"


@ensureDeferred
async def test_the_keys_of_an_https_issuer_need_a_trusted_certificate_of_its_name(
    cluster: Cluster, tmp_path: Path
) -> None:
    own = CertificateAuthority("trusted authority").issue(tmp_path / "own")
    other = CertificateAuthority("another authority").issue(tmp_path / "other")
    good = HttpsIssuer(own, "127.0.0.1")
    misnamed = HttpsIssuer(own, "localhost")
    untrusted = HttpsIssuer(other, "127.0.0.1")
    cluster.ports += [each.port for each in (good, misnamed, untrusted)]
    tables = (good.table("good"), misnamed.table("misnamed"), untrusted.table("untrusted"))
    configure(cluster, *tables)
    cluster.extra_environment["SSL_CERT_FILE"] = str(own / "ca.pem")
    cloud = await cluster.start_cloud(*ANY_FAILURES)
    for issuer, expected in ((good, 200), (misnamed, 503), (untrusted, 503)):
        status, _, body = await cluster.request("GET", SESSION, token=issuer.token())
        assert status == expected, (body, cloud.output)
    for name in ("misnamed", "untrusted"):
        assert f"The keys of the provider {name} cannot be fetched: " in cloud.output
    assert "The certificate of localhost is not trusted: it is for another name" in cloud.output
    assert "this machine does not trust its issuer" in cloud.output, cloud.output
    assert "Traceback" not in cloud.output


# -- the list for clients


@ensureDeferred
async def test_everybody_may_list_the_providers(cluster: Cluster) -> None:
    providers = await start(cluster)
    status, _, body = await providers.cluster.request("GET", "/ctllm/providers")
    assert status == 200
    assert json.loads(body) == {
        "providers": [
            {
                "name": name,
                "title": name,
                "issuer": issuer,
                "client_id": "desktop",
                "scope": "openid profile offline_access",
                "audience": API,
                "token": "access_token",
            }
            for name, issuer in (
                ("acme", providers.acme.issuer),
                ("other", f"{providers.other.issuer}/"),
            )
        ]
    }


@ensureDeferred
async def test_a_wrong_provider_is_an_error_with_file_line_and_key(
    cluster: Cluster, tmp_path: Path
) -> None:
    path = configure(
        cluster, '[cloud.providers.acme]\nissuer = "http://login.example"\nclient_id = "a"\n'
    )
    cloud = cluster.run_role("cloud", "cloud")
    await cloud.exited
    assert cloud.exit_code == 1
    assert f"{path}, line 2: cloud.providers.acme.issuer: must begin with https://" in cloud.output
