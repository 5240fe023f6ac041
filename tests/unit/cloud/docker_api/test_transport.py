"""`ctllm.cloud.docker_api`: errors, logs and transports."""

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
    DockerTooNew,
    DockerTooOld,
    ImageNotFound,
    SubnetOverlap,
    create_transport,
)
from ctllm.cloud.docker_api.errors import error_from_response
from ctllm.cloud.docker_api.streams import demultiplex_logs
from ctllm.errors import BadConfiguration


class ResponseTests(SynchronousTestCase):
    def test_classifies_responses_of_the_engine(self) -> None:
        for status, text, error_type in (
            (404, "No such container: x", DockerNotFound),
            (404, "No such image: ctllm:1", ImageNotFound),
            (403, "error while removing network: network x has active endpoints", DockerConflict),
            (409, "Conflict. The container name is already in use", DockerConflict),
            (403, "Pool overlaps with other one on this address space", SubnetOverlap),
            (500, "write /var/lib/docker/x: no space left on device", DiskFull),
            (
                400,
                "client version 1.24 is too old. Minimum supported API version is 1.44",
                DockerTooNew,
            ),
            (400, "client version 1.99 is too new. Maximum supported is 1.41", DockerTooOld),
            (500, "something", DockerError),
        ):
            error = error_from_response(status, json.dumps({"message": text}).encode())
            self.assertIs(type(error), error_type)
            self.assertTrue(error.message.endswith(text), error.message)

    @given(st.integers(300, 599), st.binary(max_size=2000))
    def test_every_response_becomes_one_bounded_line(self, status: int, body: bytes) -> None:
        message = error_from_response(status, body).message
        self.assertTrue(len(message) < 700 and "\n" not in message)

    @given(st.lists(st.binary(max_size=50)), st.integers(0, 60))
    def test_joins_the_frames_of_a_log(self, chunks: list[bytes], cut: int) -> None:
        framed = b"".join(bytes([1, 0, 0, 0]) + len(p).to_bytes(4, "big") + p for p in chunks)
        self.assertEqual(demultiplex_logs(framed), b"".join(chunks))
        shorter = demultiplex_logs(framed[: len(framed) - cut]) if cut else b""
        self.assertTrue(b"".join(chunks).startswith(shorter))


class CreateTransportTests(SynchronousTestCase):
    def test_accepts_sockets_and_loopback_addresses(self) -> None:
        for address, description in (
            ("unix:///var/run/docker.sock", "Docker at /var/run/docker.sock"),
            ("/run/x.sock", "Docker at /run/x.sock"),
            ("tcp://127.0.0.1:2375", "Docker at 127.0.0.1:2375"),
            ("tcp://[::1]:2375", "Docker at [::1]:2375"),
        ):
            self.assertEqual(create_transport(Clock(), address).description, description)

    def test_refuses_other_addresses(self) -> None:
        for address in ("", "docker", "ssh://host", "tcp://", "tcp://h:x", "unix://x/y",
                        "tcp://127.0.0.1:1/x"):  # fmt: skip
            message = self.assertRaises(
                BadConfiguration, create_transport, Clock(), address
            ).message
            self.assertIn(repr(address), message)

    def test_other_machines_require_valid_certificates(self) -> None:
        for address in ("tcp://192.0.2.1:2375", "tcp://example.org:2375"):
            message = self.assertRaises(
                BadConfiguration, create_transport, Clock(), address
            ).message
            self.assertIn("docker_certs_dir", message)
        empty = Path(self.mktemp())
        empty.mkdir()
        message = self.assertRaises(
            BadConfiguration, create_transport, Clock(), "tcp://example.org", str(empty)
        ).message
        self.assertIn("ca.pem", message)
        (empty / "ca.pem").write_text("none")
        message = self.assertRaises(
            BadConfiguration, create_transport, Clock(), "tcp://example.org", str(empty)
        ).message
        self.assertIn("is invalid", message)
