"""The places as people start them: the first screen, a daemon, mistakes, and the help."""

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
from ctllm.config import KEYS
from tests.e2e.cluster import BIN, Cluster, wait_until
from tests.e2e.process_info import child_pids, is_running, kill, linux_only
from tests.ports import free_port, listen, port_of


def found(pattern: str, text: str, flags: int = 0) -> str:
    """Return the first group of a pattern that must occur."""
    match = re.search(pattern, text, flags)
    assert match is not None, text
    return match[1]


NOBODY = 65534
#: Lets any Python of this version find what this one has installed.
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


async def ran(
    cluster: Cluster, *argv: str, env: dict[str, str] | None = None, user: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment to its end, with time enough on a busy machine."""
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


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """A start that failed with a sentence that has these words, and without a traceback."""
    said = done.stdout + done.stderr
    assert done.returncode not in (0, None), said
    assert "Traceback" not in said
    for word in words:
        assert word in said


# -- everything in one program


async def pasted(cluster: Cluster, lines: str) -> str:
    """What a shell prints for lines that somebody pastes."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    env = {**cluster.environment(), "PATH": path}
    done = await deferToThread(
        subprocess.run,
        ["sh", "-c", lines],
        capture_output=True,
        text=True,
        env=env,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


async def all_in_one(cluster: Cluster, ollama: int) -> Any:
    """`twistd -n ctllm` as a newcomer types it, only with ports that are free; its screen."""
    config = cluster.directory / "ctllm.toml"
    config.write_text(
        f'state_dir = "{cluster.state_dir("all")}"\n'
        f'[cloud]\nlisten = "127.0.0.1:{cluster.cloud_port}"\nmetrics_listen = "off"\n'
        f'[desktop]\nlisten = "127.0.0.1:{free_port()}"\nollama_check_interval_seconds = 1\n'
    )
    env = {"CTLLM_CONFIG": str(config), "OLLAMA_HOST": f"127.0.0.1:{ollama}"}
    program = cluster.start_process(
        "all", "twistd", "-n", "--pidfile=", "ctllm", env={**cluster.environment(), **env}
    )
    await wait_until(
        lambda: "OPENAI_API_KEY" in program.output or program.exit_code is not None,
        "the first screen",
    )
    return program


@ensureDeferred
async def test_the_lines_of_the_first_screen_work_as_printed(cluster: Cluster) -> None:
    """The curl call, both clients' environments and the sign-in link; each is printed once."""
    ollama = free_port()
    program = await all_in_one(cluster, ollama)
    screen = program.output
    curl = found(r"^  # curl\n((?:  .*\n)+)", screen, re.M)
    lines = (await pasted(cluster, curl)).splitlines()
    assert "".join(json.loads(line)["response"] for line in lines).endswith("Say hello.")
    for variable, script in (("OLLAMA_HOST", BY_OLLAMA), ("OPENAI_BASE_URL", BY_OPENAI)):
        export = found(rf"^  (export {variable}=.*)$", screen, re.M)
        answer = await pasted(cluster, f'{export}\npython -c "{script}"')
        assert "demo, not a model" in answer
        assert answer.endswith(("by ollama\n", "by openai\n"))
    link = found(r"http://\S+/#invite=(\S+)", screen)
    status, _, _ = await cluster.request(
        "POST", "/ctllm/session", {"invite": link, "client": "browser"}
    )
    assert status == 201
    for once in ("#invite=", "curl ", "OLLAMA_HOST=", "OPENAI_BASE_URL="):
        assert program.output.count(once) == 1


@ensureDeferred
async def test_the_demo_knows_the_date(cluster: Cluster) -> None:
    """What its answers tell of the time is the time of day: header, NDJSON and OpenAI's number."""
    program = await all_in_one(cluster, free_port())
    cluster.api_key = found(r"OLLAMA_API_KEY=(\S+)", program.output)
    asked = {"model": "demo:echo", "stream": False}
    asked |= {"prompt": "x", "messages": [{"role": "user", "content": "x"}], "input": "x"}
    told = []
    for path in ("/api/generate", "/v1/chat/completions", "/v1/responses"):
        status, headers, said = await cluster.request("POST", path, asked, cluster.api_key)
        assert status == 200, said
        told.append(parsedate_to_datetime(headers["date"]).timestamp())
        answer = json.loads(said)
        made = answer.get("created_at", answer.get("created"))
        iso = isinstance(made, str)
        told.append(datetime.fromisoformat(made[:19] + "+00:00").timestamp() if iso else made)
        if "total_duration" in answer:
            assert 0 <= answer["total_duration"] < 300e9
    assert all(abs(each - time.time()) < 300 for each in told), told


@ensureDeferred
async def test_the_demo_says_so_until_the_real_ollama_is_noticed(cluster: Cluster) -> None:
    """Wherever it shows it is a demo; the real one takes over by itself, and for good."""
    port = free_port()
    program = await all_in_one(cluster, port)
    assert f"not found at http://127.0.0.1:{port}" in program.output
    assert "the demo model demo:echo responds" in program.output
    cluster.api_key = found(r"OLLAMA_API_KEY=(\S+)", program.output)
    invite = found(r"#invite=(\S+)", program.output)
    _, _, body = await cluster.request(
        "POST", "/ctllm/session", {"invite": invite, "client": "browser"}
    )
    token = json.loads(body)["token"]

    async def ollama(state: str) -> bool:
        return [each["ollama"] for each in await cluster.list_desktops(token)] == [state]

    async def ask(model: str) -> tuple[int, dict[str, str], bytes]:
        asked = {"model": model, "prompt": "hi", "stream": False}
        return await cluster.request("POST", "/api/generate", asked, cluster.api_key)

    assert await ollama("demo")
    _, _, tags = await cluster.request("GET", "/api/tags", token=cluster.api_key)
    (model,) = json.loads(tags)["models"]
    assert (model["name"], model["details"]["family"]) == ("demo:echo", "demo")

    argv = ("-m", "tests.fake_ollama", f"--port={port}", "--model=llama3.2", "--word-interval=0")
    real = cluster.start_process("ollama", "python", *argv)
    await wait_until(lambda: ollama("up"), "the real Ollama to be noticed", 10)
    assert (await ask("llama3.2"))[0] == 200
    assert (await ask("demo:echo"))[0] == 404

    await real.stop(signal.SIGKILL)
    status, headers, body = await ask("demo:echo")
    assert (status, headers["retry-after"]) == (503, "5")
    assert str(port) in json.loads(body)["error"]
    await wait_until(lambda: ollama("down"), "its end to be noticed", 10)
    assert (await ask("demo:echo"))[0] == 503


@ensureDeferred
async def test_started_again_it_keeps_its_sign_in_and_its_key(cluster: Cluster) -> None:
    """Lines that were pasted yesterday work today; the sign-in link is a new one."""
    first = await all_in_one(cluster, free_port())
    await first.stop()
    assert "Traceback" not in first.output
    second = await all_in_one(cluster, free_port())
    key, invite = r"OLLAMA_API_KEY=(\S+)", r"#invite=(\S+)"
    assert re.findall(key, first.output) == re.findall(key, second.output)
    assert re.findall(invite, first.output) != re.findall(invite, second.output)


@ensureDeferred
async def test_two_processes_do_as_one(cluster: Cluster) -> None:
    """The cloud here, the desktop there: apps find their models on both."""
    await cluster.start_cloud()
    _, ollama = cluster.start_fake_ollama("llama3.2")
    endpoint = free_port()
    await cluster.start_desktop("alice", ollama, f"--desktop-listen=127.0.0.1:{endpoint}")
    token = await cluster.create_token("alice")
    there = await cluster.request("GET", "/api/tags", token=token)
    here = await cluster.request("GET", "/api/tags", port=endpoint)
    assert there[0] == here[0] == 200
    assert there[2] == here[2]
    assert b"llama3.2" in here[2]


# -- daemons


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter, with a short name; daemons in it are ended."""
    with tempfile.TemporaryDirectory(prefix="ctllm-test-") as name:
        os.chmod(name, 0o711)
        yield Path(name)
        for file in Path(name).rglob("pid"):
            kill(int(file.read_text()), signal.SIGKILL)


async def daemon(
    cluster: Cluster, folder: Path, *options: str, twistd: tuple[str, ...] = ("twistd",)
) -> int:
    """Start the cloud as a daemon; gives its process id."""
    files = [f"--pidfile={folder / 'pid'}", f"--logfile={folder / 'log'}"]
    faulty = [f"--state-dir={folder / 'state'}", f"--listen=127.0.0.1:{cluster.cloud_port}"]
    done = await ran(
        cluster,
        *twistd,
        *options,
        *files,
        "ctllm",
        "cloud",
        *faulty,
        "--metrics-listen=off",
        env=MODULES,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == done.stderr == ""
    return int((folder / "pid").read_text())


async def open_python(cluster: Cluster) -> str:
    """A Python of this version that everybody can run, and with it our modules."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        with suppress(OSError):
            test = await ran(cluster, python, "-c", "import ctllm.tap", env=MODULES, user=NOBODY)
            if test.returncode == 0:
                return python
    pytest.skip("every Python here lies where only root can read it")


async def used_and_stopped(cluster: Cluster, folder: Path, pid: int) -> list[int]:
    """Sign in, have a proxy, stop the daemon: gives the user ids of its processes."""
    invite = await cluster.run_ctllm_in(folder / "state", "invite", "alice")
    token = (await cluster.log_in(invite))["token"]
    status, _, _ = await cluster.request("PUT", "/ctllm/proxy", token=token)
    assert status == 200
    family = [pid, *child_pids(pid)]
    assert len(family) == 2
    users = [Path(f"/proc/{each}").stat().st_uid for each in family]
    kill(pid, signal.SIGTERM)
    await wait_until(lambda: not any(map(is_running, family)), "the daemon and its proxy to end")
    assert not list((folder / "state" / "run").iterdir())
    return users


@linux_only
@ensureDeferred
async def test_a_daemon_logs_to_its_file_and_ends_whole(
    cluster: Cluster, open_folder: Path
) -> None:
    """It says nothing on the terminal, logs to the file, and SIGTERM leaves nothing."""
    pid = await daemon(cluster, open_folder)
    assert is_running(pid)
    await used_and_stopped(cluster, open_folder, pid)
    log = (open_folder / "log").read_text()
    assert "starting up" in log
    assert "Server Shut Down." in log
    assert "Traceback" not in log
    assert not (open_folder / "pid").exists()


@linux_only
@ensureDeferred
async def test_a_daemon_of_roots_becomes_whom_it_is_told(
    cluster: Cluster, open_folder: Path
) -> None:
    """With --uid and --gid everything works, and the proxies are that user's, too."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    python = await open_python(cluster)
    state = open_folder / "state"
    state.mkdir(mode=0o700)
    os.chown(state, NOBODY, NOBODY)
    twistd = (python, "-c", "from twisted.scripts.twistd import run; run()")
    user = (f"--uid={NOBODY}", f"--gid={NOBODY}")
    pid = await daemon(cluster, open_folder, *user, twistd=twistd)
    assert await used_and_stopped(cluster, open_folder, pid) == [NOBODY, NOBODY]
    assert {path.stat().st_uid for path in state.rglob("*")} == {NOBODY}
    assert "Traceback" not in (open_folder / "log").read_text()


# -- what cannot be


@pytest.fixture
def taken(cluster: Cluster) -> int:
    """A port on which something else listens."""
    from twisted.internet.protocol import Factory

    port = listen(reactor, Factory())
    cluster.ports.append(port)
    return port_of(port)


@pytest.mark.parametrize(
    ("faulty", "option"), [("cloud", "listen"), ("cloud", "metrics"), ("desktop", "endpoint")]
)
@ensureDeferred
async def test_a_port_that_is_taken_ends_the_start(
    cluster: Cluster, taken: int, faulty: str, option: str
) -> None:
    """With a sentence that names the address and the option."""
    others = ["--listen=127.0.0.1:0", "--metrics-listen=off"] if faulty == "cloud" else []
    state = f"--state-dir={cluster.state_dir('state')}"
    here = f"--{option}=127.0.0.1:{taken}"
    done = await ran(cluster, "twistd", "-n", "--pidfile=", "ctllm", faulty, state, *others, here)
    refused(done, str(taken), f"--{option}")


@ensureDeferred
async def test_a_daemon_that_cannot_start_says_so(cluster: Cluster, taken: int) -> None:
    """The first process ends with an error and the sentence; the log has it; no pid file stays."""
    pid, log = cluster.directory / "pid", cluster.directory / "log"
    faulty = [
        f"--state-dir={cluster.state_dir('state')}",
        f"--listen=127.0.0.1:{taken}",
        "--metrics-listen=off",
    ]
    done = await ran(
        cluster, "twistd", f"--pidfile={pid}", f"--logfile={log}", "ctllm", "cloud", *faulty
    )
    refused(done, str(taken), "in use")
    await wait_until(
        lambda: "--listen" in log.read_text(), "the daemon itself to write its last line"
    )
    assert "Traceback" not in log.read_text()
    assert not pid.exists()


@pytest.mark.parametrize(
    ("faulty", "line", "words"),
    [
        ("cloud", "[cloud]\nlissen = 1", ("line 2", "[cloud] lissen", 'did you mean "listen"?')),
        (
            "desktop",
            "[cloud]\naccess_token_ttl_seconds = 5",
            ("line 2", "access_token_ttl_seconds", "at least 60"),
        ),
        ("all", "[desktop]\ndemo = true", ("line 2", "[desktop] demo", '"auto", "off" or "on"')),
        ("cloud", "listen = ':80'", ("line 1", "listen", "under [cloud]")),
    ],
)
@ensureDeferred
async def test_a_mistake_in_the_file_ends_the_start(
    cluster: Cluster, faulty: str, line: str, words: tuple[str, ...]
) -> None:
    """The message names the file, the key and what would be right."""
    file = cluster.directory / "ctllm.toml"
    file.write_text(line)
    done = await ran(cluster, "twistd", "-n", "--pidfile=", "ctllm", faulty, f"--config={file}")
    refused(done, str(file), *words)


@pytest.mark.parametrize("faulty", ["cloud", "desktop"])
@ensureDeferred
async def test_a_state_folder_that_cannot_be_ends_the_start(cluster: Cluster, faulty: str) -> None:
    """The message names the folder; as root a file in the way, else the folder's own rights."""
    (cluster.directory / "file").write_text("")
    state = cluster.directory / "file" / "state"
    ports = (
        ["--listen=127.0.0.1:0", "--metrics-listen=off"]
        if faulty == "cloud"
        else ["--desktop-listen=off"]
    )
    start = ("twistd", "-n", "--pidfile=", "ctllm", faulty)
    refused(await ran(cluster, *start, *ports, f"--state-dir={state}"), str(state))
    if os.geteuid() != 0:
        locked = cluster.directory / "locked"
        locked.mkdir(mode=0o500)
        refused(await ran(cluster, *start, *ports, f"--state-dir={locked}"), str(locked))


@ensureDeferred
async def test_the_command_says_what_it_cannot_do(cluster: Cluster) -> None:
    """Each mistake is one line on standard error and status 1."""
    state = f"--state-dir={cluster.state_dir('nowhere')}"
    for arguments, words in [
        (["invite", "alice"], "no cloud has run"),
        (["login", "https://example.org/"], "ctllm invite NAME"),
        (["login"], "ctllm login -"),
        (["keys", "add", "app"], "ctllm login"),
        (["connect"], "ctllm login"),
        (["logout"], "not logged in"),
        (["invite"], "NAME"),
        (["dance"], "dance"),
        ([], "--help"),
    ]:
        done = await ran(cluster, "ctllm", state, *arguments)
        assert (done.returncode, done.stdout) == (1, ""), arguments
        assert done.stderr.startswith("ctllm: ") and done.stderr.count("\n") == 1, done.stderr
        assert words in done.stderr


# -- help


PLACES = {
    (): ("", "Roles:", "twistd -n ctllm "),
    ("all",): ("cloud desktop proxy", "--demo", "twistd -n ctllm all"),
    ("cloud",): ("cloud proxy", "--max-proxies", "twistd -n ctllm cloud"),
    ("desktop",): ("desktop", "--ollama-host", "twistd -n ctllm desktop"),
    ("proxy",): ("proxy", "--socket", "twistd -n ctllm proxy"),
}


@pytest.mark.parametrize("faulty", PLACES, ids=lambda faulty: faulty[0] if faulty else "top")
@ensureDeferred
async def test_the_help_of_a_place_teaches(cluster: Cluster, faulty: tuple[str, ...]) -> None:
    """It ends well, has each key of the place as an option, and examples."""
    sections, *words = PLACES[faulty]
    done = await ran(cluster, "twistd", "ctllm", *faulty, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    keys = [key for key in KEYS.values() if key.section in ["", *sections.split()]]
    for option in [f"--{key.option}=" for key in keys if faulty != ("all",) or key.section]:
        assert option in done.stdout
    for word in ("Examples:", *words):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", ("invite", "login", "logout", "keys", "connect", "--state-dir", "--config")),
        ("invite", ("NAME", "once", "ctllm login")),
        ("login", ("LINK", "ctllm invite NAME")),
        ("logout", ("usage: ctllm", "three minutes")),
        ("connect", ("usage: ctllm", "API key")),
        ("keys", ("add", "rm", "ls")),
        ("keys add", ("NAME", "prints it")),
        ("keys rm", ("NAME", "within seconds")),
        ("keys ls", ("usage: ctllm", "names")),
    ],
)
@ensureDeferred
async def test_the_help_of_the_command_teaches(
    cluster: Cluster, command: str, words: tuple[str, ...]
) -> None:
    """It ends well and says what the command takes and does."""
    done = await ran(cluster, "ctllm", *command.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    told = re.sub(r"\s+", " ", done.stdout)
    for word in words:
        assert word in told


# -- logs


@ensureDeferred
async def test_logs_for_programs_are_json_lines(cluster: Cluster) -> None:
    """Each line is an object with time, level and message, also what a proxy says."""
    program = await cluster.start_cloud("--log-format=json")
    await cluster.request("PUT", "/ctllm/proxy", token=await cluster.create_token("alice"))
    await program.stop()
    lines = [json.loads(line) for line in program.output.splitlines()]
    assert all({"time", "level", "message"} <= set(line) for line in lines)
    assert any(line["message"].startswith("proxy ") for line in lines)
