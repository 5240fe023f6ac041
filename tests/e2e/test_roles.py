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
from tests.e2e.cluster import BIN, World, until
from tests.e2e.process_info import alive, children, kill, linux
from tests.ports import free_port

NOBODY = 65534
#: Lets any Python of this version find what this one has installed.
MODULES = {
    "PYTHONPATH": os.pathsep.join(str(Path(each.__file__).parents[1]) for each in (ctllm, twisted))
}
BY_OLLAMA = "import ollama; print(ollama.generate(model='demo:echo', prompt='by ollama').response)"
BY_OPENAI = (
    "import openai; print(openai.OpenAI().chat.completions.create(model='demo:echo', "
    "messages=[{'role': 'user', 'content': 'by openai'}]).choices[0].message.content)"
)


async def ran(
    world: World, *argv: str, env: dict[str, str] | None = None, user: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment to its end, with time enough on a busy machine."""
    return await deferToThread(
        subprocess.run,
        [str(BIN / argv[0]), *argv[1:]],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**world.environment(), **(env or {})},
        cwd=world.folder,
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


async def pasted(world: World, lines: str) -> str:
    """What a shell prints for lines that somebody pastes."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    env = {**world.environment(), "PATH": path}
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


async def all_in_one(world: World, ollama: int) -> Any:
    """`twistd -n ctllm` as a newcomer types it, only with ports that are free; its screen."""
    config = world.folder / "ctllm.toml"
    config.write_text(
        f'state = "{world.state("all")}"\n'
        f'[cloud]\nlisten = "127.0.0.1:{world.cloud_port}"\nmetrics = "off"\n'
        f'[desktop]\nendpoint = "127.0.0.1:{free_port()}"\nollama_check_seconds = 1\n'
    )
    env = {"CTLLM_CONFIG": str(config), "OLLAMA_HOST": f"127.0.0.1:{ollama}"}
    program = world.run(
        "all", "twistd", "-n", "--pidfile=", "ctllm", env={**world.environment(), **env}
    )
    await until(
        lambda: "OPENAI_API_KEY" in program.printed or program.code is not None, "the first screen"
    )
    return program


@ensureDeferred
async def test_the_lines_of_the_first_screen_work_as_printed(world: World) -> None:
    """The curl call, both clients' environments and the sign-in link; each is printed once."""
    ollama = free_port()
    program = await all_in_one(world, ollama)
    screen = program.printed
    curl = re.search(r"^  # curl\n((?:  .*\n)+)", screen, re.M)[1]
    lines = (await pasted(world, curl)).splitlines()
    assert "".join(json.loads(line)["response"] for line in lines).endswith("Say hello.")
    for variable, script in (("OLLAMA_HOST", BY_OLLAMA), ("OPENAI_BASE_URL", BY_OPENAI)):
        export = re.search(rf"^  (export {variable}=.*)$", screen, re.M)[1]
        answer = await pasted(world, f'{export}\npython -c "{script}"')
        assert "demo, not a model" in answer
        assert answer.endswith(("by ollama\n", "by openai\n"))
    link = re.search(r"http://\S+/#invite=(\S+)", screen)
    status, _, _ = await world.http(
        "POST", "/ctllm/session", {"invite": link[1], "client": "browser"}
    )
    assert status == 201
    for once in ("#invite=", "curl ", "OLLAMA_HOST=", "OPENAI_BASE_URL="):
        assert program.printed.count(once) == 1


@ensureDeferred
async def test_the_demo_knows_the_date(world: World) -> None:
    """What its answers tell of the time is the time of day: header, NDJSON and OpenAI's number."""
    program = await all_in_one(world, free_port())
    world.key = re.search(r"OLLAMA_API_KEY=(\S+)", program.printed)[1]
    asked = {"model": "demo:echo", "stream": False}
    asked |= {"prompt": "x", "messages": [{"role": "user", "content": "x"}], "input": "x"}
    told = []
    for path in ("/api/generate", "/v1/chat/completions", "/v1/responses"):
        status, headers, said = await world.http("POST", path, asked, world.key)
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
async def test_the_demo_says_so_until_the_real_ollama_is_noticed(world: World) -> None:
    """Wherever it shows it is a demo; the real one takes over by itself, and for good."""
    port = free_port()
    program = await all_in_one(world, port)
    assert f"none answers at http://127.0.0.1:{port}" in program.printed
    assert "a demo, not a model" in program.printed
    world.key = re.search(r"OLLAMA_API_KEY=(\S+)", program.printed)[1]
    invite = re.search(r"#invite=(\S+)", program.printed)[1]
    _, _, body = await world.http("POST", "/ctllm/session", {"invite": invite, "client": "browser"})
    token = json.loads(body)["token"]

    async def ollama(state: str) -> bool:
        return [each["ollama"] for each in await world.desktops(token)] == [state]

    async def ask(model: str) -> tuple[int, dict[str, str], bytes]:
        asked = {"model": model, "prompt": "hi", "stream": False}
        return await world.http("POST", "/api/generate", asked, world.key)

    assert await ollama("demo")
    _, _, tags = await world.http("GET", "/api/tags", token=world.key)
    (model,) = json.loads(tags)["models"]
    assert (model["name"], model["details"]["family"]) == ("demo:echo", "demo")

    argv = ("-m", "tests.fake_ollama", f"--port={port}", "--model=llama3.2", "--word-interval=0")
    real = world.run("ollama", "python", *argv)
    await until(lambda: ollama("up"), "the real Ollama to be noticed", 10)
    assert (await ask("llama3.2"))[0] == 200
    assert (await ask("demo:echo"))[0] == 404

    await real.stop(signal.SIGKILL)
    status, headers, body = await ask("demo:echo")
    assert (status, headers["retry-after"]) == (503, "5")
    assert str(port) in json.loads(body)["error"]
    await until(lambda: ollama("down"), "its end to be noticed", 10)
    assert (await ask("demo:echo"))[0] == 503


@ensureDeferred
async def test_started_again_it_keeps_its_sign_in_and_its_key(world: World) -> None:
    """Lines that were pasted yesterday work today; the sign-in link is a new one."""
    first = await all_in_one(world, free_port())
    await first.stop()
    assert "Traceback" not in first.printed
    second = await all_in_one(world, free_port())
    key, invite = r"OLLAMA_API_KEY=(\S+)", r"#invite=(\S+)"
    assert re.findall(key, first.printed) == re.findall(key, second.printed)
    assert re.findall(invite, first.printed) != re.findall(invite, second.printed)


@ensureDeferred
async def test_two_processes_do_as_one(world: World) -> None:
    """The cloud here, the desktop there: apps find their models on both."""
    await world.cloud()
    _, ollama = world.start_ollama("llama3.2")
    endpoint = free_port()
    await world.desktop("alice", ollama, f"--endpoint=127.0.0.1:{endpoint}")
    token = await world.token("alice")
    there = await world.http("GET", "/api/tags", token=token)
    here = await world.http("GET", "/api/tags", port=endpoint)
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
    world: World, folder: Path, *options: str, twistd: tuple[str, ...] = ("twistd",)
) -> int:
    """Start the cloud as a daemon; gives its process id."""
    files = [f"--pidfile={folder / 'pid'}", f"--logfile={folder / 'log'}"]
    place = [f"--state={folder / 'state'}", f"--listen=127.0.0.1:{world.cloud_port}"]
    done = await ran(
        world, *twistd, *options, *files, "ctllm", "cloud", *place, "--metrics=off", env=MODULES
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == done.stderr == ""
    return int((folder / "pid").read_text())


async def open_python(world: World) -> str:
    """A Python of this version that everybody can run, and with it our modules."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        with suppress(OSError):
            test = await ran(world, python, "-c", "import ctllm.tap", env=MODULES, user=NOBODY)
            if test.returncode == 0:
                return python
    pytest.skip("every Python here lies where only root can read it")


async def used_and_stopped(world: World, folder: Path, pid: int) -> list[int]:
    """Sign in, have a proxy, stop the daemon: gives the user ids of its processes."""
    invite = await world.command_in(folder / "state", "invite", "alice")
    token = (await world.session(invite))["token"]
    status, _, _ = await world.http("PUT", "/ctllm/proxy", token=token)
    assert status == 200
    family = [pid, *children(pid)]
    assert len(family) == 2
    users = [Path(f"/proc/{each}").stat().st_uid for each in family]
    kill(pid, signal.SIGTERM)
    await until(lambda: not any(map(alive, family)), "the daemon and its proxy to end")
    assert not list((folder / "state" / "run").iterdir())
    return users


@linux
@ensureDeferred
async def test_a_daemon_logs_to_its_file_and_ends_whole(world: World, open_folder: Path) -> None:
    """It says nothing on the terminal, logs to the file, and SIGTERM leaves nothing."""
    pid = await daemon(world, open_folder)
    assert alive(pid)
    await used_and_stopped(world, open_folder, pid)
    log = (open_folder / "log").read_text()
    assert "starting up" in log
    assert "Server Shut Down." in log
    assert "Traceback" not in log
    assert not (open_folder / "pid").exists()


@linux
@ensureDeferred
async def test_a_daemon_of_roots_becomes_whom_it_is_told(world: World, open_folder: Path) -> None:
    """With --uid and --gid everything works, and the proxies are that user's, too."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    python = await open_python(world)
    state = open_folder / "state"
    state.mkdir(mode=0o700)
    os.chown(state, NOBODY, NOBODY)
    twistd = (python, "-c", "from twisted.scripts.twistd import run; run()")
    user = (f"--uid={NOBODY}", f"--gid={NOBODY}")
    pid = await daemon(world, open_folder, *user, twistd=twistd)
    assert await used_and_stopped(world, open_folder, pid) == [NOBODY, NOBODY]
    assert {path.stat().st_uid for path in state.rglob("*")} == {NOBODY}
    assert "Traceback" not in (open_folder / "log").read_text()


# -- what cannot be


@pytest.fixture
def taken(world: World) -> int:
    """A port on which something else listens."""
    from twisted.internet.protocol import Factory

    port = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
    world.ports.append(port)
    return int(port.getHost().port)


@pytest.mark.parametrize(
    ("place", "option"), [("cloud", "listen"), ("cloud", "metrics"), ("desktop", "endpoint")]
)
@ensureDeferred
async def test_a_port_that_is_taken_ends_the_start(
    world: World, taken: int, place: str, option: str
) -> None:
    """With a sentence that names the address and the option."""
    others = ["--listen=127.0.0.1:0", "--metrics=off"] if place == "cloud" else []
    state = f"--state={world.state('state')}"
    here = f"--{option}=127.0.0.1:{taken}"
    done = await ran(world, "twistd", "-n", "--pidfile=", "ctllm", place, state, *others, here)
    refused(done, str(taken), f"--{option}")


@ensureDeferred
async def test_a_daemon_that_cannot_start_says_so(world: World, taken: int) -> None:
    """The first process ends with an error and the sentence; the log has it; no pid file stays."""
    pid, log = world.folder / "pid", world.folder / "log"
    place = [f"--state={world.state('state')}", f"--listen=127.0.0.1:{taken}", "--metrics=off"]
    done = await ran(
        world, "twistd", f"--pidfile={pid}", f"--logfile={log}", "ctllm", "cloud", *place
    )
    refused(done, str(taken), "in use")
    await until(lambda: "--listen" in log.read_text(), "the daemon itself to write its last line")
    assert "Traceback" not in log.read_text()
    assert not pid.exists()


@pytest.mark.parametrize(
    ("place", "line", "words"),
    [
        ("cloud", "[cloud]\nlissen = 1", ("line 2", "[cloud] lissen", 'did you mean "listen"?')),
        ("desktop", "[cloud]\ntoken_seconds = 5", ("line 2", "token_seconds", "at least 60")),
        ("all", "[desktop]\ndemo = true", ("line 2", "[desktop] demo", '"auto", "off" or "on"')),
        ("cloud", "listen = ':80'", ("line 1", "listen", "under [cloud]")),
    ],
)
@ensureDeferred
async def test_a_mistake_in_the_file_ends_the_start(
    world: World, place: str, line: str, words: tuple[str, ...]
) -> None:
    """The message names the file, the key and what would be right."""
    file = world.folder / "ctllm.toml"
    file.write_text(line)
    done = await ran(world, "twistd", "-n", "--pidfile=", "ctllm", place, f"--config={file}")
    refused(done, str(file), *words)


@pytest.mark.parametrize("place", ["cloud", "desktop"])
@ensureDeferred
async def test_a_state_folder_that_cannot_be_ends_the_start(world: World, place: str) -> None:
    """The message names the folder; as root a file in the way, else the folder's own rights."""
    (world.folder / "file").write_text("")
    state = world.folder / "file" / "state"
    ports = ["--listen=127.0.0.1:0", "--metrics=off"] if place == "cloud" else ["--endpoint=off"]
    start = ("twistd", "-n", "--pidfile=", "ctllm", place)
    refused(await ran(world, *start, *ports, f"--state={state}"), str(state))
    if os.geteuid() != 0:
        locked = world.folder / "locked"
        locked.mkdir(mode=0o500)
        refused(await ran(world, *start, *ports, f"--state={locked}"), str(locked))


@ensureDeferred
async def test_the_command_says_what_it_cannot_do(world: World) -> None:
    """Each mistake is one line on standard error and status 1."""
    state = f"--state={world.state('nowhere')}"
    for arguments, words in [
        (["invite", "alice"], "no cloud has run"),
        (["login", "https://example.org/"], "ctllm invite NAME"),
        (["login"], "ctllm login -"),
        (["keys", "add", "app"], "ctllm login"),
        (["connect"], "ctllm login"),
        (["logout"], "not signed in"),
        (["invite"], "NAME"),
        (["dance"], "dance"),
        ([], "--help"),
    ]:
        done = await ran(world, "ctllm", state, *arguments)
        assert (done.returncode, done.stdout) == (1, ""), arguments
        assert done.stderr.startswith("ctllm: ") and done.stderr.count("\n") == 1, done.stderr
        assert words in done.stderr


# -- help


PLACES = {
    (): ("", "Places:", "twistd -n ctllm "),
    ("all",): ("cloud desktop proxy", "--demo", "twistd -n ctllm all"),
    ("cloud",): ("cloud proxy", "--max-proxies", "twistd -n ctllm cloud"),
    ("desktop",): ("desktop", "--ollama", "twistd -n ctllm desktop"),
    ("proxy",): ("proxy", "--socket", "twistd -n ctllm proxy"),
}


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[0] if place else "top")
@ensureDeferred
async def test_the_help_of_a_place_teaches(world: World, place: tuple[str, ...]) -> None:
    """It ends well, has each key of the place as an option, and examples."""
    sections, *words = PLACES[place]
    done = await ran(world, "twistd", "ctllm", *place, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    keys = [key for key in KEYS.values() if key.section in ["", *sections.split()]]
    for option in [f"--{key.option}=" for key in keys if place != ("all",) or key.section]:
        assert option in done.stdout
    for word in ("Examples:", *words):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", ("invite", "login", "logout", "keys", "connect", "--state", "--config")),
        ("invite", ("NAME", "once", "ctllm login")),
        ("login", ("LINK", "ctllm invite NAME")),
        ("logout", ("Usage: ctllm", "three minutes")),
        ("connect", ("Usage: ctllm", "API key")),
        ("keys", ("add", "rm", "ls")),
        ("keys add", ("NAME", "prints it")),
        ("keys rm", ("NAME", "within seconds")),
        ("keys ls", ("Usage: ctllm", "names")),
    ],
)
@ensureDeferred
async def test_the_help_of_the_command_teaches(
    world: World, command: str, words: tuple[str, ...]
) -> None:
    """It ends well and says what the command takes and does."""
    done = await ran(world, "ctllm", *command.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    told = re.sub(r"\s+", " ", done.stdout)
    for word in words:
        assert word in told


# -- logs


@ensureDeferred
async def test_logs_for_programs_are_json_lines(world: World) -> None:
    """Each line is an object with time, level and message, also what a proxy says."""
    program = await world.cloud("--log-format=json")
    await world.http("PUT", "/ctllm/proxy", token=await world.token("alice"))
    await program.stop()
    lines = [json.loads(line) for line in program.printed.splitlines()]
    assert all({"time", "level", "message"} <= set(line) for line in lines)
    assert any(line["message"].startswith("proxy ") for line in lines)
