"""Processes that drive a client. Calls block: use them in a thread."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.compatibility.clients import DRIVERS, Client

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
#: Where `make` installs the packages of package.json.
MODULES = BIN.parent / "npm" / "node_modules"

Job = dict[str, str]
Outcome = dict[str, Any]


class NotInstalled(Exception):
    """A client or Node.js is not installed."""


def find_node() -> str:
    """Return the path of Node.js: the system's, or the one that `make` installed."""
    found = shutil.which("node", path=f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None or not MODULES.is_dir():
        raise NotInstalled(f"the clients from npm are not in {MODULES}: run `make npm`")
    return found


class Driver:
    """A client in a process of its own, which runs any number of jobs."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._folder = tempfile.TemporaryDirectory()
        program = DRIVERS / client.driver
        argv = [sys.executable, "-m", f"tests.compatibility.drivers.{program.stem}"]
        if client.uses_node:
            argv = [find_node(), str(program)]
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=_clean_environment(self._folder.name),
            text=True,
        )

    def run_jobs(
        self, base_url: str, key: str, jobs: list[Job], *, concurrently: bool = False
    ) -> list[Outcome]:
        """Run `jobs` against a base URL, in sequence or concurrently; return their outcomes."""
        order = {"base": base_url, "key": key, "jobs": jobs, "together": concurrently}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise NotInstalled(f"the driver of {self.client.title} exited; see its output above")
        outcomes: list[Outcome] = json.loads(line)
        return outcomes

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()


def _clean_environment(home: str) -> dict[str, str]:
    """Return an environment without the user's keys, proxies and settings."""
    return {
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
        "HOME": home,
        "LANG": "C.UTF-8",
        "NODE_PATH": str(MODULES),
        "LLM_USER_PATH": home,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    }


def client_calls(client: Client) -> list[str]:
    """Return the calls of a client's driver, in its order."""
    text = (DRIVERS / client.driver).read_text()
    return [
        line.strip().split('"')[1]
        for line in text.splitlines()
        if line.strip().startswith(('"POST ', '"GET ', '"DELETE '))
    ]
