"""Registered machines, and the requests of unknown ones that wait for an approval."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.request_signatures import PublicKey
from ctllm.auth.session_assertions import ISSUER, MANAGE, SERVE, USE
from ctllm.cloud.identity import (
    AccessGrant,
    Machine,
    MachineRequests,
    Machines,
    PrivateDirectory,
    User,
)
from ctllm.errors import Forbidden, NotFound, ServiceUnavailable, TooManyRequests, Unauthorized
from tests.ollama_key import OllamaKey

ANN, BOB = User(ISSUER, "ann", "Ann"), User(ISSUER, "bob", "Bob")
USER_AGENT = "ollama/0.17.4 (amd64 linux) Go/go1.24.1"


def public_key() -> PublicKey:
    """Return a new key."""
    return PublicKey(OllamaKey().raw)


class MachineCase(SynchronousTestCase):
    """An empty store and a clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.directory = PrivateDirectory(Path(self.mktemp()))
        self.machines = self.restart()

    def restart(self) -> Machines:
        return Machines(self.directory, self.clock.seconds, max_per_user=3, use_interval=600)

    def grant(self, user: User = ANN) -> AccessGrant:
        scopes = frozenset({USE, MANAGE, SERVE})
        return AccessGrant(user, scopes, self.clock.seconds() + 600, 1_600_000_000, tier="gold")

    def register(
        self, key: PublicKey | None = None, user: User = ANN, name: str = "laptop"
    ) -> tuple[str, Machine]:
        key = key or public_key()
        scopes = frozenset({USE})
        return key.id, self.machines.register(key, self.grant(user), name, scopes)


class MachinesTests(MachineCase):
    """The store."""

    def test_a_machine_survives_a_restart(self) -> None:
        machine_id, machine = self.register()
        self.assertEqual(self.restart().find(machine_id), machine)
        self.assertEqual(self.restart().of_user(ANN), {machine_id: machine})

    def test_its_grant_has_the_time_of_the_sign_in_that_approved_it(self) -> None:
        """So a revocation of that sign-in, even a concurrent one, ends the machine."""
        machine_id, machine = self.register()
        grant = machine.grant(machine_id, self.clock.seconds())
        self.assertEqual((grant.user, grant.scopes, grant.tier), (ANN, {USE}, "gold"))
        self.assertEqual(grant.auth_time, 1_600_000_000)
        self.assertEqual(grant.credential_id, f"machine:{machine_id}")

    def test_the_requests_of_a_minute_have_equal_grants(self) -> None:
        machine_id, machine = self.register()
        grants = set()
        for _ in range(600):
            now = self.clock.seconds()
            grant = machine.grant(machine_id, now)
            self.assertTrue(now + 300 <= grant.expires_at < now + 360)
            grants.add(grant)
            self.clock.advance(0.1)
        self.assertLessEqual(len(grants), 2)

    def test_no_file_has_the_key_itself(self) -> None:
        key = OllamaKey()
        self.register(PublicKey(key.raw))
        (file,) = self.directory.list_files()
        self.assertEqual(file, f"{key.id}.json")
        self.assertNotIn(key.public_key.encode(), self.directory.read(file) or b"")

    def test_a_user_sees_and_changes_only_own_machines(self) -> None:
        machine_id, machine = self.register()
        self.assertEqual(self.machines.of_user(BOB), {})
        self.assertRaises(NotFound, self.machines.rename, BOB, machine_id, "mine")
        self.assertRaises(NotFound, self.machines.remove, BOB, machine_id)
        self.assertEqual(self.machines.find(machine_id), machine)

    def test_the_key_of_another_user_cannot_be_taken_over(self) -> None:
        key = public_key()
        _, machine = self.register(key)
        error = self.assertRaises(Forbidden, self.register, key, BOB)
        self.assertNotIn("ann", error.message.lower())
        self.assertEqual(self.machines.find(key.id), machine)

    def test_the_same_user_may_register_again(self) -> None:
        key = public_key()
        self.register(key)
        self.register(key, name="renamed")
        self.assertEqual([each.name for each in self.machines.of_user(ANN).values()], ["renamed"])

    def test_a_scope_that_the_approver_lacks_is_refused(self) -> None:
        narrow = replace(self.grant(), scopes=frozenset({USE}))
        manage = frozenset({USE, MANAGE})
        self.assertRaises(Forbidden, self.machines.register, public_key(), narrow, "x", manage)
        self.assertEqual(self.directory.list_files(), [])

    def test_the_number_of_machines_is_limited(self) -> None:
        key = public_key()
        self.register(key)
        self.register()
        self.register()
        self.assertRaises(Forbidden, self.register)
        self.register(key)  # not another one
        self.register(user=BOB)

    def test_a_removed_machine_is_no_longer_active(self) -> None:
        machine_id, machine = self.register()
        grant = machine.grant(machine_id, self.clock.seconds())
        self.machines.check_active(grant)
        self.machines.remove(ANN, machine_id)
        self.assertRaises(Unauthorized, self.machines.check_active, grant)
        self.assertRaises(NotFound, self.machines.remove, ANN, machine_id)

    def test_a_removal_by_another_process_counts_at_once(self) -> None:
        machine_id, machine = self.register()
        self.assertEqual(len(self.machines.of_user(ANN)), 1)
        self.assertEqual(self.restart().remove_all(ANN), 1)
        self.assertIsNone(self.machines.find(machine_id))
        self.assertEqual(self.machines.of_user(ANN), {})
        grant = machine.grant(machine_id, self.clock.seconds())
        self.assertRaises(Unauthorized, self.machines.check_active, grant)

    def test_the_grants_of_others_are_not_concerned(self) -> None:
        for credential_id in ("", "0123456789abcdef"):
            self.machines.check_active(replace(self.grant(), credential_id=credential_id))

    def test_a_new_user_of_the_key_does_not_inherit_the_old_grant(self) -> None:
        key = public_key()
        machine_id, machine = self.register(key)
        old = machine.grant(machine_id, self.clock.seconds())
        self.machines.remove(ANN, machine_id)
        self.register(key, BOB)
        self.assertRaises(Unauthorized, self.machines.check_active, old)

    def test_a_use_is_stored_rarely(self) -> None:
        machine_id, machine = self.register()
        self.machines.record_use(machine_id, machine, "192.0.2.0/24")
        first = self.machines.find(machine_id)
        assert first is not None
        self.assertEqual(first.last_address, "192.0.2.0/24")
        self.clock.advance(599)
        self.machines.record_use(machine_id, first, "198.51.100.0/24")
        self.assertEqual(self.machines.find(machine_id), first)
        self.clock.advance(1)
        self.machines.record_use(machine_id, first, "198.51.100.0/24")
        (last,) = self.machines.of_user(ANN).values()
        self.assertEqual(last.last_address, "198.51.100.0/24")
        self.assertEqual(last.last_used, first.last_used + 600)

    def test_a_use_does_not_restore_a_removed_machine(self) -> None:
        machine_id, machine = self.register()
        self.machines.remove(ANN, machine_id)
        self.machines.record_use(machine_id, machine, "")
        self.assertIsNone(self.machines.find(machine_id))

    def test_a_use_that_cannot_be_stored_is_logged(self) -> None:
        machine_id, machine = self.register()
        shutil.rmtree(self.directory.path)
        with capturedLogs() as logs:
            self.machines.record_use(machine_id, machine, "")
        self.assertIn("was not stored", str(logs[0]["log_format"]))

    def test_a_damaged_file_is_no_machine(self) -> None:
        machine_id, _ = self.register()
        for content in (b"", b"{", b'{"user": "ann"}', b"\xff", b"[" * 100_000):
            self.directory.replace(f"{machine_id}.json", content)
            with capturedLogs() as logs:
                self.assertIsNone(self.machines.find(machine_id))
                self.assertEqual(self.machines.of_user(ANN), {})
            self.assertIn("damaged", str(logs[0]["log_format"]))
        self.register()
        self.directory.replace("notes.txt", b"not of ctllm")
        self.assertEqual(len(self.machines.of_user(ANN)), 1)


class MachineRequestsTests(SynchronousTestCase):
    """The requests that wait."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.requests = MachineRequests(self.clock.seconds, max_requests=4, max_per_address=2)

    def test_a_key_keeps_its_code_while_it_waits(self) -> None:
        key = public_key()
        first = self.requests.create(key, "192.0.2.0/24", USER_AGENT)
        self.clock.advance(899)
        self.assertEqual(self.requests.create(key, "198.51.100.0/24", "x"), first)
        self.assertEqual(self.requests.find(first.code), first)
        self.clock.advance(1)
        self.assertIsNone(self.requests.find(first.code))
        second = self.requests.create(key, "192.0.2.0/24", USER_AGENT)
        self.assertNotEqual(second.code, first.code)
        self.assertEqual(len(self.requests), 1)

    def test_another_key_has_another_code(self) -> None:
        codes = {self.requests.create(public_key(), "", USER_AGENT).code for _ in range(2)}
        self.assertEqual(len(codes), 2)
        self.assertTrue(all(len(code) == 22 for code in codes))

    def test_a_removed_request_is_gone(self) -> None:
        code = self.requests.create(public_key(), "", USER_AGENT).code
        self.requests.remove("x" * 22)
        self.requests.remove(code)
        self.assertIsNone(self.requests.find(code))

    def test_the_number_is_limited_for_each_address_and_in_all(self) -> None:
        for address in ("a", "a", "b", "b"):
            self.requests.create(public_key(), address, USER_AGENT)
        self.assertRaises(TooManyRequests, self.requests.create, public_key(), "a", USER_AGENT)
        self.assertRaises(ServiceUnavailable, self.requests.create, public_key(), "c", USER_AGENT)
        self.clock.advance(900)
        self.requests.create(public_key(), "c", USER_AGENT)
        self.assertEqual(len(self.requests), 1)

    def test_only_a_user_agent_of_ollama_is_shown(self) -> None:
        request = self.requests.create(public_key(), "", USER_AGENT)
        self.assertEqual(request.program, "ollama 0.17.4 on linux (amd64)")
        request = self.requests.create(public_key(), "", "ollama/<script> (a b)" + "x" * 9999)
        self.assertEqual(request.program, "")

    def test_the_code_is_not_in_the_representation(self) -> None:
        request = self.requests.create(public_key(), "", USER_AGENT)
        self.assertNotIn(request.code, repr(request))
