"""Responses of a hostile cloud to `ctllm login` and to a desktop."""

from __future__ import annotations

import gzip
import json
from typing import Any

from pytest_twisted import ensureDeferred
from twisted.internet import reactor

from ctllm.desktop.credential_file import CredentialFile
from ctllm.http.server.connection import HttpServerFactory
from ctllm.http.server.request import ServerRequest
from tests.e2e.cluster import Cluster, wait_until
from tests.ports import free_port, listen, port_of

#: Clear the screen, set the title (OSC), CSI as a C1 control, right-to-left override.
CONTROL_SEQUENCES = "\x1b[2J\x1b]0;title\x07\x9b2J\u202e"
USER = {"name": "alice", "id": "ctllm|alice"}
TOKEN = {"user": USER, "token": "t", "expires_in": 600, "refresh": "r"}


class HostileCloud:
    """A server that sends the same configured response to every request."""

    def __init__(self, cluster: Cluster) -> None:
        self.response: tuple[int, bytes, tuple[tuple[bytes, bytes], ...]] = (200, b"", ())
        port = listen(reactor, HttpServerFactory(self, reactor))
        cluster.ports.append(port)
        self.url = f"http://127.0.0.1:{port_of(port)}"

    def set_json_response(self, status: int, value: Any) -> None:
        self.response = (status, json.dumps(value).encode(), ())

    async def __call__(self, request: ServerRequest) -> None:
        await request.read_body(100_000)
        request.respond(*self.response)


@ensureDeferred
async def test_a_hostile_cloud_cannot_control_the_terminal_or_exhaust_memory(
    cluster: Cluster,
) -> None:
    """The client prints no control characters, inflates no body and stores no invalid token."""
    cloud = HostileCloud(cluster)
    link = f"{cloud.url}/#invite=x"

    async def log_in() -> tuple[int, str]:
        state = f"--state-dir={cluster.state_dir('alice')}"
        program = cluster.start_process("login", "ctllm", state, "login", link)
        await program.exited
        assert program.exit_code is not None
        plain = program.output.replace("\n", "")
        assert plain.isprintable(), repr(program.output)
        assert "Traceback" not in program.output
        return program.exit_code, program.output

    cloud.set_json_response(
        403, {"error": {"code": "forbidden", "message": f"no {CONTROL_SEQUENCES}"}}
    )
    assert "no \ufffd[2J" in (await log_in())[1]
    cloud.set_json_response(200, {**TOKEN, "user": {**USER, "name": CONTROL_SEQUENCES}})
    assert (await log_in())[0] == 1
    cloud.set_json_response(200, {**TOKEN, "refresh": "r\r\nX: y"})
    assert (await log_in())[0] == 1
    bomb = gzip.compress(b" " * 50_000_000 + json.dumps(TOKEN).encode())
    cloud.response = (200, bomb, ((b"Content-Encoding", b"gzip"),))
    assert "is not that of a ctllm cloud" in (await log_in())[1]
    cloud.response = (200, b" " * 50_000_000, ())
    assert "exceeds" in (await log_in())[1]
    assert CredentialFile(cluster.state_dir("alice")).load().login is None

    cloud.set_json_response(200, TOKEN)
    assert (await log_in())[0] == 0
    cloud.set_json_response(
        403, {"error": {"code": "forbidden", "message": f"no {CONTROL_SEQUENCES}"}}
    )
    desktop = cluster.run_role(
        "desktop", "alice", f"--ollama-host=127.0.0.1:{free_port()}", "--desktop-listen=off"
    )
    await wait_until(
        lambda: "Cloud connection: not logged in: no" in desktop.output, "the reason in the log"
    )
    assert desktop.output.replace("\n", "").replace("\t", "").isprintable()
