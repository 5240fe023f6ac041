"""Roles as users start them: the start screen, daemons, configuration errors and help."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

import ctllm
import twisted
from ctllm.client_snippets import PLACEHOLDER_KEY
from ctllm.config import KEYS
from tests.e2e.cluster import BIN, Cluster, wait_until
from tests.e2e.process_info import child_pids, is_running, kill, linux_only
from tests.ports import free_port, listen, port_of


def first_group(pattern: str, text: str, flags: int = 0) -> str:
    """Return the first group of a pattern that must occur."""
    match = re.search(pattern, text, flags)
    assert match is not None, text
    return match[1]


NOBODY = 65534
#: Lets any Python of this version import the modules of this one.
MODULES = {
    "PYTHONPATH": os.pathsep.join(
        str(Path(str(each.__file__)).parents[1]) for each in (ctllm, twisted)
    )
}
BY_OLLAMA = "import ollama; print(ollama.generate(model='demo:echo', prompt='by ollama').response)"
BY_OPENAI = (
    "import openai; print(openai.OpenAI().chat.completions.create(model='demo:echo', "
    "messages=[{'role': 'user', 'content': 'by openai'}]).choices[0].message.content)"
)


async def run_to_end(
    cluster: Cluster, *argv: str, env: dict[str, str] | None = None, user: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a process of the environment to its end; raises TimeoutExpired after a minute."""
    return await deferToThread(
        subprocess.run,
        [str(BIN / argv[0]), *argv[1:]],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**cluster.environment(), **(env or {})},
        cwd=cluster.directory,
        timeout=60,
        user=user,
    )


def assert_refused(completed: subprocess.CompletedProcess[str], *words: str) -> None:
    """Assert that a start failed with a message that has the words, and without a traceback."""
    output = completed.stdout + completed.stderr
    assert completed.returncode not in (0, None), output
    assert "Traceback" not in output
    for word in words:
        assert word in output


# -- all roles in one process


async def run_in_shell(cluster: Cluster, lines: str) -> str:
    """Run lines in a shell; return their output."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    env = {**cluster.environment(), "PATH": path}
    completed = await deferToThread(
        subprocess.run,
        ["sh", "-c", lines],
        capture_output=True,
        text=True,
        env=env,
        timeout=60,
    )
    assert completed.returncode == 0, completed.stderr
    return str(completed.stdout)


async def start_all_roles(cluster: Cluster, ollama: int) -> Any:
    """Run `twistd -n ctllm` with free ports; return it once it has printed the start screen."""
    config = cluster.directory / "ctllm.toml"
    config.write_text(
        f'state_dir = "{cluster.state_dir("all")}"\n'
        f'[cloud]\nlisten = "127.0.0.1:{cluster.cloud_port}"\nmetrics_listen = "off"\n'
        f'[desktop]\nlisten = "127.0.0.1:{free_port()}"\nollama_check_interval_seconds = 1\n'
    )
    env = {"CTLLM_CONFIG": str(config), "OLLAMA_HOST": f"127.0.0.1:{ollama}"}
    process = cluster.start_process(
        "all", "twistd", "-n", "--pidfile=", "ctllm", env={**cluster.environment(), **env}
    )
    await wait_until(
        lambda: "OPENAI_API_KEY" in process.output or process.exit_code is not None,
        "the start screen",
    )
    return process


@ensureDeferred
async def test_the_lines_of_the_start_screen_work_as_printed(cluster: Cluster) -> None:
    """The curl call, both clients' variables and the login link; each is printed once."""
    ollama = free_port()
    process = await start_all_roles(cluster, ollama)
    screen = process.output
    curl = first_group(r"^  # curl\n((?:  .*\n)+)", screen, re.M)
    lines = (await run_in_shell(cluster, curl)).splitlines()
    assert "".join(json.loads(line)["response"] for line in lines).endswith("Say hello.")
    for variable, script in (("OLLAMA_HOST", BY_OLLAMA), ("OPENAI_BASE_URL", BY_OPENAI)):
        export = first_group(rf"^  (export {variable}=.*)$", screen, re.M)
        output = await run_in_shell(cluster, f'{export}\npython -c "{script}"')
        assert "demo, not a model" in output
        assert output.endswith(("by ollama\n", "by openai\n"))
    link = first_group(r"http://\S+/#invite=(\S+)", screen)
    status, _, _ = await cluster.request(
        "POST", "/ctllm/session", {"invite": link, "client": "browser"}
    )
    assert status == 201
    for text in ("#invite=", "curl ", "OLLAMA_HOST=", "OPENAI_BASE_URL="):
        assert process.output.count(text) == 1


@ensureDeferred
async def test_the_demo_model_uses_the_time_of_day(cluster: Cluster) -> None:
    """In the Date header, in NDJSON and in OpenAI's numbers."""
    process = await start_all_roles(cluster, free_port())
    cluster.api_key = first_group(r"OLLAMA_API_KEY=(\S+)", process.output)
    request = {"model": "demo:echo", "stream": False}
    request |= {"prompt": "x", "messages": [{"role": "user", "content": "x"}], "input": "x"}
    times = []
    for path in ("/api/generate", "/v1/chat/completions", "/v1/responses"):
        status, headers, body = await cluster.request("POST", path, request, cluster.api_key)
        assert status == 200, body
        times.append(parsedate_to_datetime(headers["date"]).timestamp())
        response = json.loads(body)
        created = response.get("created_at", response.get("created"))
        iso = isinstance(created, str)
        times.append(
            datetime.fromisoformat(created[:19] + "+00:00").timestamp() if iso else created
        )
        if "total_duration" in response:
            assert 0 <= response["total_duration"] < 300e9
    assert all(abs(each - time.time()) < 300 for each in times), times


@ensureDeferred
async def test_the_demo_model_is_replaced_once_ollama_is_found(cluster: Cluster) -> None:
    """It is marked as a demo everywhere, and does not return when Ollama stops."""
    port = free_port()
    process = await start_all_roles(cluster, port)
    assert f"not found at http://127.0.0.1:{port}" in process.output
    assert "the demo model demo:echo responds" in process.output
    cluster.api_key = first_group(r"OLLAMA_API_KEY=(\S+)", process.output)
    invite = first_group(r"#invite=(\S+)", process.output)
    _, _, body = await cluster.request(
        "POST", "/ctllm/session", {"invite": invite, "client": "browser"}
    )
    token = json.loads(body)["token"]

    async def has_ollama_state(state: str) -> bool:
        return [each["ollama"] for each in await cluster.list_desktops(token)] == [state]

    async def generate(model: str) -> tuple[int, dict[str, str], bytes]:
        request = {"model": model, "prompt": "hi", "stream": False}
        return await cluster.request("POST", "/api/generate", request, cluster.api_key)

    assert await has_ollama_state("demo")
    _, _, tags = await cluster.request("GET", "/api/tags", token=cluster.api_key)
    (model,) = json.loads(tags)["models"]
    assert (model["name"], model["details"]["family"]) == ("demo:echo", "demo")

    argv = ("-m", "tests.fake_ollama", f"--port={port}", "--model=llama3.2", "--word-interval=0")
    ollama = cluster.start_process("ollama", "python", *argv)
    await wait_until(lambda: has_ollama_state("up"), "Ollama to be found", 10)
    assert (await generate("llama3.2"))[0] == 200
    assert (await generate("demo:echo"))[0] == 404

    await ollama.stop(signal.SIGKILL)
    status, headers, body = await generate("demo:echo")
    assert (status, headers["retry-after"]) == (503, "5")
    assert str(port) in json.loads(body)["error"]
    await wait_until(lambda: has_ollama_state("down"), "Ollama to be noticed as down", 10)
    assert (await generate("demo:echo"))[0] == 503


@ensureDeferred
async def test_a_restart_keeps_the_login_and_the_api_key(cluster: Cluster) -> None:
    """The login link is a new one. The key works, and is not shown again: it is not stored."""
    first = await start_all_roles(cluster, free_port())
    await first.stop()
    assert "Traceback" not in first.output
    second = await start_all_roles(cluster, free_port())
    key, invite = r"OLLAMA_API_KEY=(\S+)", r"#invite=(\S+)"
    cluster.api_key = first_group(key, first.output)
    assert cluster.api_key.startswith("ctllm-k-")
    assert first_group(key, second.output) == PLACEHOLDER_KEY
    await cluster.wait_for_api_key()
    assert re.findall(invite, first.output) != re.findall(invite, second.output)


@ensureDeferred
async def test_cloud_and_desktop_in_two_processes_list_the_same_models(cluster: Cluster) -> None:
    """At the cloud and at the desktop's endpoint."""
    await cluster.start_cloud()
    _, ollama = cluster.start_fake_ollama("llama3.2")
    endpoint = free_port()
    await cluster.start_desktop("alice", ollama, f"--desktop-listen=127.0.0.1:{endpoint}")
    token = await cluster.create_token("alice")
    from_cloud = await cluster.request("GET", "/api/tags", token=token)
    from_desktop = await cluster.request("GET", "/api/tags", port=endpoint)
    assert from_cloud[0] == from_desktop[0] == 200
    assert from_cloud[2] == from_desktop[2]
    assert b"llama3.2" in from_desktop[2]


# -- daemons


@pytest.fixture
def daemon_dir() -> Iterator[Path]:
    """A directory that other users may enter, with a short path; kills the daemons in it."""
    with tempfile.TemporaryDirectory(prefix="ctllm-test-") as name:
        os.chmod(name, 0o711)
        yield Path(name)
        for file in Path(name).rglob("pid"):
            kill(int(file.read_text()), signal.SIGKILL)


async def start_daemon(
    cluster: Cluster, directory: Path, *options: str, twistd: tuple[str, ...] = ("twistd",)
) -> int:
    """Start the cloud as a daemon; return its process id."""
    files = [f"--pidfile={directory / 'pid'}", f"--logfile={directory / 'log'}"]
    role_options = [
        f"--state-dir={directory / 'state'}",
        f"--listen=127.0.0.1:{cluster.cloud_port}",
    ]
    completed = await run_to_end(
        cluster,
        *twistd,
        *options,
        *files,
        "ctllm",
        "cloud",
        *role_options,
        "--metrics-listen=off",
        env=MODULES,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert completed.stdout == completed.stderr == ""
    return int((directory / "pid").read_text())


async def find_public_python(cluster: Cluster) -> str:
    """Return a Python of this version that any user can run with our modules; else skip."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        with suppress(OSError):
            test = await run_to_end(
                cluster, python, "-c", "import ctllm.tap", env=MODULES, user=NOBODY
            )
            if test.returncode == 0:
                return python
    pytest.skip("Only root can run the installed Pythons.")


async def use_and_stop(cluster: Cluster, directory: Path, pid: int) -> list[int]:
    """Log in, start a proxy and stop the daemon; return the user ids of its processes."""
    invite = await cluster.run_ctllm_in(directory / "state", "invite", "alice")
    token = (await cluster.log_in(invite))["token"]
    status, _, _ = await cluster.request("PUT", "/ctllm/proxy", token=token)
    assert status == 200
    pids = [pid, *child_pids(pid)]
    assert len(pids) == 2
    users = [Path(f"/proc/{each}").stat().st_uid for each in pids]
    kill(pid, signal.SIGTERM)
    await wait_until(lambda: not any(map(is_running, pids)), "the daemon and its proxy to end")
    assert not list((directory / "state" / "run").iterdir())
    return users


@linux_only
@ensureDeferred
async def test_a_daemon_logs_to_its_file_and_stops_on_sigterm(
    cluster: Cluster, daemon_dir: Path
) -> None:
    """It prints nothing, and leaves neither processes nor files of its run."""
    pid = await start_daemon(cluster, daemon_dir)
    assert is_running(pid)
    await use_and_stop(cluster, daemon_dir, pid)
    log = (daemon_dir / "log").read_text()
    assert "starting up" in log
    assert "Server Shut Down." in log
    assert "Traceback" not in log
    assert not (daemon_dir / "pid").exists()


@linux_only
@ensureDeferred
async def test_a_daemon_started_by_root_changes_its_user(
    cluster: Cluster, daemon_dir: Path
) -> None:
    """With --uid and --gid; its proxies run as that user, too."""
    if os.geteuid() != 0:
        pytest.skip("Only root can change its user.")
    python = await find_public_python(cluster)
    state = daemon_dir / "state"
    state.mkdir(mode=0o700)
    os.chown(state, NOBODY, NOBODY)
    twistd = (python, "-c", "from twisted.scripts.twistd import run; run()")
    user = (f"--uid={NOBODY}", f"--gid={NOBODY}")
    pid = await start_daemon(cluster, daemon_dir, *user, twistd=twistd)
    assert await use_and_stop(cluster, daemon_dir, pid) == [NOBODY, NOBODY]
    assert {path.stat().st_uid for path in state.rglob("*")} == {NOBODY}
    assert "Traceback" not in (daemon_dir / "log").read_text()


# -- starts that fail


@pytest.fixture
def used_port(cluster: Cluster) -> int:
    """A port on which another process listens."""
    from twisted.internet.protocol import Factory

    port = listen(reactor, Factory())
    cluster.ports.append(port)
    return port_of(port)


@pytest.mark.parametrize(
    ("role", "option"),
    [("cloud", "listen"), ("cloud", "metrics-listen"), ("desktop", "desktop-listen")],
)
@ensureDeferred
async def test_a_used_port_ends_the_start(
    cluster: Cluster, used_port: int, role: str, option: str
) -> None:
    """The message names the address and the option."""
    others = ["--listen=127.0.0.1:0", "--metrics-listen=off"] if role == "cloud" else []
    state = f"--state-dir={cluster.state_dir('state')}"
    used = f"--{option}=127.0.0.1:{used_port}"
    completed = await run_to_end(
        cluster, "twistd", "-n", "--pidfile=", "ctllm", role, state, *others, used
    )
    assert_refused(completed, str(used_port), f"--{option}")


@ensureDeferred
async def test_a_daemon_that_cannot_start_reports_the_error(
    cluster: Cluster, used_port: int
) -> None:
    """The starting process prints the message, the log has it, and no pid file remains."""
    pid, log = cluster.directory / "pid", cluster.directory / "log"
    options = [
        f"--state-dir={cluster.state_dir('state')}",
        f"--listen=127.0.0.1:{used_port}",
        "--metrics-listen=off",
    ]
    completed = await run_to_end(
        cluster, "twistd", f"--pidfile={pid}", f"--logfile={log}", "ctllm", "cloud", *options
    )
    assert_refused(completed, str(used_port), "in use")
    await wait_until(lambda: "--listen" in log.read_text(), "the daemon to log the error")
    assert "Traceback" not in log.read_text()
    assert not pid.exists()


@pytest.mark.parametrize(
    ("role", "line", "words"),
    [
        ("cloud", "[cloud]\nlissen = 1", ("line 2", "cloud.lissen", 'did you mean "listen"?')),
        (
            "desktop",
            "[cloud]\naccess_token_ttl_seconds = 5",
            ("line 2", "access_token_ttl_seconds", "at least 60"),
        ),
        ("all", "[desktop]\ndemo = true", ("line 2", "desktop.demo", '"auto", "off" or "on"')),
        ("cloud", "listen = ':80'", ("line 1", "listen", "under [cloud]")),
    ],
)
@ensureDeferred
async def test_an_error_in_the_configuration_file_ends_the_start(
    cluster: Cluster, role: str, line: str, words: tuple[str, ...]
) -> None:
    """The message names the file, the key and valid values."""
    file = cluster.directory / "ctllm.toml"
    file.write_text(line)
    completed = await run_to_end(
        cluster, "twistd", "-n", "--pidfile=", "ctllm", role, f"--config={file}"
    )
    assert_refused(completed, str(file), *words)


@pytest.mark.parametrize("role", ["cloud", "desktop"])
@ensureDeferred
async def test_an_unusable_state_directory_ends_the_start(cluster: Cluster, role: str) -> None:
    """The message names the directory. Root has a file in its path, others a wrong mode."""
    (cluster.directory / "file").write_text("")
    state = cluster.directory / "file" / "state"
    ports = (
        ["--listen=127.0.0.1:0", "--metrics-listen=off"]
        if role == "cloud"
        else ["--desktop-listen=off"]
    )
    start = ("twistd", "-n", "--pidfile=", "ctllm", role)
    assert_refused(await run_to_end(cluster, *start, *ports, f"--state-dir={state}"), str(state))
    if os.geteuid() != 0:
        locked = cluster.directory / "locked"
        locked.mkdir(mode=0o500)
        assert_refused(
            await run_to_end(cluster, *start, *ports, f"--state-dir={locked}"), str(locked)
        )


@ensureDeferred
async def test_the_command_reports_errors_on_one_line(cluster: Cluster) -> None:
    """On standard error, with status 1."""
    state = f"--state-dir={cluster.state_dir('nowhere')}"
    for arguments, words in [
        (["invite", "alice"], "no cloud has run"),
        (["login", "http://example.org/"], "--insecure-http"),
        (["login"], "ctllm login -"),
        (["keys", "add", "app"], "ctllm login"),
        (["connect"], "ctllm login"),
        (["logout"], "not logged in"),
        (["invite"], "NAME"),
        (["dance"], "dance"),
        ([], "--help"),
    ]:
        completed = await run_to_end(cluster, "ctllm", state, *arguments)
        assert (completed.returncode, completed.stdout) == (1, ""), arguments
        assert completed.stderr.startswith("ctllm: ") and completed.stderr.count("\n") == 1, (
            completed.stderr
        )
        assert words in completed.stderr


# -- help


ROLES = {
    (): ("", "Roles:", "twistd -n ctllm "),
    ("all",): ("cloud desktop proxy", "--demo", "twistd -n ctllm all"),
    ("cloud",): ("cloud proxy", "--max-proxies", "twistd -n ctllm cloud"),
    ("desktop",): ("desktop", "--ollama-host", "twistd -n ctllm desktop"),
    ("proxy",): ("proxy", "--socket", "twistd -n ctllm proxy"),
}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role[0] if role else "top")
@ensureDeferred
async def test_the_help_of_a_role_lists_its_options_and_examples(
    cluster: Cluster, role: tuple[str, ...]
) -> None:
    """Each key of the role is an option."""
    sections, *words = ROLES[role]
    completed = await run_to_end(cluster, "twistd", "ctllm", *role, "--help")
    assert (completed.returncode, completed.stderr) == (0, "")
    keys = [key for key in KEYS.values() if key.section in ["", *sections.split()]]
    for option in [f"--{key.option}=" for key in keys if role != ("all",) or key.section]:
        assert option in completed.stdout
    for word in ("Examples:", *words):
        assert word in completed.stdout


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", ("invite", "login", "logout", "keys", "connect", "--state-dir", "--config")),
        ("invite", ("NAME", "once", "ctllm login")),
        ("login", ("CLOUD", "ctllm invite NAME")),
        ("logout", ("usage: ctllm", "three minutes")),
        ("connect", ("usage: ctllm", "API key")),
        ("keys", ("add", "rm", "ls")),
        ("keys add", ("NAME", "print it")),
        ("keys rm", ("NAME", "within seconds")),
        ("keys ls", ("usage: ctllm", "names")),
    ],
)
@ensureDeferred
async def test_the_help_of_each_command_describes_it(
    cluster: Cluster, command: str, words: tuple[str, ...]
) -> None:
    completed = await run_to_end(cluster, "ctllm", *command.split(), "--help")
    assert (completed.returncode, completed.stderr) == (0, "")
    text = re.sub(r"\s+", " ", completed.stdout)
    for word in words:
        assert word in text


# -- logs


@ensureDeferred
async def test_json_logs_have_one_object_a_line(cluster: Cluster) -> None:
    """Each has time, level and message; also the proxies' lines."""
    process = await cluster.start_cloud("--log-format=json")
    await cluster.request("PUT", "/ctllm/proxy", token=await cluster.create_token("alice"))
    await process.stop()
    lines = [json.loads(line) for line in process.output.splitlines()]
    assert all({"time", "level", "message"} <= set(line) for line in lines)
    assert any(line["message"].startswith("proxy ") for line in lines)
