"""nginx with the routes straight to streaming proxies, between an authorizer and a proxy that lie.

Both are threads of the test, which record what nginx sends and respond with fixed bytes.
"""

from __future__ import annotations

import os
import re
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ctllm.http.header_policy import response_from_proxy
from ctllm.http.message.head import ResponseHead
from tests.e2e.nginx import Nginx

SOCKET = "0123456789abcdef/proxy.sock"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n%b\r\n"
TO_CLOUD = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n%b\r\n"
#: What a browser obeys, and a response of the gateway cannot have.
HOSTILE = (
    "Set-Cookie: __Host-ctllm-session=x; Path=/; Secure", "Set-Cookie2: a=b", "Refresh: 0; url=//x",
    "Clear-Site-Data: \"*\"", "Content-Security-Policy: default-src *", "Service-Worker-Allowed: /",
    "Location: https://evil.example/", "Location: //evil.example/", "Link: </x>; rel=preload",
    "Strict-Transport-Security: max-age=0", "Alt-Svc: h3=\":444\"", "SourceMap: /x",
    "X-SourceMap: /x",
    "Access-Control-Allow-Origin: *", "Access-Control-Allow-Credentials: true", "NEL: {}",
    "Report-To: {}", "Reporting-Endpoints: a=\"https://evil.example\"", "WWW-Authenticate: Basic",
    "Cache-Control: public, max-age=31536000", "Permissions-Policy: camera=*", "Expires: 0",
    "Cross-Origin-Opener-Policy: unsafe-none", "Cross-Origin-Resource-Policy: cross-origin",
    "X-Content-Type-Options: sniff", "X-Frame-Options: ALLOWALL", "Referrer-Policy: unsafe-url",
    "Origin-Agent-Cluster: ?0", "Timing-Allow-Origin: *", "X-DNS-Prefetch-Control: on",
    "Content-Disposition: attachment; filename=x.exe", "X-Accel-Redirect: /ctllm-authorize",
    "X-Accel-Buffering: yes", "X-Accel-Limit-Rate: 1", "Accept-CH: Sec-CH-UA", "Age: 5",
    "Speculation-Rules: \"/x\"", "Document-Policy: x", "Trailer: x", "Pragma: x", "Via: x",
)  # fmt: skip


class Upstream:
    """A server at a UNIX socket that responds to each request with the next of `responses`.

    The last one is repeated. `requests` are what it received: head and body. With `keeps`, a
    connection stays open for the next request; `connections` are those that are open, and
    `accepted` is the number of all.
    """

    def __init__(self, path: Path, keeps: bool = False) -> None:
        self.path, self.responses, self._keeps = path, [OK], keeps
        self.may_respond = threading.Event()
        self.may_respond.set()
        self.connections: list[socket.socket] = []
        self.accepted = 0
        self.requests: list[tuple[bytes, bytes]] = []
        self._server: socketserver.ThreadingUnixStreamServer | None = None

    def start(self) -> None:
        """Listen."""
        upstream = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                upstream.accepted += 1
                upstream.connections.append(self.request)
                with suppress(ConnectionError):  # nginx has left
                    while upstream.serve(self.request) and upstream._keeps:
                        pass
                upstream.connections.remove(self.request)

        self.path.unlink(missing_ok=True)
        self._server = socketserver.ThreadingUnixStreamServer(str(self.path), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,)).start()

    def stop(self) -> None:
        """Stop listening; leave the socket, as a killed process does."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            for each in list(self.connections):
                each.shutdown(socket.SHUT_RDWR)
            server.server_close()

    def serve(self, connection: socket.socket) -> bool:
        """Respond to one request; return False at the end of the connection."""
        received = b""
        while b"\r\n\r\n" not in received:
            data = connection.recv(65536)
            if not data:
                return False
            received += data
        head, _, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
        while len(body) < (int(length[1]) if length else 0):
            body += connection.recv(65536)
        self.requests.append((head, body))
        self.may_respond.wait(30)
        response = self.responses[0] if len(self.responses) == 1 else self.responses.pop(0)
        connection.sendall(response)
        return True

    def names(self) -> list[str]:
        """Return the names of the headers of the last request, in lower case."""
        lines = self.requests[-1][0].split(b"\r\n")[1:]
        return sorted(line.partition(b":")[0].decode().lower() for line in lines)


class Routes:
    """nginx, an authorizer, a streaming proxy and a backend. `values` are for nginx's templates."""

    def __init__(self, folder: Path, **values: str) -> None:
        (folder / "sockets" / SOCKET).parent.mkdir(parents=True)
        self.backend = Upstream(folder / "backend.sock")
        self.nginx = Nginx(f"unix:{self.backend.path}", **values)
        self.nginx.logs_requests = True
        self.authorizer = Upstream(self.nginx.authorizer, keeps=True)
        self.proxy = Upstream(folder / "sockets" / SOCKET)
        for each in (self.backend, self.authorizer, self.proxy):
            each.start()
        self.nginx.start(folder)
        self.allow()

    def allow(self, *headers: str, upstream: str = f"unix:/on/the/host/{SOCKET}") -> None:
        lines = [f"Ctllm-Upstream: {upstream}", "Ctllm-Request: ENVELOPE", *headers]
        self.authorizer.responses = [NO_CONTENT % "".join(f"{e}\r\n" for e in lines).encode()]

    def request(self, head: str = "GET /api/tags", body: bytes = b"", *headers: str) -> bytes:
        """Send a request; return what comes until nginx closes."""
        lines = [f"{head} HTTP/1.1", "Host: ctllm.test", "Connection: close", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        return self.send("".join(f"{each}\r\n" for each in lines).encode() + b"\r\n" + body)

    def send(self, data: bytes) -> bytes:
        """Send any bytes; return what comes until nginx closes."""
        with socket.create_connection(("127.0.0.1", self.nginx.port), 30) as connection:
            connection.sendall(data)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def stop(self) -> None:
        self.nginx.stop()
        for each in (self.backend, self.authorizer, self.proxy):
            each.stop()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routes]:
    """Start everything once."""
    routes = Routes(tmp_path_factory.mktemp("r"))
    yield routes
    routes.stop()


@pytest.fixture
def routes(running: Routes) -> Routes:
    """nginx, with nothing recorded yet, and an authorizer that allows everything."""
    for each in (running.backend, running.authorizer, running.proxy):
        each.requests.clear()
        each.responses = [OK]
    running.allow()
    return running


def status(response: bytes) -> int:
    return int(response.split(b" ")[1])


def headers_of(response: bytes) -> dict[str, list[str]]:
    """Return the values of each header."""
    found: dict[str, list[str]] = {}
    for line in response.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]:
        name, _, value = line.partition(": ")
        found.setdefault(name.lower(), []).append(value)
    return found


def test_a_proxy_receives_the_envelope_and_no_header_of_the_client(routes: Routes) -> None:
    """The backend receives the whole head, and the client's address."""
    sent = ("Ctllm-Request: mine", "Ctllm-Grant: mine", "Ctllm-Assertion: mine", "Cookie: c",
            "Authorization: Bearer k", "X-Forwarded-For: 192.0.2.1", "X-Any: 1")  # fmt: skip
    response = routes.request("POST /api/chat?a=%20b", b"body", *sent)
    assert response.endswith(b"\r\n\r\nok"), response
    assert routes.proxy.names() == ["content-length", "ctllm-request", "host"]
    head, body = routes.proxy.requests[0]
    assert b"\r\nCtllm-Request: ENVELOPE" in head and body == b"body" and b"mine" not in head
    asked, nothing = routes.authorizer.requests[0]
    assert asked.startswith(b"POST /api/chat?a=%20b HTTP/1.1\r\n") and nothing == b""
    assert b"\r\nX-Forwarded-For: 127.0.0.1" in asked and b"192.0.2.1" not in asked
    assert b"\r\nCookie: c" in asked and b"\r\nAuthorization: Bearer k" in asked
    assert routes.backend.requests == []


def test_connections_to_the_backend_are_kept_and_say_nothing_of_a_client(routes: Routes) -> None:
    """Refusals, HEAD and a handshake keep them, too. The id of a request is nginx's own."""
    before = routes.authorizer.accepted
    mine = ("Ctllm-Client-Connection: mine", "Ctllm-Request-Id: " + "a" * 32, "X-Any: 1")
    ids = set()
    for head in ("GET /api/tags", "HEAD /api/tags", "GET /ws/tunnel") * 3:
        routes.request(head, b"", *mine, "Upgrade: websocket")
        asked = routes.authorizer.requests[-1][0]
        assert b"\r\nCtllm-Client-Connection: close\r\n" in asked + b"\r\n", asked
        assert b"\r\nConnection:" not in asked and b"mine" not in asked
        ids.update(re.findall(rb"\r\nCtllm-Request-Id: ([0-9a-f]{32})\r\n", asked + b"\r\n"))
    routes.authorizer.responses = [TO_CLOUD % b""]
    routes.request()
    routes.allow()
    routes.request("GET http://ctllm.test?absolute")
    assert routes.authorizer.requests[-1][0].startswith(b"GET /?absolute HTTP/1.1\r\n")
    workers = os.cpu_count() or 1  # each keeps its own
    assert routes.authorizer.accepted - before <= workers < len(routes.authorizer.requests)
    assert len(ids) == 9 and b"a" * 32 not in ids


@pytest.mark.parametrize(
    "target",
    ["/ctllm/session", "/health", "/ctllm/control/requests", "/ctllm-authorize", "/ws/else"],
)
def test_what_is_not_for_a_proxy_does_not_reach_one(routes: Routes, target: str) -> None:
    """Nor the authorizer by its own path."""
    response = routes.request(f"GET {target}")
    assert status(response) == (404 if target == "/ctllm-authorize" else 200)
    assert routes.proxy.requests == [] and routes.authorizer.requests == []


@pytest.mark.parametrize(
    "target",
    ["/%63tllm-authorize", "//ctllm-authorize", "/api/../ctllm-authorize",
     "/api/%2e%2e/ctllm-authorize", "/api/..%2fctllm-authorize", "/x/%2e./ctllm-authorize?a",
     "http://ctllm.test/ctllm-authorize", "/ctllm-authorize#x"],
)  # fmt: skip
def test_the_location_of_the_question_cannot_be_reached(routes: Routes, target: str) -> None:
    """However its path is written, nobody is asked."""
    assert status(routes.request(f"GET {target}")) == 404
    for each in (routes.proxy, routes.authorizer, routes.backend):
        assert each.requests == []


@pytest.mark.parametrize(
    "target",
    ["/api/..%2fctllm/control/requests", "/ctllm/..%2fapi/tags", "/%61pi/tags", "//api///tags",
     "/api/%2e%2e/v1/models", "/@ctllm_backend", "/api/tags%00", "/api/tags%0d%0aX:%20y",
     "/ctllm%2fcontrol/requests", "/ctllm-authorize%2f", "/api/tags;/../x"],
)  # fmt: skip
def test_the_backend_judges_the_target_that_the_client_sent(routes: Routes, target: str) -> None:
    """Nginx decodes it to choose a location, and passes it on as it was: to the backend alone.

    A streaming proxy receives the backend's envelope, in which nothing is nginx's.
    """
    response = routes.request(f"GET {target}")
    asked = [head for head, _ in (*routes.authorizer.requests, *routes.backend.requests)]
    if status(response) == 400:  # nginx refuses NUL
        assert asked == []
    else:
        assert [head.split(b" ")[1] for head in asked] == [target.encode()]
    for head, _ in routes.proxy.requests:
        assert head.partition(b"\r\nCtllm-Request: ")[2].startswith(b"ENVELOPE")


def test_an_absolute_target_decides_the_host(routes: Routes) -> None:
    """As nginx has decided with it; the client's header counts only if it says the same."""
    for path, upstream in (("api/tags", routes.authorizer), ("ctllm/session", routes.backend)):
        lines = f"GET http://ctllm.test/{path} HTTP/1.1\r\nHost: evil.example\r\n"
        routes.send(f"{lines}Connection: close\r\n\r\n".encode())
        assert b"\r\nHost: ctllm.test\r\n" in upstream.requests[-1][0]
        lines = f"GET /{path} HTTP/1.1\r\nHost: Ctllm.test:8443\r\n"
        routes.send(f"{lines}Connection: close\r\n\r\n".encode())
        assert b"\r\nHost: Ctllm.test:8443\r\n" in upstream.requests[-1][0]


#: What two servers may read in two ways.
AMBIGUOUS = (
    "Content-Length: 3\r\nContent-Length: 5", "Content-Length: 5\r\nTransfer-Encoding: chunked",
    "Content-Length: +5", "Content-Length: 5, 5", "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "Host: evil.example",
    "Transfer-Encoding: chunked, identity", "Content-Length: 0x5", "X: a\0b",
    "Authorization: Bearer a\r\nAuthorization: Bearer b",
)  # fmt: skip


@pytest.mark.parametrize("lines", AMBIGUOUS)
def test_ambiguous_requests_reach_nobody(routes: Routes, lines: str) -> None:
    """Neither the backend nor a proxy gets a part of the body as a request of its own."""
    body = "0\r\n\r\nGET /ctllm/control/requests HTTP/1.1\r\nHost: ctllm.test\r\n\r\n"
    head = f"POST /api/chat HTTP/1.1\r\nHost: ctllm.test\r\n{lines}\r\n\r\n"
    response = routes.send(head.encode() + body.encode())
    assert status(response) in (400, 501), response
    for each in (routes.proxy, routes.authorizer, routes.backend):
        assert each.requests == []


def test_headers_that_other_servers_obey_change_nothing(routes: Routes) -> None:
    """The backend is asked about the request as it is; names with `_` are dropped."""
    hostile = ("X-Original-URL: /ctllm/keys", "X-Rewrite-URL: /ctllm/keys", "X-Original-URI: /x",
               "X-Original-Method: DELETE", "X-HTTP-Method-Override: DELETE", "X_Forwarded_For: 1",
               "Ctllm_Refusal: mine", "Ctllm_Grant: mine", "X-Accel-Redirect: /x",
               "X-Real-IP: 192.0.2.1", "Forwarded: for=192.0.2.1")  # fmt: skip
    routes.request("GET /api/tags", b"", *hostile)
    asked = routes.authorizer.requests[0][0]
    assert asked.startswith(b"GET /api/tags HTTP/1.1\r\n") and b"_" not in asked
    assert asked.count(b"\r\nX-Forwarded-For: 127.0.0.1") == 1
    assert routes.proxy.names() == ["ctllm-request", "host"]


def test_the_backend_responds_with_a_refusal_and_gets_the_body(routes: Routes) -> None:
    """It is told the ticket, whatever ticket the client sends."""
    routes.authorizer.responses = [TO_CLOUD % b"Ctllm-Refusal: T1\r\n"]
    routes.backend.responses = [OK.replace(b"200 OK", b"429 Too Many")]
    response = routes.request("POST /v1/messages", b"body", "Ctllm-Refusal: mine")
    assert status(response) == 429 and routes.proxy.requests == []
    head, body = routes.backend.requests[0]
    assert head.startswith(b"POST /v1/messages HTTP/1.1") and body == b"body"
    assert b"\r\nCtllm-Refusal: T1" in head and b"mine" not in head
    routes.authorizer.responses = [TO_CLOUD % b""]
    routes.request("GET /", b"", "Ctllm-Refusal: mine")
    assert "ctllm-refusal" not in routes.backend.names()
    routes.request("GET /ctllm/session", b"", "Ctllm-Refusal: mine")
    assert "ctllm-refusal" not in routes.backend.names()


@pytest.mark.parametrize("code", [401, 403, 429, 500, 502, 503])
def test_an_error_of_a_proxy_is_passed_on(routes: Routes, code: int) -> None:
    """It leads neither to the backend nor to another attempt."""
    routes.proxy.responses = [OK.replace(b"200 OK", b"%d Error" % code)]
    response = routes.request()
    assert status(response) == code and response.endswith(b"ok")
    assert len(routes.proxy.requests) == 1 and routes.backend.requests == []


def test_a_proxy_changes_nothing_in_a_browser(routes: Routes) -> None:
    """Headers that do are dropped, the content is inert, and CORS is what the cloud says."""
    lines = "".join(f"{each}\r\n" for each in HOSTILE)
    routes.proxy.responses = [OK.replace(b"\r\n\r\n", f"\r\n{lines}\r\n".encode())]
    routes.allow("Access-Control-Allow-Origin: https://a.example", "Vary: Origin")
    response = routes.request()
    assert response.endswith(b"ok"), response
    found = headers_of(response)
    assert found.pop("access-control-allow-origin") == ["https://a.example"]
    assert found.pop("content-security-policy") == ["default-src 'none'; sandbox"]
    assert found.pop("x-content-type-options") == ["nosniff"]
    assert found.pop("vary") == ["Origin"]
    assert sorted(found) == ["connection", "content-length"]
    assert routes.authorizer.requests[1:] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("Location", "/api/tags"), ("Location", "/v1/x?y"), ("Location", "/ctllm/logout"),
     ("Location", "/api/../ctllm"), ("Location", "/api/%2e%2e/x"), ("Location", "/api//x"),
     ("Location", "javascript:1"), ("Location", "/"), ("Cache-Control", "no-store"),
     ("Cache-Control", "no-cache, private"), ("Cache-Control", "public"),
     ("Cache-Control", "max-age=01")],
)  # fmt: skip
def test_values_pass_as_the_gateway_passes_them(routes: Routes, name: str, value: str) -> None:
    """The patterns of nginx are those of ctllm.http.header_policy."""
    header = (name.encode(), value.encode())
    is_passed = header in response_from_proxy(ResponseHead(200, b"", (header,))).headers
    routes.proxy.responses = [OK.replace(b"\r\n\r\n", b"\r\n%b: %b\r\n\r\n" % header)]
    found = headers_of(routes.request())
    assert found.get(name.lower()) == ([value] if is_passed else None)


@pytest.mark.parametrize(
    "upstream",
    ["unix:/var/run/docker.sock", "unix:/x/../../etc/proxy.sock", "evil.example:80", "[::1]:80",
     "unix:/x/0123456789abcdef/other.sock", f"unix:/x/{SOCKET}:/else", ""],
)  # fmt: skip
def test_an_address_that_is_none_of_a_proxy_gives_503(routes: Routes, upstream: str) -> None:
    """In the dialect of the path, with Retry-After."""
    routes.allow(upstream=upstream)
    response = routes.request("POST /v1/messages", b"body")
    assert status(response) == 503 and b'"type":"overloaded_error"' in response
    assert headers_of(response)["retry-after"] == ["2"]
    assert routes.proxy.requests == []


def test_a_response_that_breaks_off_does_not_look_complete(routes: Routes) -> None:
    """The client sees no last chunk."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    routes.proxy.responses = [head + b"3\r\nabc\r\n"]
    response = routes.request()
    assert response.endswith(b"\r\nabc\r\n") and not response.endswith(b"0\r\n\r\n")


def test_a_request_waits_while_the_backend_is_away(routes: Routes) -> None:
    """Its body is not lost. A tunnel does not wait: its desktop tries again."""
    routes.authorizer.stop()
    started, responses = time.monotonic(), []
    client = threading.Thread(
        target=lambda: responses.append(routes.request("POST /api/chat", b"x" * 3_000_000))
    )
    client.start()
    upgrade = ("Upgrade: websocket", "Connection: Upgrade")
    assert status(routes.request("GET /ws/tunnel", b"", *upgrade)) == 503
    while time.monotonic() < started + 1.0:  # so that it waits more than once
        time.sleep(0.05)
    assert responses == []
    routes.authorizer.start()
    client.join(20)
    assert responses[0].endswith(b"ok")
    assert routes.proxy.requests[0][1] == b"x" * 3_000_000


def test_an_answer_of_the_backend_that_is_neither_leads_nowhere(routes: Routes) -> None:
    """Not even 200 with an address but a status of an error."""
    routes.authorizer.responses = [OK.replace(b"200 OK", b"400 Bad Request")]
    assert status(routes.request()) == 503
    assert routes.proxy.requests == [] and routes.backend.requests == []
