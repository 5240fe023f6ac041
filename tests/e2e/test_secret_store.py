"""Where a desktop's tokens are: a real keyring, an encrypted file, a plain file, and what fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from ctllm.ipc.client import IpcClient
from tests.e2e.cluster import BIN, ChildProcess, Cluster, wait_until
from tests.e2e.keyring_session import KeyringSession
from tests.e2e.test_provider_login import Acme

KEY = b"a key that only the desktop's service has"


class Desktop:
    """Alice's desktop, which is logged in and connected when the test begins it so."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.state = cluster.state_dir("alice")
        self.environment: dict[str, str] = {}
        self.process: ChildProcess | None = None

    async def set_up(self) -> None:
        await self.cluster.start_cloud()
        _, self.port = self.cluster.start_fake_ollama()

    @property
    def credentials(self) -> dict[str, Any]:
        return json.loads((self.state / "desktop" / "credentials.json").read_text())

    @property
    def store(self) -> str:
        """The store that has the tokens."""
        return self.credentials["secret"]["store"]

    @property
    def output(self) -> str:
        assert self.process is not None
        return self.process.output

    def start(self, *options: str, **environment: str) -> ChildProcess:
        argv = (
            "twistd", "-n", "--pidfile=", "ctllm", "desktop", f"--state-dir={self.state}",
            f"--ollama-host=127.0.0.1:{self.port}", "--desktop-listen=off", *options,
        )  # fmt: skip
        env = {**self.cluster.environment(), **self.environment, **environment}
        self.process = self.cluster.start_process("desktop", *argv, env=env)
        return self.process

    async def connect(self, *options: str, **environment: str) -> None:
        """Start it, and wait until it is connected."""
        process = self.start(*options, **environment)
        await wait_until(
            lambda: "Cloud connection: connected" in process.output, f"it:\n{process.output}", 60
        )

    async def stop(self) -> None:
        assert self.process is not None
        await self.process.stop()

    async def run(self, *arguments: str, stdin: str = "", store: str = "") -> tuple[int, str]:
        """Run the `ctllm` command; return its status and its output."""
        config = self.cluster.directory / f"{store or 'auto'}.toml"
        config.write_text(f'[desktop]\ncredential_store = "{store or "auto"}"\n')
        argv = [
            str(BIN / "ctllm"), f"--config={config}", f"--state-dir={self.state}", *arguments,
        ]  # fmt: skip
        env = {**self.cluster.environment(), **self.environment}
        done = await deferToThread(
            subprocess.run, argv, input=stdin, capture_output=True, text=True, env=env
        )
        return done.returncode, done.stdout + done.stderr

    async def log_in(self, store: str = "") -> str:
        invite = await self.cluster.create_invite("alice")
        code, output = await self.run("login", "-", stdin=invite, store=store)
        assert code == 0, output
        return output

    async def status(self) -> dict[str, Any]:
        _, output = await self.run("status", "--json")
        return json.loads(output)

    async def read_token(self) -> str:
        """Return the refresh token, which the test gets from the keyring as the desktop does."""
        reference = self.credentials["secret"]
        if reference["store"] == "file":
            secrets = json.loads((self.state / "desktop" / "secrets.json").read_text())
            return json.loads(secrets["secrets"][reference["name"]])["refresh"]
        assert reference["store"] == "keyring"
        request = json.dumps({"operation": "get", "name": reference["name"]}) + "\n"
        done = await deferToThread(ask_keyring, request, self.environment)
        return json.loads(json.loads(done)["secret"])["refresh"]

    def files_with(self, text: str) -> list[str]:
        """Return the files of the desktop that contain `text`."""
        files = [path for path in self.state.rglob("*") if path.is_file()]
        return [str(path) for path in files if text.encode() in path.read_bytes()]


def ask_keyring(request: str, environment: dict[str, str]) -> str:
    argv = [str(BIN / "python"), "-P", "-m", "ctllm.keyring_main"]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(request)
        process.stdin.flush()
        return process.stdout.readline()


class ProcessRecorder:
    """Records arguments and environment of all processes, from a thread, while it is entered."""

    def __init__(self) -> None:
        self.seen: dict[str, bytes] = {}
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._record)

    def __enter__(self) -> ProcessRecorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_done.set()
        self._thread.join()

    def _record(self) -> None:
        while not self._is_done.wait(0.02):
            for entry in Path("/proc").iterdir():
                if entry.name.isdecimal():
                    self._read(entry)

    def _read(self, entry: Path) -> None:
        for name in ("cmdline", "environ"):
            try:
                content = (entry / name).read_bytes()
            except OSError:
                continue
            if b"ctllm" in content:
                self.seen[f"{entry.name} {name} {hash(content)}"] = content


@pytest_twisted.async_yield_fixture()
async def desktop(cluster: Cluster) -> Any:
    """A desktop without a keyring, and a cloud."""
    desktop = Desktop(cluster)
    await desktop.set_up()
    yield desktop


@pytest_twisted.async_yield_fixture()
async def keyring(desktop: Desktop) -> Any:
    """An unlocked keyring in the desktop's session."""
    session = KeyringSession(desktop.cluster)
    await session.start_bus()
    desktop.environment = session.environment
    await session.start_keyring()
    yield session


@ensureDeferred
async def test_tokens_are_in_an_unlocked_keyring_and_nowhere_else(
    desktop: Desktop, keyring: KeyringSession
) -> None:
    """Not in files, arguments, environments and output, of the desktop and of its children."""
    with ProcessRecorder() as recorder:
        output = await desktop.log_in()
        assert "in the system's keyring (Secret Service)" in output
        await desktop.connect()
        status = await desktop.status()
    assert (desktop.store, status["state"]) == ("keyring", "connected")
    assert status["tokens"] == "in the system's keyring (Secret Service)"
    assert any(b"ctllm.keyring_main" in content for content in recorder.seen.values())
    token = await desktop.read_token()
    assert len(token) >= 32
    assert desktop.files_with(token) == []
    assert not (desktop.state / "desktop" / "secrets.json").exists()
    assert [content for content in recorder.seen.values() if token.encode() in content] == []
    assert [path for path in keyring.files() if token.encode() in path.read_bytes()] == []
    everything = output + desktop.output + json.dumps(status)
    _, logs = await desktop.run("logs")
    assert token not in everything + logs
    assert (await desktop.run("logout"))[0] == 0
    assert desktop.credentials["unused_secrets"] == []
    assert await deferToThread(find_items, keyring.address) == []


def find_items(address: str) -> list[str]:
    """Return the items of ctllm in the keyring."""
    from jeepney.io.blocking import open_dbus_connection
    from secretstorage import Collection

    connection = open_dbus_connection(bus=address)
    try:
        found = Collection(connection).search_items({"service": "ctllm"})
        return [item.get_label() for item in found]
    finally:
        connection.close()


@ensureDeferred
async def test_an_unanswered_prompt_delays_only_the_connection(
    desktop: Desktop, keyring: KeyringSession
) -> None:
    """The daemon starts and says what is wrong; it connects once the keyring is unlocked."""
    await desktop.log_in()
    await keyring.lock()
    prompter = await keyring.start_prompter("silent")
    process = desktop.start()
    await wait_until(lambda: "asked" in prompter.output, "the dialog")
    status = await desktop.status()
    assert "Cannot read" not in process.output  # the dialog is still open
    assert (status["state"], status["user"]) == ("connecting", "alice")
    await wait_until(lambda: "keyring is locked (nobody answered)" in process.output, "the end", 60)
    status = await desktop.status()
    assert status["state"] == "error"
    assert "keyring is locked" in status["reason"]
    assert prompter.output.count("asked") == 1
    await wait_until(lambda: not children_of(process.pid), "the child to be gone")
    assert desktop.store == "keyring"
    await keyring.keyring.stop()
    await keyring.start_keyring()
    await wait_until(
        lambda: "Cloud connection: connected" in process.output, "it to connect by itself", 90
    )
    assert prompter.output.count("asked") == 1


def children_of(pid: int) -> list[str]:
    """Return the processes that ask the keyring for process `pid`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
            arguments = (entry / "cmdline").read_text()
        except (OSError, ValueError):
            continue
        if parent == pid and "keyring_main" in arguments:
            found.append(entry.name)
    return found


@ensureDeferred
async def test_a_dismissed_prompt_is_no_success_and_costs_no_invite(
    desktop: Desktop, keyring: KeyringSession
) -> None:
    await keyring.lock()
    prompter = await keyring.start_prompter("dismiss")
    invite = await desktop.cluster.create_invite("alice")
    code, output = await desktop.run("login", "-", stdin=invite, store="keyring")
    assert code != 0 and "keyring is locked" in output, output
    assert "asked" in prompter.output
    assert "sign_in" not in desktop.credentials or desktop.credentials["sign_in"] is None
    code, output = await desktop.run("login", "-", stdin=invite, store="file")
    assert code == 0, output


@ensureDeferred
async def test_a_locked_keyring_is_not_chosen_until_it_is_unlocked(
    desktop: Desktop, keyring: KeyringSession
) -> None:
    """With auto, nobody is asked; the desktop moves the tokens later."""
    await keyring.lock()
    prompter = await keyring.start_prompter("silent")
    assert "protected by its permissions only" in await desktop.log_in()
    assert (desktop.store, prompter.output.count("asked")) == ("file", 0)
    token = await desktop.read_token()
    await keyring.keyring.stop()
    await keyring.start_keyring()
    await desktop.connect()
    await wait_until(lambda: desktop.store == "keyring", "the tokens to move")
    await wait_until(lambda: not desktop.credentials["unused_secrets"], "the old copy to go")
    assert await desktop.read_token() == token
    assert desktop.files_with(token) == []


@ensureDeferred
async def test_a_keyring_that_restarts_interrupts_nothing(
    desktop: Desktop, keyring: KeyringSession
) -> None:
    """The running desktop has its tokens in memory, and the next one finds them again."""
    await desktop.log_in()
    await desktop.connect()
    await keyring.keyring.stop(signal.SIGKILL)
    before = desktop.output.count("Cloud connection: connected")
    (cloud,) = [each for each in desktop.cluster.processes if each.name == "cloud"]
    await cloud.stop()
    await desktop.cluster.start_cloud()
    await wait_until(
        lambda: desktop.output.count("Cloud connection: connected") > before, "a new session", 60
    )
    await desktop.stop()
    await keyring.start_keyring()
    await desktop.connect()


@ensureDeferred
async def test_without_a_keyring_its_choice_is_refused_and_auto_says_what_protects_the_file(
    desktop: Desktop,
) -> None:
    invite = await desktop.cluster.create_invite("alice")
    bus = f"unix:path={desktop.cluster.directory}/no-bus"
    for environment in ({}, {"DBUS_SESSION_BUS_ADDRESS": bus}):
        desktop.environment = environment
        code, output = await desktop.run("login", "-", stdin=invite, store="keyring")
        assert code != 0 and "keyring is not available here" in output, output
    code, output = await desktop.run("login", "-", stdin=invite)
    assert code == 0 and "which is protected by its permissions only" in output, output
    assert (desktop.state / "desktop" / "secrets.json").stat().st_mode & 0o777 == 0o600
    await desktop.connect()
    _, status = await desktop.run("status")
    assert "which is protected by its permissions only" in status


@ensureDeferred
async def test_tokens_move_when_the_setting_changes(
    desktop: Desktop, keyring: KeyringSession
) -> None:
    """Each time the old copy goes, and nobody has to log in again."""
    passphrase = desktop.cluster.directory / "passphrase"
    passphrase.write_bytes(KEY)
    passphrase.chmod(0o600)
    await desktop.log_in("file")
    login, token = desktop.credentials["sign_in"], await desktop.read_token()
    for store in ("keyring", "encrypted-file", "file", "encrypted-file", "keyring", "file"):
        await desktop.connect(f"--credential-store={store}", f"--passphrase-file={passphrase}")
        await wait_until(lambda store=store: desktop.store == store, f"the tokens in {store}")
        await wait_until(lambda: not desktop.credentials["unused_secrets"], "the old copy to go")
        files = desktop.files_with(token)
        assert [Path(each).name for each in files] == ["secrets.json"] * (store == "file")
        assert len(await deferToThread(find_items, keyring.address)) == (store == "keyring")
        assert desktop.credentials["sign_in"] == login
        await desktop.stop()
    assert await desktop.read_token() == token


@ensureDeferred
async def test_the_token_of_an_earlier_version_moves_to_the_keyring(
    desktop: Desktop, keyring: KeyringSession
) -> None:
    """The desktop is updated, and stays logged in."""
    await desktop.log_in("file")
    token, known = await desktop.read_token(), desktop.credentials
    login = {name: known["sign_in"][name] for name in ("cloud_url", "user_id", "user_name")}
    old = {"desktop_id": known["desktop_id"], "sign_in": {**login, "refresh": token}}
    folder = desktop.state / "desktop"
    (folder / "secrets.json").unlink()
    (folder / "credentials.json").write_text(json.dumps({**old, "keys": {}, "managing": []}))
    await desktop.connect()
    await wait_until(lambda: desktop.store == "keyring", "the token to move")
    await wait_until(lambda: not desktop.credentials["unused_secrets"], "the old copy to go")
    assert await desktop.read_token() == token
    assert desktop.files_with(token) == []


@ensureDeferred
async def test_logins_at_the_same_moment_leave_one_login_with_its_own_token(
    desktop: Desktop, keyring: KeyringSession
) -> None:
    """While the desktop runs and moves tokens; some of the commands can use no keyring."""
    await desktop.log_in()
    await desktop.connect()
    names = ["alice", "bob"] * 3
    links = [await desktop.cluster.create_invite(name) for name in names]
    stores = ["auto", "file", "keyring"] * 2
    done = await gatherResults(
        [
            Deferred.fromCoroutine(desktop.run("login", "-", stdin=link, store=store))
            for link, store in zip(links, stores, strict=True)
        ]
    )
    assert [code for code, _ in done] == [0] * 6, done
    await wait_until(lambda: desktop.store == "keyring", "the tokens to move")
    await wait_until(lambda: not desktop.credentials["unused_secrets"], "old copies to go")
    assert len(await deferToThread(find_items, keyring.address)) == 1
    user = desktop.credentials["sign_in"]["user_name"]
    body = {"refresh": await desktop.read_token()}
    status, _, response = await desktop.cluster.request("POST", "/ctllm/session/token", body)
    assert (status, json.loads(response)["user"]["name"]) == (200, user)

    async def is_connected() -> bool:
        status = await desktop.status()
        return (status["state"], status["user"]) == ("connected", user)

    await wait_until(is_connected, "the desktop to be connected as that user")


@ensureDeferred
async def test_a_providers_tokens_rotate_in_the_keyring_and_wait_while_it_is_locked(
    cluster: Cluster,
) -> None:
    """Each renewal replaces both tokens. A locked keyring moves them to no file."""
    acme = await Acme.start(cluster, "--access-token-ttl-seconds=60")
    session = KeyringSession(cluster)
    await session.start_bus()
    await session.start_keyring()
    cluster.extra_environment = session.environment
    await acme.provider.set_token_seconds(20)  # so that each renewal asks the provider
    await acme.log_in()
    desktop = Desktop(cluster)
    desktop.state, desktop.environment = acme.state, session.environment
    _, desktop.port = cluster.start_fake_ollama()
    await desktop.connect()
    names: set[str] = set()

    def has_rotated() -> bool:
        names.add(desktop.credentials["secret"]["name"])
        return len(names) >= 3

    with IpcClient(acme.state) as daemon:
        await deferToThread(daemon.status, subscribe=True)  # so that it asks the cloud often
        await wait_until(has_rotated, "two rotations", 90)
        await session.lock()
        await acme.provider.forget_requests()
        names.clear()
        failed = "keyring is locked"
        await wait_until(lambda: failed in daemon.status().desktops_error, "a failed renewal", 90)
        assert await acme.refreshes() == 0  # no token is used up that could not be stored
        assert desktop.store == "keyring"
        assert not (acme.state / "desktop" / "secrets.json").exists()
        await session.keyring.stop()
        await session.start_keyring()
        names.clear()
        await wait_until(has_rotated, "rotations again", 120)
    await wait_until(lambda: not desktop.credentials["unused_secrets"], "old tokens to go")
    assert len(await deferToThread(find_items, session.address)) == 1
    assert desktop.files_with("provider_refresh") == []
    assert (await desktop.status())["state"] == "connected"


@ensureDeferred
async def test_a_key_of_systemd_encrypts_what_a_command_stores_without_it(
    desktop: Desktop,
) -> None:
    """Only the unit has the key: commands log in without it, and log out through the desktop."""
    credentials = desktop.cluster.directory / "credentials"
    credentials.mkdir(mode=0o700)
    (credentials / "ctllm-key").write_bytes(KEY)
    (credentials / "ctllm-key").chmod(0o400)
    service = {"CREDENTIALS_DIRECTORY": str(credentials)}
    desktop.start(**service)
    encrypted = desktop.state / "desktop" / "secrets.encrypted"
    await wait_until(encrypted.exists, "the encrypted file")
    assert "encrypted" in await desktop.log_in()
    await wait_until(lambda: "Cloud connection: connected" in desktop.output, "it to connect")
    assert desktop.store == "encrypted-file"
    assert encrypted.stat().st_mode & 0o777 == 0o600
    assert not (desktop.state / "desktop" / "secrets.json").exists()
    await desktop.stop()
    (credentials / "ctllm-key").chmod(0o600)
    (credentials / "ctllm-key").write_bytes(b"another key")
    before = encrypted.read_bytes()
    desktop.start(**service)
    await wait_until(lambda: "does not open" in desktop.output, "the wrong key to be told")
    assert (await desktop.status())["state"] == "error"
    assert encrypted.read_bytes() == before
    await desktop.stop()
    (credentials / "ctllm-key").write_bytes(KEY)
    await desktop.connect(**service)
    code, output = await desktop.run("logout")
    assert code == 0 and "Logged out" in output, output
    assert json.loads(encrypted.read_text())["boxes"] == {}

    async def is_logged_out() -> bool:  # the daemon sees the change at its next poll
        return (await desktop.status())["state"] == "signed_out"

    await wait_until(is_logged_out, "the daemon to be logged out")


@ensureDeferred
async def test_a_damaged_store_is_set_aside_and_told(desktop: Desktop) -> None:
    """The desktop starts, says what is wrong, and a new login is all that it needs."""
    await desktop.log_in("file")
    secrets = desktop.state / "desktop" / "secrets.json"
    secrets.write_bytes(secrets.read_bytes()[:40])
    desktop.start()
    await wait_until(lambda: "was damaged" in desktop.output, "it to tell")
    status = await desktop.status()
    assert status["state"] == "signed_out"
    assert "ctllm login" in status["reason"] and str(secrets) in status["reason"]
    assert len(list(secrets.parent.glob("secrets.json.damaged-*"))) == 1
    await desktop.log_in("file")
    await wait_until(lambda: "Cloud connection: connected" in desktop.output, "it to connect")


@ensureDeferred
async def test_a_full_disk_costs_neither_the_invite_nor_the_present_login(
    desktop: Desktop,
) -> None:
    """The limit of a file's size stands for the disk: each write fails."""
    await desktop.log_in("file")
    token = await desktop.read_token()
    invite = await desktop.cluster.create_invite("alice")
    argv = [str(BIN / "ctllm"), f"--state-dir={desktop.state}", "login", "-"]
    done = await deferToThread(
        subprocess.run,
        ["sh", "-c", 'trap "" XFSZ; ulimit -f 0; exec "$@"', "sh", *argv],
        input=invite, capture_output=True, text=True,
        env={**desktop.cluster.environment(), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode != 0 and "Cannot write" in done.stderr, done.stdout + done.stderr
    assert token not in done.stderr and "Traceback" not in done.stderr
    assert await desktop.read_token() == token
    await desktop.connect()
    await desktop.stop()
    code, output = await desktop.run("login", "-", stdin=invite)
    assert code == 0, output
    assert os.listdir(desktop.state / "desktop") == [
        name for name in os.listdir(desktop.state / "desktop") if not name.startswith(".")
    ]
