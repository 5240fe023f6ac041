"""The ways from a client to the model server: each is started, described, and ended with its stack.

A way that cannot be had on this machine raises Absent, with the reason.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import Absent, Program, children, listens
from ctllm import __version__
from ctllm.cloud.identity import (
    MANAGE,
    SERVE,
    USE,
    AccessTokenIssuer,
    AssertionSigner,
    PrivateDirectory,
    User,
    load_signing_keys,
    proxy_id,
)
from tests.ports import free_port

BIN = Path(sys.executable).parent
USER = User("ctllm", "bench", "bench")


@dataclass(frozen=True)
class Way:
    """Where clients go, what they send along, and whose processes carry it.

    `counted` are the parts whose CPU is this way's cost; the others are shown beside.
    """

    address: str
    headers: dict[str, str] = field(default_factory=dict)
    parts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    counted: tuple[str, ...] = ()
    version: str = ""


Maker = Callable[[ExitStack, Path, int], Way]


def direct(stack: ExitStack, folder: Path, server: int) -> Way:
    """Nothing in between."""
    return Way(f"127.0.0.1:{server}")


def nginx(stack: ExitStack, folder: Path, server: int) -> Way:
    """One hop of nginx's proxy_pass, one worker."""
    program, port = found("nginx"), free_port()
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; worker_processes 1; worker_rlimit_nofile 8192; pid {folder}/nginx.pid;\n"
        "error_log stderr crit; events { worker_connections 8192; }\n"
        f"http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;\n"
        f"fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
        f"server {{ listen 127.0.0.1:{port} backlog=4096; location / {{\n"
        f"proxy_pass http://127.0.0.1:{server}; proxy_http_version 1.1; proxy_buffering off;\n"
        "} } }\n"
    )
    running = Program(stack, folder / "nginx.log", [program, "-p", str(folder), "-c", str(config)])
    running.until(lambda: listens(f"127.0.0.1:{port}"))
    parts = {"nginx": (running.pid, *children(running.pid))}
    version = first_line(program, "-v").rpartition("/")[2]
    return Way(f"127.0.0.1:{port}", parts=parts, counted=("nginx",), version=version)


def ssh(stack: ExitStack, folder: Path, server: int) -> Way:
    """`ssh -R`: what people use today; both ends."""
    sshd, client, port, here = found("sshd"), found("ssh"), free_port(), free_port()
    for name in ("host", "user"):
        key = str(folder / name)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    config = folder / "sshd.conf"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nPermitRootLogin yes\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\n"
    )
    if os.geteuid() == 0:
        with suppress(OSError):
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd of root insists on it
    far = Program(stack, folder / "sshd.log", [sshd, "-D", "-e", "-f", str(config)])
    far.until(lambda: listens(f"127.0.0.1:{port}"))
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes"]
    options += ["ExitOnForwardFailure=yes", "IdentitiesOnly=yes", "LogLevel=ERROR"]
    argv = [client, "-F", "/dev/null", "-N", "-T", "-i", str(folder / "user"), "-p", str(port)]
    argv += [word for option in options for word in ("-o", option)]
    argv += ["-R", f"127.0.0.1:{here}:127.0.0.1:{server}", f"{getpass.getuser()}@127.0.0.1"]
    near = Program(stack, folder / "ssh.log", argv)
    near.until(lambda: listens(f"127.0.0.1:{here}"))
    parts = {"sshd": (far.pid, *children(far.pid)), "ssh": (near.pid,)}
    version = first_line(client, "-V").split()[0].strip(",").removeprefix("OpenSSH_")
    return Way(f"127.0.0.1:{here}", parts=parts, counted=("sshd", "ssh"), version=version)


def configurable_http_proxy(stack: ExitStack, folder: Path, server: int) -> Way:
    """One hop of JupyterHub's proxy, from npm unless it is installed."""
    name = "configurable-http-proxy"
    program = shutil.which(name) or installed(name, folder)
    port = free_port()
    argv = [program, "--ip", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    argv += ["--api-ip", "127.0.0.1", "--api-port", str(free_port())]
    argv += ["--default-target", f"http://127.0.0.1:{server}"]
    running = Program(stack, folder / "chp.log", argv)
    running.until(lambda: listens(f"127.0.0.1:{port}"))
    parts = {"node": (running.pid, *children(running.pid))}
    version = first_line(program, "--version")
    return Way(f"127.0.0.1:{port}", parts=parts, counted=("node",), version=version)


def ctllm_front(stack: ExitStack, folder: Path, server: int) -> Way:
    """All of ctllm: client, front, proxy, tunnel, desktop."""
    return ctllm(stack, folder, server)[0]


def ctllm_ends(stack: ExitStack, folder: Path, server: int) -> Way:
    """The tunnel's two ends alone: the client talks to the proxy's own socket."""
    return ctllm(stack, folder, server)[1]


def ctllm(stack: ExitStack, folder: Path, server: int) -> tuple[Way, Way]:
    """Start a cloud and a desktop; give the way through the front, and the one without it."""
    port, state = free_port(), folder / "cloud"
    at = ["--listen", f"127.0.0.1:{port}", "--metrics-listen", "off"]
    cloud = place(stack, folder, "cloud", *at)
    cloud.until(lambda: listens(f"127.0.0.1:{port}"))
    link = run([str(BIN / "ctllm"), f"--state-dir={state}", "invite", USER.name])
    run([str(BIN / "ctllm"), f"--state-dir={folder / 'desktop'}", "login", link])
    beside = ["--ollama-host", f"127.0.0.1:{server}", "--desktop-listen", "off"]
    desktop = place(stack, folder, "desktop", *beside)
    desktop.until(lambda: "Cloud connection: connected" in desktop.said)
    parts = {
        "front": (cloud.pid,),
        "proxy": children(cloud.pid),
        "desktop": (desktop.pid,),
    }
    keys = load_signing_keys(PrivateDirectory(state / "cloud"))
    token = AccessTokenIssuer(keys.signing_key, time.time, 3600).issue(
        USER, frozenset((USE, MANAGE, SERVE))
    )
    whole = Way(
        f"127.0.0.1:{port}", {"Authorization": f"Bearer {token}"}, parts, tuple(parts), __version__
    )
    proxy = proxy_id(keys.instance_secret, USER.id)
    vouched = {
        "Ctllm-Assertion": AssertionSigner(keys.signing_key, time.time).sign(
            proxy, frozenset({USE})
        )
    }
    (inside,) = (state / "run").rglob("proxy.sock")
    return whole, Way(f"unix:{inside}", vouched, parts, ("proxy", "desktop"), __version__)


WAYS: dict[str, Maker] = {
    "direct": direct,
    "nginx": nginx,
    "ssh -R": ssh,
    "configurable-http-proxy": configurable_http_proxy,
    "ctllm, tunnel ends": ctllm_ends,
    "ctllm with front": ctllm_front,
}


def place(stack: ExitStack, folder: Path, name: str, *options: str) -> Program:
    """Start a place of `twistd ctllm` with a state folder of its own."""
    argv = [str(BIN / "twistd"), "-n", "--pidfile=", "ctllm", "--config", os.devnull, name]
    return Program(stack, folder / f"{name}.log", [*argv, f"--state-dir={folder / name}", *options])


def found(name: str) -> str:
    """Where a program is, also where only root looks."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None:
        raise Absent(f"{name} is not installed")
    return path


def installed(name: str, folder: Path) -> str:
    """Have npm put a program into `folder`."""
    argv = [found("npm"), "install", "--silent", "--no-fund", "--no-audit", "--prefix"]
    try:
        subprocess.run([*argv, str(folder), name], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise Absent(f"npm could not install {name}") from error
    return str(folder / "node_modules" / ".bin" / name)


def run(argv: list[str]) -> str:
    """Run a command to its end; gives what it printed."""
    env = {**os.environ, "CTLLM_CONFIG": os.devnull}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, env=env)
    if done.returncode:
        raise Absent((done.stderr or done.stdout).strip()[-300:])
    return done.stdout.strip()


def first_line(*argv: str) -> str:
    """The first line that a program prints about itself."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=10)
    return (done.stdout + done.stderr).strip().splitlines()[0]


def server(stack: ExitStack, folder: Path) -> tuple[Program, int]:
    """Start the fake Ollama for Ollama; its process and its port."""
    argv = [sys.executable, "-m", "tests.fake_ollama", "--port", "0", "--model", "m", "--control"]
    program = Program(stack, folder / "fake_ollama.log", argv)
    program.until(lambda: program.said.endswith("}\n"))
    return program, json.loads(program.said)["port"]
