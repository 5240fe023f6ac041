"""The limit of connections from one client address, which nginx counts before it reads anything.

nginx is Debian 13's, as its container starts it.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.container_nginx import APP, ContainerNginx
from tests.e2e.debian_system import DebianSystem

#: Requests that an address may have at a time, and connections.
REQUESTS, CONNECTIONS = 20, 40
ATTACKER, OTHER = "127.0.0.66", "127.0.0.67"
#: Seconds until nginx has noticed what clients did.
PATIENCE = 20.0
HALF_A_HEAD = f"GET /api/tags HTTP/1.1\r\nHost: {APP}\r\nX-Slow: ".encode()
#: The beginning of a handshake (RFC 8446, section 5.1): a record of 512 bytes is announced.
HALF_A_HANDSHAKE = b"\x16\x03\x01\x02\x00\x01"


@pytest.fixture
def nginx(trixie: DebianSystem) -> Iterator[ContainerNginx]:
    """Nginx without a backend."""
    nginx = ContainerNginx(trixie, "127.0.0.1:1")
    nginx.folder.joinpath("cloud").mkdir()
    nginx.start(nginx.folder / "cloud", CLIENT_CONNECTIONS=REQUESTS)
    try:
        yield nginx
    finally:
        nginx.stop()


def connect(nginx: ContainerNginx, address: str) -> socket.socket:
    """Connect from an address; raises OSError."""
    return socket.create_connection(("127.0.0.1", nginx.port), 5, (address, 0))


def connect_tls(nginx: ContainerNginx, address: str) -> ssl.SSLSocket:
    """Connect from an address, with a handshake; raises OSError."""
    context = ssl.create_default_context(cafile=str(nginx.authority))
    plain = connect(nginx, address)
    try:
        return context.wrap_socket(plain, server_hostname=APP)
    except OSError:
        plain.close()
        raise


def is_served(nginx: ContainerNginx, address: str) -> bool:
    """Return whether a request from an address gets nginx's response, which has no backend."""
    try:
        with connect_tls(nginx, address) as connection:
            connection.sendall(f"GET /health HTTP/1.1\r\nHost: {APP}\r\n\r\n".encode())
            return connection.recv(12) == b"HTTP/1.1 503"
    except OSError:
        return False


def is_open(connection: socket.socket) -> bool:
    """Return whether the server has closed neither direction; nothing is expected from it."""
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False


def begin_handshake(nginx: ContainerNginx) -> socket.socket:
    """Connect, and send the beginning of a handshake."""
    connection = connect(nginx, ATTACKER)
    connection.sendall(HALF_A_HANDSHAKE)
    return connection


def begin_request(nginx: ContainerNginx) -> socket.socket:
    """Connect, and send the beginning of a request's head."""
    connection = connect_tls(nginx, ATTACKER)
    connection.sendall(HALF_A_HEAD)
    return connection


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.mark.parametrize("begin", [connect, begin_handshake, begin_request])
def test_an_address_that_holds_all_it_can_leaves_others_alone(
    nginx: ContainerNginx, begin: Callable[..., socket.socket]
) -> None:
    """Whether it sends nothing, half a handshake or half a head. Further connections are closed."""
    arguments = (nginx, ATTACKER) if begin is connect else (nginx,)
    wait_until(lambda: is_served(nginx, ATTACKER), "nginx serves before the attack")
    with ExitStack() as held:
        connections: list[socket.socket] = []
        for _ in range(CONNECTIONS * 3):
            try:
                connections.append(held.enter_context(begin(*arguments)))
            except OSError:
                break  # it was closed during the handshake
        wait_until(lambda: not is_served(nginx, ATTACKER), "the address to be at its limit")
        wait_until(lambda: sum(map(is_open, connections)) <= CONNECTIONS, "the rest to be closed")
        # A request of the probe may have held the last one.
        assert sum(map(is_open, connections)) >= CONNECTIONS - 1
        assert is_served(nginx, OTHER)
    wait_until(lambda: is_served(nginx, ATTACKER), "the address to be served again")
    assert f'"client":"{OTHER}"' in nginx.log(), "It is not the address of the connection."


def test_plain_http_is_accepted_in_the_same_way(nginx: ContainerNginx) -> None:
    """It leads to HTTPS; connections to both ports count together."""
    address = ("127.0.0.1", nginx.plain_port)
    with socket.create_connection(address, 5) as connection:
        request = f"GET /a HTTP/1.1\r\nHost: {APP}\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        response = connection.makefile("rb").read()
    assert response.startswith(b"HTTP/1.1 308")
    assert f"Location: https://{APP}/a\r\n".encode() in response
    with ExitStack() as held:
        for _ in range(CONNECTIONS):
            held.enter_context(socket.create_connection(address, 5, (ATTACKER, 0)))
        wait_until(lambda: not is_served(nginx, ATTACKER), "the address to be at its limit")
        assert is_served(nginx, OTHER)
