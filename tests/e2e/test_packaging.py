"""What pip installs: the wheel, made from the source distribution, in an environment of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from ctllm import __version__
from tests.e2e.cluster import Cluster, wait_until

ROOT = Path(__file__).parents[2]
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "_trial_temp*", "build", "dist",
    "*.egg-info", "dropin.cache",
)  # fmt: skip


def run(*argv: str | Path, cwd: Path) -> str:
    """Run a program that must succeed; gives what it printed."""
    done = subprocess.run(
        [str(each) for each in argv], cwd=cwd, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, folder / "source", ignore=NOT_SOURCE)
    run(sys.executable, "-m", "build", "--outdir", folder, "source", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The programs of an environment in which there is the wheel, and what it asks for."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=True)
    (wheel,) = built.glob("*.whl")
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(folder / "bin" / "python", *pip, wheel, cwd=folder)
    yield folder / "bin"
    shutil.rmtree(folder)


def test_the_source_distribution_is_whole(built: Path) -> None:
    """It has what the wheel is made of, the licence and the readme; the version is one."""
    (sdist,) = built.glob("*.tar.gz")
    assert sdist.name == f"ctllm-{__version__}.tar.gz"
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in (
        "LICENSE",
        "README.md",
        "ctllm/cloud/page.html",
        "ctllm/cloud/openapi.json",
        "ctllm/py.typed",
        "twisted/plugins/ctllm_plugin.py",
    ):
        assert name in names
    assert not any("__pycache__" in name or name.startswith(".git/") for name in names)


def test_the_programs_are_installed(installed: Path, tmp_path: Path) -> None:
    """Twisted lists the plugin, and both commands tell what they do."""
    assert "ctllm" in run(installed / "twistd", "--help", cwd=tmp_path)
    assert "Places:" in run(installed / "twistd", "-n", "ctllm", "--help", cwd=tmp_path)
    assert "invite" in run(installed / "ctllm", "--help", cwd=tmp_path)
    assert __version__ in run(installed / "ctllm", "--version", cwd=tmp_path)
    said = run(installed / "python", "-m", "pip", "show", "--verbose", "ctllm", cwd=tmp_path)
    assert f"Version: {__version__}" in said
    assert "MIT" in said
    assert "--panel" in run(installed / "ctllm-tray", "--help", cwd=tmp_path)


def test_the_tray_says_what_it_lacks(installed: Path, tmp_path: Path) -> None:
    """Its libraries are an extra, which a server does without."""
    argv = [str(installed / "ctllm-tray"), f"--state-dir={tmp_path}"]
    env = {"DISPLAY": ":0", "CTLLM_CONFIG": "/dev/null"}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 1
    assert "pip install 'ctllm[tray]'" in done.stderr and "Traceback" not in done.stderr


@ensureDeferred
async def test_what_is_installed_runs(installed: Path, cluster: Cluster) -> None:
    """Everything in one program: health, page, description, and a proxy that serves the demo."""
    config = cluster.directory / "ctllm.toml"
    config.write_text(
        f'state_dir = "{cluster.state_dir("all")}"\n'
        f'[cloud]\nlisten = "127.0.0.1:{cluster.cloud_port}"\nmetrics_listen = "off"\n'
        '[desktop]\nlisten = "off"\nollama_host = "127.0.0.1:9"\n'
    )
    cluster.extra_environment["CTLLM_CONFIG"] = str(config)
    program = cluster.start_process(
        "installed", str(installed / "twistd"), "-n", "--pidfile=", "ctllm"
    )
    await wait_until(lambda: "OPENAI_API_KEY" in program.output, "the first screen")
    cluster.api_key = program.output.rpartition("OPENAI_API_KEY=")[2].split()[0]

    async def fetched(path: str, **more: Any) -> str:
        status, _, body = await cluster.request("GET", path, **more)
        assert status == 200
        return body.decode()

    assert json.loads(await fetched("/health"))["version"] == __version__
    assert "<title>" in await fetched("/", headers={"Accept": "text/html"})
    assert json.loads(await fetched("/ctllm/openapi.json"))["info"]["version"] == __version__
    assert "demo:echo" in await fetched("/api/tags", token=cluster.api_key)
    modules = (str(installed / "python"), "-c", "import ctllm; print(ctllm.__file__)")
    where = await deferToThread(run, *modules, cwd=cluster.directory)
    assert where.startswith(str(installed.parent))
