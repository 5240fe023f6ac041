"""What engines complain of, and where they may be."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.docker_api import (
    DiskFull,
    DockerConflict,
    DockerError,
    DockerNotFound,
    DockerTooOld,
    ImageNotFound,
    SubnetOverlap,
    create_transport,
)
from ctllm.cloud.docker_api.errors import error_from_response
from ctllm.cloud.docker_api.streams import demultiplex_logs
from ctllm.errors import BadConfiguration


class ComplaintTests(SynchronousTestCase):
    """What engines complain of."""

    def test_kinds(self) -> None:
        """Each has its type, and the engine's own words at the end."""
        for status, said, kind in (
            (404, "No such container: x", DockerNotFound),
            (404, "No such image: ctllm:1", ImageNotFound),
            (403, "error while removing network: network x has active endpoints", DockerConflict),
            (409, "Conflict. The container name is already in use", DockerConflict),
            (403, "Pool overlaps with other one on this address space", SubnetOverlap),
            (500, "write /var/lib/docker/x: no space left on device", DiskFull),
            (400, "client version 1.99 is too new. Maximum supported is 1.41", DockerTooOld),
            (500, "something", DockerError),
        ):
            found = error_from_response(status, json.dumps({"message": said}).encode())
            self.assertIs(type(found), kind)
            self.assertTrue(found.message.endswith(said), found.message)

    @given(st.integers(300, 599), st.binary(max_size=2000))
    def test_anything(self, status: int, said: bytes) -> None:
        """Is an error in one line of bounded length."""
        message = error_from_response(status, said).message
        self.assertTrue(len(message) < 700 and "\n" not in message)

    @given(st.lists(st.binary(max_size=50)), st.integers(0, 60))
    def test_logs(self, pieces: list[bytes], cut: int) -> None:
        """Frames of both outputs in their order; a cut one gives what there is of it."""
        framed = b"".join(bytes([1, 0, 0, 0]) + len(p).to_bytes(4, "big") + p for p in pieces)
        self.assertEqual(demultiplex_logs(framed), b"".join(pieces))
        shorter = demultiplex_logs(framed[: len(framed) - cut]) if cut else b""
        self.assertTrue(b"".join(pieces).startswith(shorter))


class WayTests(SynchronousTestCase):
    """Addresses of engines."""

    def test_good_ones(self) -> None:
        """A socket, with and without a scheme, and loopback."""
        for address, where in (
            ("unix:///var/run/docker.sock", "Docker at /var/run/docker.sock"),
            ("/run/x.sock", "Docker at /run/x.sock"),
            ("tcp://127.0.0.1:2375", "Docker at 127.0.0.1:2375"),
            ("tcp://[::1]:2375", "Docker at [::1]:2375"),
        ):
            self.assertEqual(create_transport(Clock(), address).description, where)

    def test_bad_ones(self) -> None:
        """No scheme that we know, no host, no port, a path."""
        for address in ("", "docker", "ssh://host", "tcp://", "tcp://h:x", "unix://x/y",
                        "tcp://127.0.0.1:1/x"):  # fmt: skip
            said = self.assertRaises(BadConfiguration, create_transport, Clock(), address).message
            self.assertIn(repr(address), said)

    def test_strangers_need_certificates(self) -> None:
        """Plain TCP to another machine is refused; folders without them are named."""
        for address in ("tcp://192.0.2.1:2375", "tcp://example.org:2375"):
            said = self.assertRaises(BadConfiguration, create_transport, Clock(), address).message
            self.assertIn("docker_certs_dir", said)
        empty = Path(self.mktemp())
        empty.mkdir()
        said = self.assertRaises(
            BadConfiguration, create_transport, Clock(), "tcp://example.org", str(empty)
        ).message
        self.assertIn("ca.pem", said)
        (empty / "ca.pem").write_text("none")
        said = self.assertRaises(
            BadConfiguration, create_transport, Clock(), "tcp://example.org", str(empty)
        ).message
        self.assertIn("is invalid", said)
