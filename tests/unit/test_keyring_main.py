"""The process that asks the system's keyring: no dialog unasked, and no success that is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ctllm.keyring_main import SERVICE, Absent, Locked, Request, Response, open_keyring, respond

COMMAND = [sys.executable, "-P", "-m", "ctllm.keyring_main"]


class KeyringLocked(Exception):
    """As keyring raises it."""


class FakeKeyring:
    """A keyring with the methods of keyring's backends."""

    def __init__(self) -> None:
        self.passwords: dict[tuple[str, str], str] = {}
        self.forgets = False
        self.error: Exception | None = None

    def get_password(self, service: str, name: str) -> str | None:
        self._fail()
        return self.passwords.get((service, name))

    def set_password(self, service: str, name: str, password: str) -> None:
        self._fail()
        if not self.forgets:
            self.passwords[service, name] = password

    def delete_password(self, service: str, name: str) -> None:
        self._fail()
        del self.passwords[service, name]

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


class RespondTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.keyring = FakeKeyring()

    def respond(self, operation: Any, name: str = "a", secret: str = "") -> Response:
        return respond(Request(operation, name, secret), lambda: self.keyring)

    def test_stores_returns_and_deletes(self) -> None:
        self.assertEqual(self.respond("get"), Response())
        self.assertEqual(self.respond("set", secret="one"), Response())
        self.assertEqual(self.respond("get"), Response("one"))
        self.assertEqual(self.keyring.passwords, {(SERVICE, "a"): "one"})
        for _ in range(2):
            self.assertEqual(self.respond("delete"), Response())
        self.assertEqual(self.keyring.passwords, {})

    def test_long_secrets_are_stored_in_parts_that_windows_accepts(self) -> None:
        for length in (1199, 1200, 1201, 2400, 9000):
            secret = "".join(chr(97 + number % 26) for number in range(length))
            self.assertEqual(self.respond("set", secret=secret), Response())
            self.assertEqual(self.respond("get"), Response(secret))
            parts = self.keyring.passwords.values()
            self.assertLessEqual(max(len(part.encode("utf-16-le")) for part in parts), 2560)
            self.assertEqual(self.respond("delete"), Response())
            self.assertEqual(self.keyring.passwords, {})

    def test_a_secret_without_one_of_its_parts_is_none(self) -> None:
        self.respond("set", secret="x" * 3000)
        del self.keyring.passwords[SERVICE, "a-1"]
        self.assertEqual(self.respond("get"), Response())

    def test_a_secret_that_is_too_long_fails(self) -> None:
        self.assertEqual(self.respond("set", secret="x" * 100_000).error, "failed")
        self.assertEqual(self.keyring.passwords, {})

    def test_a_keyring_that_forgets_has_not_stored_anything(self) -> None:
        """As one does whose dialog was dismissed, and keyring's null backend."""
        self.keyring.forgets = True
        self.assertEqual(self.respond("set", secret="one").error, "locked")

    def test_errors_are_told_by_their_kind_without_their_text(self) -> None:
        for error, kind in (
            (KeyringLocked("hunter2"), "locked"), (ValueError("hunter2"), "failed"),
        ):  # fmt: skip
            self.keyring.error = error
            for operation in ("get", "set", "delete"):
                response = self.respond(operation, secret="hunter2")
                self.assertEqual((response.error, response.detail), (kind, type(error).__name__))

    def test_a_keyring_that_cannot_be_opened_is_told(self) -> None:
        for error, kind in ((Locked(), "locked"), (Absent("no bus"), "absent")):

            def open_keyring(error: Exception = error) -> Any:
                raise error

            self.assertEqual(respond(Request("check"), open_keyring).error, kind)

    def test_no_representation_has_a_secret(self) -> None:
        self.assertNotIn("hunter2", repr(Request("set", "hunter2", "hunter2")))
        self.assertNotIn("hunter2", repr(Response("hunter2")))

    def test_other_systems_have_no_keyring(self) -> None:
        self.assertRaises(Absent, open_keyring, "plan9", True)


class ProcessTests(SynchronousTestCase):
    """The process itself, without a session bus."""

    def run_process(self, text: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": os.environ["PATH"], **environment}
        return subprocess.run(
            COMMAND, input=text, capture_output=True, text=True, env=env, timeout=60, check=False
        )

    def test_keyrings_that_store_nothing_or_plain_text_cannot_be_configured(self) -> None:
        for backend in ("keyring.backends.null.Keyring", "keyring.backends.fail.Keyring"):
            done = self.run_process('{"operation": "check"}\n', PYTHON_KEYRING_BACKEND=backend)
            if done.stdout:  # the end of the input may end it first
                self.assertEqual(json.loads(done.stdout)["error"], "absent")

    def test_refuses_what_is_no_request_without_quoting_it(self) -> None:
        for text in ("", "hunter2\n", '{"operation": "hunter2"}\n', '{"operation": "get"'):
            done = self.run_process(text)
            self.assertNotEqual(done.returncode, 0)
            self.assertNotIn("hunter2", done.stdout + done.stderr)
            self.assertNotIn("Traceback", done.stderr)

    def test_responds_while_its_input_is_open_and_makes_no_core_dumps(self) -> None:
        with subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={}
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(b'{"operation": "get", "name": "a", "may_prompt": true}\n')
            process.stdin.flush()
            response = json.loads(process.stdout.readline())
            self.assertEqual(response["error"], "absent")
            self.assertEqual(process.wait(60), 0)

    def test_ends_with_whoever_asked(self) -> None:
        """Before the request is complete, or after it: nothing stays."""
        with subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdin is not None
            process.stdin.write(b'{"operation": ')
            process.stdin.close()
            self.assertNotEqual(process.wait(60), None)
