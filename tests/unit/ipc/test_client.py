"""`ctllm.ipc.client`: the blocking client, and servers that misbehave."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import BadGateway, CtllmError
from ctllm.ipc import protocol
from ctllm.ipc.client import IpcClient

SECRET = "5e" * 32


def connect_to(connection: socket.socket) -> Callable[[Path, float], socket.socket]:
    """Return a `connect` function that returns `connection`."""
    return lambda state, timeout: connection


class IpcClientTests(SynchronousTestCase):
    def test_invalid_messages_of_the_server_are_errors(self) -> None:
        state = Path(self.mktemp())
        address_file = state.joinpath(*protocol.ADDRESS_FILE)
        address_file.parent.mkdir(parents=True)
        address_file.write_bytes(msgspec.json.encode(protocol.DaemonAddress(1, SECRET, 1)))
        hello = protocol.encode_event("hello", protocol.Hello(protocol.PROTOCOL_VERSION, "1", "ab"))
        for sent in (
            b"hello\n",
            b'{"event":"hello","data":{"protocol":"x"}}\n',
            b'{"event":"hello","data":7}\n',
            b'{"event":"error","data":{}}\n',
            b'{"event":"status","data":{}}\n',
            hello + b'{"id":1,"ok":true,"data":{}}\n',
            hello + b'{"id":1,"ok":true,"data":{"proof":"\xc3\xa4"}}\n',
            b"",
        ):
            here, there = socket.socketpair()
            there.sendall(sent)
            there.shutdown(socket.SHUT_WR)
            error = self.assertRaises(CtllmError, IpcClient, state, 5.0, connect_to(here))
            self.assertTrue(error.message, sent)
            there.close()

    def test_a_response_that_never_ends_times_out(self) -> None:
        state = Path(self.mktemp())
        path = state.joinpath(*protocol.ADDRESS_FILE)
        path.parent.mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = protocol.DaemonAddress(server.getsockname()[1], "secret", 1)
            path.write_bytes(msgspec.json.encode(address))
            is_over = threading.Event()

            def trickle() -> None:
                connection, _ = server.accept()
                with connection, contextlib.suppress(OSError):
                    while not is_over.wait(0.02):
                        connection.send(b" ")

            thread = threading.Thread(target=trickle)
            thread.start()
            try:
                self.assertRaises(BadGateway, IpcClient, state, timeout=0.3)
            finally:
                is_over.set()
                thread.join()
