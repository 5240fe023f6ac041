"""The audit log of a real cloud: a day's life, what it must not have, rotation, and the command."""

from __future__ import annotations

import json
import re
from typing import Any

from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults

from tests.e2e.cluster import ANY_FAILURES, Cluster, wait_until
from tests.e2e.lifecycle_cases import CHAT, start_with_desktop

FORGED = "eyJhbGciOiJFZERTQSIsInR5cCI6ImN0bGxtLWFjY2Vzcytqd3QifQ.e30.c2ln"
FORWARDED = {"X-Forwarded-For": "203.0.113.77"}


async def entries(cluster: Cluster, *options: str) -> list[dict[str, Any]]:
    """Return what `ctllm audit --json` prints."""
    text = await cluster.run_ctllm("cloud", "audit", "--json", *options)
    return [json.loads(line) for line in text.splitlines()]


def stored(cluster: Cluster) -> str:
    """Return the text of all files of the log."""
    files = (cluster.state_dir("cloud") / "cloud").glob("audit*.jsonl")
    return "\n".join(path.read_text() for path in files)


@ensureDeferred
async def test_a_day_is_recorded_and_nothing_that_identifies_or_admits_anybody(
    cluster: Cluster,
) -> None:
    """Signing in, being refused, a key that is used, signing out, being revoked and disabled."""
    await start_with_desktop(cluster)
    invite = await cluster.create_invite("alice")
    session = await cluster.log_in(invite, "desktop")
    cluster.api_key = await cluster.run_ctllm("alice", "keys", "add", "secret-project")
    await cluster.wait_for_api_key()
    chat = await cluster.request("POST", "/api/chat", CHAT, cluster.api_key, FORWARDED)
    assert chat[0] == 200
    deletion = await cluster.request("DELETE", "/api/delete", {"model": "llama3.2"},
                                     cluster.api_key, FORWARDED)  # fmt: skip
    assert deletion[0] == 403
    for _ in range(5):
        forged = await cluster.request("GET", "/api/tags", token=FORGED, headers=FORWARDED)
        assert forged[0] == 401
    used = {"invite": invite.partition("#invite=")[2], "client": "browser"}
    assert (await cluster.request("POST", "/ctllm/session", used))[0] == 401
    refresh = {"Ctllm-Refresh": session["refresh"]}
    assert (await cluster.request("DELETE", "/ctllm/session", headers=refresh))[0] == 204
    renewal = {"refresh": session["refresh"]}
    assert (await cluster.request("POST", "/ctllm/session/token", renewal))[0] == 401
    await cluster.run_ctllm("cloud", "users", "disable", "alice")
    await cluster.run_ctllm("cloud", "users", "enable", "alice")
    await cluster.run_ctllm("cloud", "revoke", "alice")

    found = await entries(cluster, "--user", "alice")
    events = [each["event"] for each in found]
    for event in ("session.created", "proxy.started", "key.used", "request.refused",
                  "session.closed", "user.disabled", "user.enabled", "user.revoked"):  # fmt: skip
        assert event in events, events
    (use,) = [each for each in found if each.get("address") == "203.0.113.0/24"
              and each["event"] == "key.used"]  # fmt: skip
    assert re.fullmatch(r"key:[0-9a-f]+", use["credential"]) and len(use["user"]) == 32
    refused = await entries(cluster, "--event", "*.refused")
    reasons = {each["reason"] for each in refused if each.get("user")}
    assert "forbidden" in reasons
    assert reasons <= {"forbidden", "user_disabled"}  # the desktop goes on trying
    assert {each["event"] for each in refused} >= {"login.refused", "request.refused"}
    assert await entries(cluster, "--event", "session.renewal_refused")

    text = stored(cluster)
    secrets = [invite.partition("#invite=")[2], session["refresh"], session["token"], FORGED,
               cluster.api_key, cluster.alice_token]  # fmt: skip
    names = ["alice", "llama3.2", "hello", "secret-project", "203.0.113.77", "/api/"]
    assert [each for each in (*secrets, *names) if each in text] == []

    table = (await cluster.run_ctllm("cloud", "audit", "--since", "1h")).splitlines()
    assert any(line.split("\t")[1:3] == ["session.created", "alice"] for line in table)
    assert await entries(cluster, "--until", "1h") == []


@ensureDeferred
async def test_a_flood_fills_neither_the_disk_nor_the_log(cluster: Cluster) -> None:
    """It is a line a minute, whatever is presented."""
    cloud = await cluster.start_cloud(*ANY_FAILURES)
    requests = [cluster.request("GET", "/api/tags", token=f"{FORGED}{i}") for i in range(200)]
    responses = await gatherResults([Deferred.fromCoroutine(each) for each in requests])
    assert {status for status, _, _ in responses} == {401}
    await cloud.stop()
    found = await entries(cluster, "--event", "request.refused")
    counts = [each.get("count", 1) for each in found]
    assert sum(counts) == 200 and len(counts) <= 6, found


@ensureDeferred
async def test_rotated_files_are_read_too_and_two_processes_write(cluster: Cluster) -> None:
    """The cloud and commands append at the same time; no line is lost."""
    await cluster.start_cloud("--audit-max-bytes=600")
    for each in range(12):
        await cluster.create_token(f"user{each}")
        await cluster.run_ctllm("cloud", "users", "disable", f"user{each}")
    files = list((cluster.state_dir("cloud") / "cloud").glob("audit.*.jsonl"))
    assert len(files) >= 3 and max(path.stat().st_size for path in files) <= 900
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    for event in ("session.created", "user.disabled"):
        assert len(await entries(cluster, "--event", event)) == 12


@ensureDeferred
async def test_the_command_follows_the_log(cluster: Cluster) -> None:
    await cluster.start_cloud("--audit-max-bytes=300")
    await cluster.create_token("early")
    directory = str(cluster.state_dir("cloud"))
    process = cluster.start_process(
        "audit", "ctllm", f"--state-dir={directory}", "audit", "--follow", "--event=session.*"
    )
    await wait_until(lambda: "early" in process.output, "the first entry")
    for each in range(4):
        await cluster.create_token(f"late{each}")
    await wait_until(lambda: process.output.count("session.created") == 5, "the others")
