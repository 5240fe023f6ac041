"""Tiers of the groups of a provider: limits, desktops, and processes beside containers."""

from __future__ import annotations

import json
import re

from pytest_twisted import ensureDeferred

from tests.e2e.cluster import ChildProcess, Cluster, wait_until
from tests.e2e.containers import ContainerInspector
from tests.e2e.lifecycle_cases import audit_records, proxy_state, start_proxy
from tests.e2e.oidc_provider import OidcProvider, configure, start_provider

LINK = re.compile(r"^    (http://\S+)\r?$", re.M)
GROUPS = "https://example.org/groups"
CONNECTED = "Cloud connection: connected"
TIERS = """
[cloud.tiers.small]
groups = ["guests"]
requests_per_minute = 6
max_requests = 2
max_desktops = 1

[cloud.tiers.large]
groups = ["staff"]
spawner = "docker"
"""


async def start(cluster: Cluster, *options: str) -> OidcProvider:
    """Start a provider and a cloud, where ada is of the staff and bob is a guest."""
    provider = await start_provider(cluster, users={"ada": ["staff"], "bob": ["guests"]})
    configure(cluster, provider.table("acme", groups_claim=GROUPS), TIERS)
    await cluster.start_cloud(*options)
    return provider


async def token(provider: OidcProvider, user: str) -> str:
    """Return an access token of the provider."""
    return str((await provider.sign_in(user))["access_token"])


async def run_desktop(
    cluster: Cluster, provider: OidcProvider, state: str, ollama: int
) -> ChildProcess:
    """Log in a desktop of bob with the provider, and start it."""
    login = cluster.start_process(
        "login", "ctllm", f"--state-dir={cluster.state_dir(state)}", "login", cluster.url,
        "--no-browser", "--device",
    )  # fmt: skip
    link = await wait_until(lambda: LINK.search(login.output), "the link")
    await provider.approve_device(link[1], "bob")
    assert await login.exited == 0, login.output
    return cluster.run_role(
        "desktop", state, f"--ollama-host=127.0.0.1:{ollama}", "--desktop-listen=off"
    )


@ensureDeferred
async def test_a_tier_limits_requests_and_desktops(cluster: Cluster) -> None:
    """A second desktop is refused with the reason, and connects when the first has gone."""
    configured = TIERS.replace('spawner = "docker"', "")
    provider = await start_provider(cluster, users={"ada": ["staff"], "bob": ["guests"]})
    configure(cluster, provider.table("acme", groups_claim=GROUPS), configured)
    await cluster.start_cloud()
    _, ollama = cluster.start_fake_ollama("llama3.2")
    first = await run_desktop(cluster, provider, "first", ollama)
    await wait_until(lambda: CONNECTED in first.output, "the first desktop")
    second = await run_desktop(cluster, provider, "second", ollama)
    reason = "Your limit of desktops (1) is reached."
    await wait_until(lambda: reason in second.output, "the refusal")
    bob, ada = await token(provider, "bob"), await token(provider, "ada")
    statuses = [await status(cluster, bob) for _ in range(8)]
    assert statuses == [200] * 6 + [429] * 2
    assert [await status(cluster, ada) for _ in range(8)] == [503] * 8  # no desktop
    assert len(await cluster.list_desktops(bob)) == 1
    await first.stop()
    await wait_until(lambda: CONNECTED in second.output, "the second desktop", 60)


async def status(cluster: Cluster, bearer: str) -> int:
    return (await cluster.request("GET", "/api/version", token=bearer))[0]


@ensureDeferred
async def test_proxies_of_one_tier_are_containers_and_of_the_other_processes(
    engine: ContainerInspector, cluster: Cluster
) -> None:
    """A user who changes groups gets the other kind at the next start of the proxy."""
    options = [each for each in engine.options if not each.startswith("--spawner")]
    provider = await start(cluster, *options, "--spawner=process")
    ada, bob = await token(provider, "ada"), await token(provider, "bob")
    for each in (ada, bob):
        status, _, body = await start_proxy(cluster, each)
        assert status == 200, body
    (container,) = engine.containers()
    _, _, session = await cluster.request("GET", "/ctllm/session", token=ada)
    assert json.loads(session)["user"]["name"] == "ada"
    name = engine.inspect(container)["Name"].strip("/")
    started = [each["proxy"] for each in audit_records(cluster) if each["event"] == "proxy.started"]
    assert name in started and len(started) == 2
    await provider.set_user("ada", groups=["guests"])
    demoted = await token(provider, "ada")
    assert (await cluster.request("GET", "/ctllm/proxy", token=demoted))[0] == 200
    assert engine.containers() == [container]
    assert (await cluster.request("DELETE", "/ctllm/proxy", token=demoted))[0] == 204
    assert engine.containers() == []
    assert (await start_proxy(cluster, demoted))[0] == 200
    assert engine.containers() == [] and (await proxy_state(cluster, demoted))["state"] == "running"
