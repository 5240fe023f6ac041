"""The source distribution, and the wheel built from it, installed in a new environment."""

from __future__ import annotations

import json
import shutil
import subprocess
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


def run(*argv: str | Path, cwd: Path) -> str:
    """Run a program that must succeed; returns its standard output."""
    result = subprocess.run(
        [str(each) for each in argv], cwd=cwd, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def bin_dir(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The `bin` folder of a virtual environment with the wheel and its dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=True)
    (wheel,) = packages.glob("*.whl")
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(folder / "bin" / "python", *pip, wheel, cwd=folder)
    yield folder / "bin"
    shutil.rmtree(folder)


def test_the_source_distribution_is_complete(packages: Path) -> None:
    """It contains the data files, the licence and the readme, and no caches or history."""
    (sdist,) = packages.glob("*.tar.gz")
    assert sdist.name == f"ctllm-{__version__}.tar.gz"
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in (
        "LICENSE",
        "README.md",
        "ctllm/page/index.html",
        "ctllm/cloud/openapi.json",
        "ctllm/py.typed",
        "twisted/plugins/ctllm_plugin.py",
    ):
        assert name in names
    assert not any("__pycache__" in name or name.startswith(".git/") for name in names)


def test_all_programs_are_installed(bin_dir: Path, tmp_path: Path) -> None:
    """`twistd` lists the plugin, and each command has a help text."""
    assert "ctllm" in run(bin_dir / "twistd", "--help", cwd=tmp_path)
    assert "Roles:" in run(bin_dir / "twistd", "-n", "ctllm", "--help", cwd=tmp_path)
    assert "invite" in run(bin_dir / "ctllm", "--help", cwd=tmp_path)
    assert __version__ in run(bin_dir / "ctllm", "--version", cwd=tmp_path)
    package = run(bin_dir / "python", "-m", "pip", "show", "--verbose", "ctllm", cwd=tmp_path)
    assert f"Version: {__version__}" in package
    assert "MIT" in package
    assert "--panel" in run(bin_dir / "ctllm-tray", "--help", cwd=tmp_path)


def test_the_files_of_a_server_are_installed(bin_dir: Path, tmp_path: Path) -> None:
    """`ctllm server init` writes those of the source."""
    argv = [str(bin_dir / "ctllm"), "server", "init", "--domain=ctllm.test", "--timeout=1"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 2), done.stdout + done.stderr
    for name in ("compose.yaml", "ctllm.toml"):
        assert (tmp_path / name).read_bytes() == (ROOT / "containers" / name).read_bytes()
    assert "DOMAIN=ctllm.test\n" in (tmp_path / ".env").read_text()


def test_the_tray_names_the_extra_that_is_missing(bin_dir: Path, tmp_path: Path) -> None:
    """The tray's libraries are an extra, which is not installed by default."""
    argv = [str(bin_dir / "ctllm-tray"), f"--state-dir={tmp_path}"]
    env = {"DISPLAY": ":0", "CTLLM_CONFIG": "/dev/null"}
    result = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=60)
    assert result.returncode == 1
    assert "pip install 'ctllm[tray]'" in result.stderr and "Traceback" not in result.stderr


@ensureDeferred
async def test_the_installed_cloud_and_desktop_serve_the_demo_model(
    bin_dir: Path, cluster: Cluster
) -> None:
    """The role `all` responds with health, page, OpenAPI description and models."""
    config = cluster.directory / "ctllm.toml"
    config.write_text(
        f'state_dir = "{cluster.state_dir("all")}"\n'
        f'[cloud]\nlisten = "127.0.0.1:{cluster.cloud_port}"\nmetrics_listen = "off"\n'
        '[desktop]\nlisten = "off"\nollama_host = "127.0.0.1:9"\n'
    )
    cluster.extra_environment["CTLLM_CONFIG"] = str(config)
    program = cluster.start_process(
        "installed", str(bin_dir / "twistd"), "-n", "--pidfile=", "ctllm"
    )
    await wait_until(lambda: "OPENAI_API_KEY" in program.output, "the API key in the output")
    cluster.api_key = program.output.rpartition("OPENAI_API_KEY=")[2].split()[0]

    async def fetch(path: str, **options: Any) -> str:
        status, _, body = await cluster.request("GET", path, **options)
        assert status == 200
        return body.decode()

    assert json.loads(await fetch("/health"))["version"] == __version__
    assert "<title>" in await fetch("/", headers={"Accept": "text/html"})
    assert json.loads(await fetch("/ctllm/openapi.json"))["info"]["version"] == __version__
    assert "demo:echo" in await fetch("/api/tags", token=cluster.api_key)
    argv = (str(bin_dir / "python"), "-c", "import ctllm; print(ctllm.__file__)")
    path = await deferToThread(run, *argv, cwd=cluster.directory)
    assert path.startswith(str(bin_dir.parent))
