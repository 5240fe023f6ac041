"""A server in a thread that answers as a test says, with the certificate that a test makes."""

from __future__ import annotations

import datetime
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "app.ctllm.test"
DAY = datetime.timedelta(days=1)
#: Answers a connection: gets it, and an event that is set when the test ends.
Answer = Callable[[socket.socket, threading.Event], None]


def make_certificate(
    folder: Path,
    name: str = HOST,
    begin: datetime.timedelta = -DAY,
    end: datetime.timedelta = 80 * DAY,
    issuer: str = HOST,
) -> Path:
    """Create a certificate that issues itself, valid from `begin` to `end` from now.

    The file has its key, too.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)])
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begin)
        .not_valid_after(now + end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{x509.random_serial_number():x}.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


def read_head(connection: socket.socket) -> bytes:
    """Return the target of a request, once its head has arrived."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = connection.recv(4096)
        if not data:
            raise ConnectionError
        received += data
    return received.split(b" ")[1]


def respond(connection: socket.socket, body: bytes, status: str = "200 OK", head: str = "") -> None:
    """Send a response."""
    length = f"Content-Length: {len(body)}\r\nConnection: close\r\n"
    connection.sendall(f"HTTP/1.1 {status}\r\n{head}{length}\r\n".encode() + body)


@contextmanager
def run_server(answer: Answer, certificate: Path | None = None) -> Iterator[int]:
    """Give the port of a server, with TLS if there is a certificate."""
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        context.set_alpn_protocols(["h2", "http/1.1"])
    with _serve(socketserver.ThreadingTCPServer, ("127.0.0.1", 0), answer, context) as server:
        yield server.server_address[1]


@contextmanager
def run_unix_server(path: Path, answer: Answer) -> Iterator[Path]:
    """Give the path of a server on a UNIX socket."""
    with _serve(socketserver.ThreadingUnixStreamServer, str(path), answer, None):
        yield path


@contextmanager
def run_udp_server(answer: Callable[[bytes], bytes]) -> Iterator[int]:
    """Give the port of a server that answers each datagram, unless with nothing."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data, reply = self.request
            if answered := answer(data):
                reply.sendto(answered, self.client_address)

    with socketserver.UDPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def _serve(
    kind: type[socketserver.TCPServer],
    address: tuple[str, int] | str,
    answer: Answer,
    context: ssl.SSLContext | None,
) -> Iterator[socketserver.TCPServer]:
    ended = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connection = self.request
            with suppress(OSError):
                if context is not None:
                    connection = context.wrap_socket(connection, server_side=True)
                with connection:
                    answer(connection, ended)

    with kind(address, Handler) as server:  # type: ignore[arg-type]
        server.daemon_threads = True  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            ended.set()
            server.shutdown()
            thread.join()
