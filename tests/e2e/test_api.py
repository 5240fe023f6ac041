"""The cloud's API, compared with its OpenAPI description."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.e2e.cluster import ANY_FAILURES, BIN, Cluster

#: Generated examples an operation, besides those derived from the description.
EXAMPLES = 40
#: A response can be resumed; 404 and 410 are valid if the requested bytes are gone.
CONFIGURATION = """
[[operations]]
include-path = "/ctllm/exchanges/{exchange}"
parameters = { exchange = "EXCHANGE" }
checks.positive_data_acceptance.expected-statuses = ["200", "404", "410"]
"""
METHODS = {"get", "put", "post", "patch", "delete"}


@ensureDeferred
async def test_the_api_matches_its_description(cluster: Cluster, tmp_path: Path) -> None:
    """All checks of schemathesis, with a connected desktop's token and a response to resume."""
    cloud = await cluster.start_cloud(*ANY_FAILURES)
    _, ollama = cluster.start_fake_ollama("llama3.2")
    await cluster.start_desktop("alice", ollama)
    token = await cluster.create_token(
        "alice", "desktop"
    )  # of a session that the generated logouts do not end
    _, headers, _ = await cluster.request(
        "GET", "/api/tags", token=token, headers={"Ctllm-Resume": "600"}
    )
    (tmp_path / "schemathesis.toml").write_text(
        CONFIGURATION.replace("EXCHANGE", headers["ctllm-request-id"])
    )
    _, _, description = await cluster.request("GET", "/ctllm/openapi.json")
    (tmp_path / "openapi.json").write_bytes(description)
    paths = json.loads(description)["paths"].values()
    operations = sum(len(METHODS & set(path)) for path in paths)
    completed = await deferToThread(
        subprocess.run,
        [
            str(BIN / "st"),
            "run",
            "openapi.json",
            f"--url={cluster.url}",
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
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert re.search(rf"Tested: +{operations}\b", completed.stdout), completed.stdout
    cases = re.search(r"(\d+) generated, (\d+) passed", completed.stdout)
    assert cases is not None and int(cases[2]) > 20 * operations, completed.stdout
    assert "Traceback" not in cloud.output
