"""The Debian packages in a clean Debian: installed, run, upgraded, removed and purged."""

from __future__ import annotations

import configparser
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from ctllm import __version__
from package_builder.__main__ import SUMS
from package_builder.debian_packages import DESKTOP, SERVER, DebianPackage
from tests.e2e.cluster import ChildProcess, Cluster, wait_until
from tests.e2e.debian_system import DebianSystem
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
CONFIG = "/etc/ctllm/ctllm.toml"
STATE = "/var/lib/ctllm"


def package_file(folder: Path, package: DebianPackage, version: str = __version__) -> Path:
    return folder / f"{package.name}_{version}_amd64.deb"


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def debian(
    request: pytest.FixtureRequest, packages: Path, tmp_path_factory: pytest.TempPathFactory
) -> DebianSystem:
    """A Debian with both packages, and a user ann."""
    root = tmp_path_factory.mktemp(request.param) / "root"
    system = DebianSystem.bootstrap(root, request.param, "adduser", "python3")
    system.install(package_file(packages, SERVER), package_file(packages, DESKTOP))
    system.run("adduser", "--quiet", "--system", "--home=/var/lib/ann", "--group", "ann")
    return system


def exec_start(system: DebianSystem, unit: str) -> list[str]:
    """Return the command of an installed unit."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.read_string(system.file(unit).read_text())
    return shlex.split(parser["Service"]["ExecStart"])


def test_two_builds_have_the_same_bytes(packages: Path, tmp_path: Path) -> None:
    """Neither the time nor the place of a build, its user's mask or time zone are in a package."""
    argv = [sys.executable, "-m", "package_builder", f"--output={tmp_path}"]
    environment = {**os.environ, "TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "7"}
    previous = os.umask(0o077)
    try:
        subprocess.run(argv, cwd=ROOT, check=True, env=environment, stdout=subprocess.DEVNULL)
    finally:
        os.umask(previous)
    sums = (packages / SUMS).read_text()
    assert (tmp_path / SUMS).read_text() == sums
    names = {line.split()[1] for line in sums.splitlines()}
    assert names == {path.name for path in packages.iterdir()} - {SUMS}
    assert {Path(name).suffix for name in names} == {".whl", ".gz", ".deb", ".json", ".sh", ".ps1"}
    subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=packages, check=True)


@ensureDeferred
async def test_the_services_of_the_packages_relay_a_request(
    debian: DebianSystem, cluster: Cluster
) -> None:
    """The commands of both units run as their users, and the command `ctllm` controls both."""
    assert debian.run("ctllm", "--version") == f"ctllm {__version__}\n"
    fake_ollama, ollama_port = cluster.start_fake_ollama("llama3.2")

    async def start(name: str, unit: str, user: str, env: str, *options: str) -> ChildProcess:
        command = [*exec_start(debian, unit), *options]
        argv = debian.command(*command, user=user, env=[env])
        process = ChildProcess(name, argv, cluster.environment())
        cluster.processes.append(process)
        return process

    cloud = await start(
        "cloud", "/lib/systemd/system/ctllm-cloud.service", "ctllm", f"STATE_DIRECTORY={STATE}",
        f"--listen=127.0.0.1:{cluster.cloud_port}", "--metrics-listen=off",
    )  # fmt: skip
    await wait_until(lambda: cluster.is_cloud_healthy(cloud), f"the cloud:\n{cloud.output}")
    invite = ("ctllm", f"--state-dir={STATE}", "invite", "alice")
    link = (await deferToThread(debian.run, *invite)).strip()
    link = f"{cluster.url}/{link[link.index('#') :]}"  # it names the port of the configuration
    await deferToThread(debian.run, "ctllm", "login", "-", user="ann", stdin=link)
    endpoint_port = free_port()
    desktop = await start(
        "desktop", "/usr/lib/systemd/user/ctllm-desktop.service", "ann", "A=",
        f"--ollama-host=127.0.0.1:{ollama_port}", f"--desktop-listen=127.0.0.1:{endpoint_port}",
    )  # fmt: skip
    await wait_until(lambda: "Cloud connection: connected" in desktop.output, "the bridge")
    assert "● Connected" in await deferToThread(debian.run, "ctllm", "status", user="ann")
    link = (await deferToThread(debian.run, *invite)).strip()
    token = (await cluster.log_in(link))["token"]
    body = {"model": "llama3.2", "prompt": "hello", "stream": False}
    status, _, _ = await cluster.request("POST", "/api/generate", body, token)
    assert (status, len(fake_ollama.requests) > 0) == (200, True)
    assert "plugin cache" not in cloud.output  # which its user could not write


def test_each_package_has_what_its_system_expects(debian: DebianSystem) -> None:
    """Manual pages, desktop entry, icons, autostart, and a hook for another Python."""
    for path in (
        "/usr/share/man/man1/ctllm.1.gz",
        "/usr/share/man/man1/ctllm-tray.1.gz",
        "/usr/share/man/man5/ctllm.toml.5.gz",
        "/usr/share/man/man8/ctllm-cloud.8.gz",
        "/usr/share/applications/ctllm-tray.desktop",
        "/usr/share/icons/hicolor/scalable/apps/ctllm.svg",
        "/etc/xdg/autostart/ctllm-tray.desktop",
    ):
        debian.run("test", "-s", path)
    assert "--panel" in debian.run("ctllm-tray", "--help")
    enabled = "/etc/systemd/system/multi-user.target.wants"
    assert debian.exists(f"{enabled}/ctllm-cloud.service")
    assert not debian.exists(f"{enabled}/ctllm-firewall.service")
    assert debian.run("stat", "-c", "%U %a", STATE) == "ctllm 700\n"
    tag = debian.run("python3", "-c", "import sys; print(sys.implementation.cache_tag)").strip()
    for package in (DESKTOP, SERVER):
        count = debian.run("find", package.prefix, "-name", f"*.{tag}.pyc").count("\n")
        assert count > 500
    # What python3 runs when the system gets another version of it.
    debian.run(f"/usr/share/python3/runtime.d/{SERVER.name}.rtupdate", "rtupdate", "old", "new")
    assert debian.run("find", SERVER.prefix, "-name", f"*.{tag}.pyc").count("\n") == count


def test_packages_are_upgraded_removed_and_purged(
    debian: DebianSystem, packages: Path, tmp_path: Path
) -> None:
    """Configuration and state stay until a package is purged; then nothing is left."""
    debian.pretend_systemd()
    config = debian.file(CONFIG)
    config.write_text(config.read_text().replace("#max_proxies = 100", "max_proxies = 7"))
    debian.file(f"{STATE}/key").write_text("secret")
    newer = _next_version(package_file(packages, SERVER), tmp_path)
    debian.install(newer, answer="N\n")  # to dpkg's question whether to replace it
    assert debian.exists(f"{CONFIG}.dpkg-dist")
    assert "max_proxies = 7" in config.read_text()
    assert any("restart ctllm-cloud.service" in each for each in debian.systemctl_calls())
    assert debian.run("dpkg-query", "-W", "-f=${Version}", SERVER.name) == "99.0"

    debian.run("apt-get", "remove", "-y", SERVER.name)
    assert any("stop ctllm-cloud.service" in each for each in debian.systemctl_calls())
    assert not debian.exists(SERVER.prefix)
    assert config.exists() and debian.exists(f"{STATE}/key")
    assert debian.run("readlink", "-f", "/usr/bin/ctllm") == f"{DESKTOP.prefix}/bin/ctllm\n"

    debian.install(newer)
    assert "max_proxies = 7" in config.read_text()
    assert any("start ctllm-cloud.service" in each for each in debian.systemctl_calls())

    debian.run("apt-get", "purge", "-y", SERVER.name, DESKTOP.name)
    assert not debian.is_installed(SERVER.name)
    for path in (
        STATE, "/etc/ctllm", SERVER.prefix, DESKTOP.prefix, "/usr/bin/ctllm", "/usr/bin/ctllm-tray",
        "/usr/share/man/man1/ctllm.1.gz", "/etc/xdg/autostart/ctllm-tray.desktop",
        "/etc/systemd/system/multi-user.target.wants/ctllm-cloud.service",
    ):  # fmt: skip
        assert not debian.exists(path), path
    assert "ctllm" not in debian.file("/etc/passwd").read_text()


def _next_version(package: Path, folder: Path) -> Path:
    """Return the package as another version, with another default in its configuration."""
    content = folder / "content"
    subprocess.run(["dpkg-deb", "--raw-extract", package, content], check=True)
    control = content / "DEBIAN" / "control"
    control.write_text(control.read_text().replace(f"Version: {__version__}", "Version: 99.0"))
    config = content / CONFIG.lstrip("/")
    config.write_text(f"# Of the next version.\n{config.read_text()}")
    target = folder / f"{package.name.partition('_')[0]}_99.0_amd64.deb"
    build = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build"]
    subprocess.run([*build, str(content), str(target)], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(content)
    return target
