"""Machines as the cloud lists them, which may be hostile."""

from __future__ import annotations

from typing import Any

from msgspec import json
from twisted.trial.unittest import SynchronousTestCase

from ctllm.cli.machines import format_machines
from ctllm.common.json_decoder import InvalidJson, decode_json
from ctllm.desktop.machines import Machine, MachineList, find_machine
from ctllm.errors import BadRequest

GOOD: dict[str, Any] = {
    "id": "0" * 64, "name": "laptop", "fingerprint": f"SHA256:{'a' * 43}", "scopes": ["use"],
    "created": 1_700_000_000, "last_used": None, "last_address": "",
}  # fmt: skip


def decode(**changes: Any) -> tuple[Machine, ...]:
    """Decode a response with one machine; raises InvalidJson."""
    return decode_json(json.encode({"machines": [{**GOOD, **changes}]}), MachineList).machines


class MachineTests(SynchronousTestCase):
    """The list and its use."""

    def test_a_machine_is_found_by_its_name_or_fingerprint(self) -> None:
        laptop, *_ = decode()
        phone, *_ = decode(name="phone", fingerprint=f"SHA256:{'b' * 43}")
        self.assertEqual(find_machine((laptop, phone), "phone"), phone)
        self.assertEqual(find_machine((laptop, phone), laptop.fingerprint), laptop)

    def test_an_unknown_or_ambiguous_name_is_refused(self) -> None:
        first, *_ = decode()
        second, *_ = decode(fingerprint=f"SHA256:{'b' * 43}")
        error = self.assertRaises(BadRequest, find_machine, (first, second), "laptop")
        self.assertIn(second.fingerprint, error.message)
        self.assertRaises(BadRequest, find_machine, (first, second), "lap")

    def test_values_of_a_hostile_cloud_are_refused(self) -> None:
        for changes in (
            {"id": "../session"}, {"id": "0" * 64 + "\n"}, {"name": "a\x1b[2J"}, {"name": ""},
            {"name": "x" * 65}, {"fingerprint": "SHA256:x"}, {"scopes": ["serve"]},
            {"created": 1e300}, {"created": -1}, {"last_used": 1e12}, {"last_address": "a\nb"},
        ):  # fmt: skip
            with self.assertRaises(InvalidJson, msg=str(changes)):
                decode(**changes)

    def test_the_table_shows_name_scope_use_and_key(self) -> None:
        table = format_machines(
            decode(scopes=["manage", "use"], last_used=1_700_000_600, last_address="192.0.2.0/24")
        )
        header, row = table.splitlines()
        self.assertEqual(header.split()[:3], ["NAME", "SCOPE", "ADDED"])
        self.assertEqual(row.split()[:2], ["laptop", "manage"])
        self.assertTrue(row.endswith(f"192.0.2.0/24  {GOOD['fingerprint']}"))
        self.assertIn("never      -", format_machines(decode()).splitlines()[1])
        self.assertIn("ollama signin", format_machines(()))
