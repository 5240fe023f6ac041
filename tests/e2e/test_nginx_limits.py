"""The limits of nginx-proxy for one client address, over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.test_nginx_routes import Routes, headers_of, status

RATE, BURST, CONNECTIONS = 2, 8, 4
SECRET = "secret-that-no-log-may-have"
DIALECTS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("/api/tags", lambda it: it["error"]),
    ("/v1/models", lambda it: it["error"]["message"]),
    ("/v1/messages", lambda it: it["error"]["message"] if it["type"] == "error" else ""),
    ("/ctllm/session", lambda it: it["error"]),
)
#: Frames of HTTP/2.
HEADERS, SETTINGS = 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame of HTTP/2."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(
        ">I", stream
    ) + payload  # fmt: skip


def field(index: int, value: bytes) -> bytes:
    """Return a header whose name is in HPACK's static table, and its value as it is."""
    return bytes((index, len(value))) + value


#: GET /api/tags
HEAD = b"\x82\x86" + field(0x01, b"ctllm.test") + field(0x04, b"/api/tags")


@pytest.fixture
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routes]:
    """Nginx with low limits; no test uses the address of another."""
    routes = Routes(
        tmp_path_factory.mktemp("l"), CLIENT_REQUESTS_PER_SECOND=str(RATE), BURST=str(BURST),
        CLIENT_CONNECTIONS=str(CONNECTIONS),
    )  # fmt: skip
    yield routes
    routes.authorizer.may_respond.set()
    routes.stop()


def assert_refused(response: bytes, read: Callable[[dict[str, Any]], str]) -> None:
    """Assert that a response is nginx's own refusal, which pages of any origin may read."""
    headers = headers_of(response)
    assert headers["content-type"] == ["application/json"]
    assert headers["retry-after"] == ["1"]
    assert headers["access-control-allow-origin"] == ["*"]
    assert headers["access-control-expose-headers"] == ["Retry-After, Ctllm-Request-Id"]
    assert re.fullmatch(r"[0-9a-f]{32}", headers["ctllm-request-id"][0])
    body = json.loads(response.partition(b"\r\n\r\n")[2])
    assert read(body).startswith("Too many requests at once from this address")


@pytest.mark.parametrize(("path", "read"), DIALECTS)
def test_requests_over_the_rate_get_429(
    limited: Routes, path: str, read: Callable[[dict[str, Any]], str]
) -> None:
    """In the dialect of the path. The log has the status, and nothing that the client wrote."""
    headers = (f"Authorization: Bearer {SECRET}", f"Cookie: a={SECRET}",
               f"Origin: https://{SECRET}.example", f"User-Agent: {SECRET}")  # fmt: skip
    responses = [limited.request(f"GET {path}?key={SECRET}", b"", *headers) for _ in range(30)]
    refused = [each for each in responses if status(each) == 429]
    assert status(responses[0]) == 200 and refused
    assert len(responses) - len(refused) == len(limited.proxy.requests + limited.backend.requests)
    assert_refused(refused[0], read)
    id = headers_of(refused[0])["ctllm-request-id"][0]
    log = limited.nginx.access_log.read_text()
    (line,) = [each for each in map(json.loads, log.splitlines()) if each["request_id"] == id]
    assert (line["status"], line["client"]) == (429, "127.0.0.1")
    errors = (limited.nginx.folder / "errors").read_text()
    assert SECRET not in log + errors


def wait_until_asked(limited: Routes, number: int) -> None:
    deadline = time.monotonic() + 20
    while len(limited.authorizer.requests) < number:
        assert time.monotonic() < deadline, len(limited.authorizer.requests)
        time.sleep(0.02)


def test_requests_over_the_number_at_a_time_get_429(limited: Routes) -> None:
    """Those before go on; when one has ended, another is served."""
    limited.authorizer.may_respond.clear()
    responses: list[bytes] = []
    clients = [
        threading.Thread(target=lambda: responses.append(limited.request()))
        for _ in range(CONNECTIONS)
    ]
    for each in clients:
        each.start()
    wait_until_asked(limited, CONNECTIONS)
    refused = limited.request()
    assert status(refused) == 429
    assert_refused(refused, DIALECTS[0][1])
    limited.authorizer.may_respond.set()
    for each in clients:
        each.join(20)
    assert [status(each) for each in responses] == [200] * CONNECTIONS
    assert status(limited.request()) == 200


def read_statuses(connection: socket.socket, number: int) -> list[int]:
    """Return the statuses of the next responses, which nginx encodes as 200, or in three digits."""
    statuses: list[int] = []
    with connection.makefile("rb") as received:
        while len(statuses) < number:
            head = received.read(9)
            payload = received.read(int.from_bytes(head[:3], "big"))
            if head[3] == HEADERS:
                digits = re.search(rb"\x48\x03([0-9]{3})", payload)
                statuses.append(int(digits[1]) if digits else 200 if b"\x88" in payload else 0)
    return statuses


def test_streams_of_one_http2_connection_count_as_requests(limited: Routes) -> None:
    """Those over the limit get 429 while the others wait."""
    limited.authorizer.may_respond.clear()
    more = 3
    address = ("127.0.0.1", limited.nginx.http2_port)
    with socket.create_connection(address, 20) as connection:
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
        for number in range(CONNECTIONS + more):
            connection.sendall(frame(HEADERS, 5, 2 * number + 1, HEAD))
        wait_until_asked(limited, CONNECTIONS)
        assert read_statuses(connection, more) == [429] * more
        limited.authorizer.may_respond.set()
        assert read_statuses(connection, CONNECTIONS) == [200] * CONNECTIONS
    assert len(limited.authorizer.requests) == CONNECTIONS
