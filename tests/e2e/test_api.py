"""The cloud's own API against its own description."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import BIN, Cluster

#: For each operation; the cases that follow from the description alone come on top.
EXAMPLES = 40
#: There is an answer to take up; that it has no byte so far back is as right as giving the byte.
CONFIGURATION = """
[[operations]]
include-path = "/ctllm/exchanges/{exchange}"
parameters = { exchange = "EXCHANGE" }
checks.positive_data_acceptance.expected-statuses = ["200", "404", "410"]
"""
METHODS = {"get", "put", "post", "delete"}


@ensureDeferred
async def test_schemathesis_finds_no_fault(cluster: Cluster, tmp_path: Path) -> None:
    """All its checks over every operation, as a desktop that is connected and has an answer."""
    cloud = await cluster.start_cloud()
    _, ollama = cluster.start_fake_ollama("llama3.2")
    await cluster.start_desktop("alice", ollama)
    token = await cluster.create_token(
        "alice", "desktop"
    )  # it outlives the sign-outs that are tried
    _, answer, _ = await cluster.request(
        "GET", "/api/tags", token=token, headers={"Ctllm-Resume": "600"}
    )
    (tmp_path / "schemathesis.toml").write_text(
        CONFIGURATION.replace("EXCHANGE", answer["ctllm-request-id"])
    )
    _, _, description = await cluster.request("GET", "/ctllm/openapi.json")
    (tmp_path / "openapi.json").write_bytes(description)
    paths = json.loads(description)["paths"].values()
    operations = sum(len(METHODS & set(path)) for path in paths)
    done = await deferToThread(
        subprocess.run,
        [
            str(BIN / "st"),
            "run",
            "openapi.json",
            f"--public-url={cluster.url}",
            f"--header=Authorization: Bearer {token}",
            "--checks=all",
            "--phases=examples,coverage,fuzzing",
            f"--max-examples={EXAMPLES}",
            "--seed=1",
            "--request-timeout=20",
            "--no-color",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**cluster.environment(), "COLUMNS": "120"},
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"Tested: +{operations}\b", done.stdout), done.stdout
    cases = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert cases is not None and int(cases[2]) > 20 * operations, done.stdout
    assert "Traceback" not in cloud.output
