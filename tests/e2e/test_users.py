"""`ctllm users`: who has signed in, and what privacy laws ask."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred

from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.oidc_provider import OidcProvider, configure, start_provider

SESSION = "/ctllm/session"
NAME, EMAIL, SUBJECT = "Ada Lovelace", "ada@home.example", "ada-4711"


class Acme:
    """A cloud with two providers, whose users include two people of one name."""

    def __init__(self, cluster: Cluster, acme: OidcProvider, other: OidcProvider) -> None:
        self.cluster = cluster
        self.acme = acme
        self.other = other

    async def log_in(self, provider: OidcProvider, user: str) -> dict[str, Any]:
        """Begin a desktop's session; return the response of the cloud."""
        token = (await provider.sign_in(user))["access_token"]
        body = {"client": "desktop", "provider_token": token}
        status, _, response = await self.cluster.request("POST", SESSION, body)
        assert status == 201, response
        found: dict[str, Any] = json.loads(response)
        return found

    async def users(self, *arguments: str) -> str:
        return await self.cluster.run_ctllm("cloud", "users", *arguments)

    async def list(self) -> dict[str, dict[str, Any]]:
        """Return the users by their ids."""
        return {each["id"]: each for each in json.loads(await self.users("--json"))}

    def stored(self) -> str:
        """Return the names and contents of all files of the cloud, and what it logged."""
        files = [each for each in self.cluster.state_dir("cloud").rglob("*") if each.is_file()]
        texts = [str(each) + each.read_bytes().decode("latin-1") for each in files]
        return "\n".join([*texts, *(each.output for each in self.cluster.processes[2:])])

    async def status_of(self, token: str) -> int:
        return (await self.cluster.request("GET", "/api/version", token=token))[0]


@pytest_twisted.async_yield_fixture()
async def acme(cluster: Cluster) -> Any:
    acme = await start_provider(cluster, users={SUBJECT: []})
    other = await start_provider(cluster, users={"al": [], "bo": []}, path="/realms/other")
    await acme.set_user(SUBJECT, nickname=NAME, email=EMAIL)
    await other.set_user("al", nickname=NAME)
    configure(
        cluster,
        *(
            provider.table(name, name_claim="nickname")
            for name, provider in (("acme", acme), ("other", other))
        ),
    )
    await cluster.start_cloud()
    yield Acme(cluster, acme, other)


@ensureDeferred
async def test_users_lists_everybody_who_signed_in(acme: Acme) -> None:
    """With an invite, with a provider, and with a provider's token as it is."""
    assert await acme.users() == ""
    ada = await acme.log_in(acme.acme, SUBJECT)
    await acme.log_in(acme.acme, SUBJECT)
    await acme.cluster.create_token("carol")
    bearer = (await acme.other.sign_in("bo"))["access_token"]
    assert await acme.status_of(bearer) == 503
    listed = await acme.list()
    summary = {(each["name"], each["provider"], each["sessions"]) for each in listed.values()}
    assert summary == {(NAME, "acme", 2), ("carol", None, 1), ("bo@example.org", "other", 0)}
    assert {each["state"] for each in listed.values()} == {"active"}
    assert all(each["first_seen"] and each["last_seen"] for each in listed.values())
    assert ada["user"]["id"] in listed
    lines = (await acme.users("ls")).splitlines()
    assert [line.split("\t")[0] for line in lines] == [NAME, "bo@example.org", "carol"]


@ensureDeferred
async def test_a_name_that_two_users_have_needs_the_id(acme: Acme) -> None:
    """And only the one with that id is disabled."""
    ada = await acme.log_in(acme.acme, SUBJECT)
    al = await acme.log_in(acme.other, "al")
    for command in ("disable", "enable", "forget", "export"):
        with pytest.raises(AssertionError, match="Give the id of one") as refused:
            await acme.users(command, NAME)
        assert ada["user"]["id"] in str(refused.value) and al["user"]["id"] in str(refused.value)
    await acme.users("disable", ada["user"]["id"])

    async def is_disabled() -> bool:
        return await acme.status_of(ada["token"]) == 403

    await wait_until(is_disabled, "ada to be disabled")
    assert await acme.status_of(al["token"]) == 503
    states = {id: each["state"] for id, each in (await acme.list()).items()}
    assert states == {ada["user"]["id"]: "disabled", al["user"]["id"]: "active"}


@ensureDeferred
async def test_export_has_all_that_is_stored_and_no_secret(acme: Acme) -> None:
    ada = await acme.log_in(acme.acme, SUBJECT)
    await acme.log_in(acme.other, "bo")
    exported = json.loads(await acme.users("export", NAME))
    assert (exported["subject"], exported["name"]) == (SUBJECT, NAME)
    assert [each["client"] for each in exported["sessions"]] == ["desktop"]
    assert "session.created" in {each["event"] for each in exported["audit"]}
    text = json.dumps(exported)
    for other in (ada["refresh"], ada["token"], "bo", acme.other.base):
        assert other not in text


@ensureDeferred
async def test_forget_leaves_no_name_subject_or_address(acme: Acme) -> None:
    """Access ends; the user may sign in again, and is then known again."""
    ada = await acme.log_in(acme.acme, SUBJECT)
    al = await acme.log_in(acme.other, "al")
    assert await acme.status_of(ada["token"]) == 503
    assert NAME in acme.stored() and SUBJECT in acme.stored()
    said = await acme.users("forget", ada["user"]["id"])
    assert "removed 1 sessions" in said and "audit log" in said
    assert await acme.status_of(ada["token"]) == 401
    status, _, _ = await acme.cluster.request(
        "POST", f"{SESSION}/token", {"refresh": ada["refresh"]}
    )
    assert status == 401
    assert list(await acme.list()) == [al["user"]["id"]]
    stored = acme.stored()
    for word in (SUBJECT, EMAIL, acme.acme.base, ada["refresh"]):
        assert word not in stored, word
    assert await acme.status_of(al["token"]) == 503

    async def signs_in_again() -> bool:
        # Tokens have whole seconds: one of the second in which the user was forgotten is void.
        token = (await acme.acme.sign_in(SUBJECT))["access_token"]
        body = {"client": "desktop", "provider_token": token}
        return (await acme.cluster.request("POST", SESSION, body))[0] == 201

    await wait_until(signs_in_again, "ada to sign in again")
    assert ada["user"]["id"] in await acme.list()


@ensureDeferred
async def test_a_user_who_is_forgotten_while_disabled_stays_disabled(acme: Acme) -> None:
    ada = await acme.log_in(acme.acme, SUBJECT)
    await acme.users("disable", NAME)
    await acme.users("forget", NAME)
    assert await acme.list() == {}
    token = (await acme.acme.sign_in(SUBJECT))["access_token"]
    assert await acme.status_of(token) == 403
    assert "Enabled" in await acme.users("enable", ada["user"]["id"])

    async def is_enabled() -> bool:
        # Tokens have whole seconds: one of the second in which the user was forgotten is void.
        token = (await acme.acme.sign_in(SUBJECT))["access_token"]
        return await acme.status_of(token) == 503

    await wait_until(is_enabled, "ada to be let in")
