"""The paths from a client to the model server, through different relays.

Each function starts a relay, which stops with the exit stack. It raises Unavailable, with the
reason, if the relay cannot run on this machine.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from benchmarks.accounts import Accounts
from benchmarks.processes import (
    ControlledProgram,
    Program,
    Unavailable,
    descendants,
    find_program,
    is_healthy,
    is_listening,
)
from ctllm import __version__
from tests.e2e.nginx import Nginx
from tests.ports import free_port

BIN = Path(sys.executable).parent
#: Those of the paths with many users. The other paths have the first alone.
USERS = tuple(f"bench-{number}" for number in range(50))


@dataclass(frozen=True)
class RequestPath:
    """The address for clients, the headers to send for each user, and the processes of the relay.

    `parts` has process ids by name. The cost of the path is the CPU time of the parts in
    `counted`; that of the others is only shown.
    """

    address: str
    users: tuple[dict[str, str], ...] = ({},)
    parts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    counted: tuple[str, ...] = ()
    version: str = ""


PathFactory = Callable[[ExitStack, Path, int], RequestPath]


def direct(stack: ExitStack, folder: Path, server: int) -> RequestPath:
    """No relay."""
    return RequestPath(f"127.0.0.1:{server}")


def nginx(stack: ExitStack, folder: Path, server: int) -> RequestPath:
    """One hop of nginx's proxy_pass, with one worker."""
    program, port = find_program("nginx"), free_port()
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
    running.wait_until(lambda: is_listening(f"127.0.0.1:{port}"))
    parts = {"nginx": (running.pid, *descendants(running.pid))}
    version = first_line(program, "-v").rpartition("/")[2]
    return RequestPath(f"127.0.0.1:{port}", parts=parts, counted=("nginx",), version=version)


def ssh(stack: ExitStack, folder: Path, server: int) -> RequestPath:
    """`ssh -R`, with the CPU time of both ends."""
    sshd, ssh_client = find_program("sshd"), find_program("ssh")
    port, forwarded_port = free_port(), free_port()
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
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd of root requires it
    server_program = Program(stack, folder / "sshd.log", [sshd, "-D", "-e", "-f", str(config)])
    server_program.wait_until(lambda: is_listening(f"127.0.0.1:{port}"))
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes"]
    options += ["ExitOnForwardFailure=yes", "IdentitiesOnly=yes", "LogLevel=ERROR"]
    argv = [ssh_client, "-F", "/dev/null", "-N", "-T", "-i", str(folder / "user"), "-p", str(port)]
    argv += [word for option in options for word in ("-o", option)]
    argv += [
        "-R",
        f"127.0.0.1:{forwarded_port}:127.0.0.1:{server}",
        f"{getpass.getuser()}@127.0.0.1",
    ]
    client_program = Program(stack, folder / "ssh.log", argv)
    client_program.wait_until(lambda: is_listening(f"127.0.0.1:{forwarded_port}"))
    parts = {
        "sshd": (server_program.pid, *descendants(server_program.pid)),
        "ssh": (client_program.pid,),
    }
    version = first_line(ssh_client, "-V").split()[0].strip(",").removeprefix("OpenSSH_")
    return RequestPath(
        f"127.0.0.1:{forwarded_port}", parts=parts, counted=("sshd", "ssh"), version=version
    )


def configurable_http_proxy(stack: ExitStack, folder: Path, server: int) -> RequestPath:
    """One hop of JupyterHub's proxy, installed by npm if it is missing."""
    name = "configurable-http-proxy"
    program = shutil.which(name) or npm_install(name, folder)
    port = free_port()
    argv = [program, "--ip", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    argv += ["--api-ip", "127.0.0.1", "--api-port", str(free_port())]
    argv += ["--default-target", f"http://127.0.0.1:{server}"]
    running = Program(stack, folder / "chp.log", argv)
    running.wait_until(lambda: is_listening(f"127.0.0.1:{port}"))
    parts = {"node": (running.pid, *descendants(running.pid))}
    version = first_line(program, "--version")
    return RequestPath(f"127.0.0.1:{port}", parts=parts, counted=("node",), version=version)


def ctllm_with_gateway(stack: ExitStack, folder: Path, server: int) -> RequestPath:
    """All of ctllm: gateway, proxy, tunnel and desktop."""
    return start_ctllm(stack, folder, server)


def ctllm_tunnel_ends(stack: ExitStack, folder: Path, server: int) -> RequestPath:
    """The two ends of the tunnel alone: the client connects to the socket of the proxy."""
    path = start_ctllm(stack, folder, server)
    (socket_path,) = (folder / "cloud" / "run").rglob("proxy.sock")
    headers = {"Ctllm-Assertion": Accounts(folder / "cloud").assertion(USERS[0])}
    return replace(
        path, address=f"unix:{socket_path}", users=(headers,), counted=("proxy", "desktop")
    )


def ctllm_with_nginx(stack: ExitStack, folder: Path, server: int) -> RequestPath:
    """All of ctllm as a server has it: nginx, which asks the cloud, proxy, tunnel and desktop."""
    return start_ctllm_with_nginx(stack, folder, server, USERS[:1])


def ctllm_with_many_users(stack: ExitStack, folder: Path, server: int) -> RequestPath:
    """The same with a proxy and a desktop for each of fifty users."""
    return start_ctllm_with_nginx(stack, folder, server, USERS)


def start_ctllm_with_nginx(
    stack: ExitStack, folder: Path, server: int, users: Sequence[str]
) -> RequestPath:
    """Start nginx, a cloud and a desktop for each user; all is counted."""
    find_program("nginx")
    backend = free_port()
    front = Nginx(f"127.0.0.1:{backend}")
    stack.callback(front.stop)
    path = start_ctllm(stack, folder, server, users, front, backend)
    parts = {"nginx": (front.pid, *descendants(front.pid)), **path.parts}
    return replace(path, parts=parts, counted=tuple(parts))


def start_ctllm(
    stack: ExitStack,
    folder: Path,
    server: int,
    users: Sequence[str] = USERS[:1],
    front: Nginx | None = None,
    backend: int = 0,
) -> RequestPath:
    """Start a cloud, and a desktop for each user; returns the path by the gateway.

    With `front`, which is for a cloud at the port `backend`, clients and desktops connect to it.
    """
    backend = backend or free_port()
    cloud = start_cloud(stack, folder, backend, front)
    state = folder / "cloud"
    if front is not None:
        front.start(state)
    desktops = [start_desktop(stack, folder, server, user) for user in users]
    for desktop in desktops:
        desktop.wait_until(partial(is_connected, desktop), timeout=60)
    parts = {
        "front": (cloud.pid,),
        "proxy": descendants(cloud.pid),
        "desktop": tuple(desktop.pid for desktop in desktops),
    }
    headers = tuple(map(Accounts(state).authorization, users))
    port = front.port if front else backend
    return RequestPath(f"127.0.0.1:{port}", headers, parts, tuple(parts), __version__)


def start_cloud(
    stack: ExitStack,
    folder: Path,
    port: int,
    front: Nginx | None = None,
    options: Sequence[str] = (),
) -> Program:
    """Start a cloud at `port`, behind `front` if there is one, with further options."""
    argv = [f"--listen=127.0.0.1:{port}", "--metrics-listen=off", *options]
    if front is not None:
        argv += [f"--auth-request-listen=unix:{front.authorizer}:mode=660",
                 f"--public-url=http://127.0.0.1:{front.port}"]  # fmt: skip
    cloud = start_role(stack, folder, "cloud", *argv)
    cloud.wait_until(lambda: is_healthy(port), 60)
    return cloud


def docker_options(docker_url: str, max_proxies: int, firewall_socket: str = "") -> list[str]:
    """The options of a cloud whose proxies are containers; without a socket it asks no firewall."""
    return ["--spawner=docker", f"--docker-url={docker_url}", f"--max-proxies={max_proxies}",
            f"--firewall-socket={firewall_socket}"]  # fmt: skip


def write_docker_config(path: Path, docker_url: str, firewall_socket: str = "") -> None:
    """Write the configuration of `ctllm firewall` for such a cloud."""
    path.write_text(
        f'[cloud]\nspawner = "docker"\ndocker_url = "{docker_url}"\n'
        f'firewall_socket = "{firewall_socket}"\n'
    )


def start_desktop(stack: ExitStack, folder: Path, server: int, user: str) -> Program:
    """Log in a new desktop of `user` and start it; it is not connected yet."""
    invite = run([str(BIN / "ctllm"), f"--state-dir={folder / 'cloud'}", "invite", user])
    own = folder / user
    own.mkdir()
    run([str(BIN / "ctllm"), f"--state-dir={own / 'desktop'}", "login", invite])
    options = ["--ollama-host", f"127.0.0.1:{server}", "--desktop-listen", "off"]
    return start_role(stack, own, "desktop", *options)


def is_connected(desktop: Program) -> bool:
    """Whether a desktop is connected to its cloud."""
    return "Cloud connection: connected" in desktop.output


REQUEST_PATHS: dict[str, PathFactory] = {
    "direct": direct,
    "nginx": nginx,
    "ssh -R": ssh,
    "configurable-http-proxy": configurable_http_proxy,
    "ctllm, tunnel ends": ctllm_tunnel_ends,
    "ctllm with front": ctllm_with_gateway,
    "ctllm with nginx": ctllm_with_nginx,
    "ctllm with nginx, 50 users": ctllm_with_many_users,
}


def start_role(stack: ExitStack, folder: Path, name: str, *options: str) -> Program:
    """Start a role of `twistd ctllm` with a state folder of its own."""
    argv = [str(BIN / "twistd"), "-n", "--pidfile=", "ctllm", "--config", os.devnull, name]
    return Program(stack, folder / f"{name}.log", [*argv, f"--state-dir={folder / name}", *options])


def start_desktops(
    stack: ExitStack, folder: Path, name: str, ollama_port: int, url: str
) -> ControlledProgram:
    """Start a process for many desktops, whose state is in `folder`."""
    module = [sys.executable, "-m", "benchmarks.many_desktops"]
    argv = [*module, str(folder / "desktops"), str(ollama_port), url]
    return ControlledProgram(stack, folder / f"{name}.log", argv)


def npm_install(name: str, folder: Path) -> str:
    """Install a program into `folder` with npm; returns its path."""
    argv = [find_program("npm"), "install", "--silent", "--no-fund", "--no-audit", "--prefix"]
    try:
        subprocess.run([*argv, str(folder), name], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"npm could not install {name}") from error
    return str(folder / "node_modules" / ".bin" / name)


def run(argv: list[str]) -> str:
    """Run a command; returns its output."""
    env = {**os.environ, "CTLLM_CONFIG": os.devnull}
    result = subprocess.run(argv, capture_output=True, text=True, timeout=30, env=env)
    if result.returncode:
        raise Unavailable((result.stderr or result.stdout).strip()[-300:])
    return result.stdout.strip()


def first_line(*argv: str) -> str:
    """The first line of a program's output."""
    result = subprocess.run(argv, capture_output=True, text=True, timeout=10)
    return (result.stdout + result.stderr).strip().splitlines()[0]


def start_model_server(stack: ExitStack, folder: Path) -> tuple[Program, int]:
    """Start the fake Ollama; returns its process and its port."""
    argv = [sys.executable, "-m", "tests.fake_ollama", "--port", "0", "--model", "m", "--control"]
    program = Program(stack, folder / "fake_ollama.log", argv)
    program.wait_until(lambda: program.output.endswith("}\n"))
    return program, json.loads(program.output)["port"]
