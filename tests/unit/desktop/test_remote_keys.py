"""`ctllm.desktop.remote_keys`: what a desktop accepts of the cloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from ctllm.auth.api_keys import MAX_KEYS, KeyChanges, KeyUse, NamedKeyRecord, record_key
from ctllm.desktop.api_keys import create_api_key
from ctllm.desktop.cloud_session import keep_keys_of_same_user
from ctllm.desktop.credential_file import ApiKey, CredentialFile
from ctllm.desktop.remote_keys import LeaseResource, RemoteKeys
from ctllm.errors import MethodNotAllowed
from ctllm.http.message.head import RequestHead
from tests.unit.desktop.test_cloud_session import ANN, BOB
from tests.unit.fakes import FakeResponseSink

NOW = 1000.0


def record(key: str, name: str = "page", **more: Any) -> NamedKeyRecord:
    return NamedKeyRecord(**msgspec.structs.asdict(record_key(key, **more)), name=name)


def added(*records: object) -> KeyChanges:
    return KeyChanges(tuple(msgspec.Raw(msgspec.json.encode(each)) for each in records))


class RemoteKeysTests(SynchronousTestCase):
    """A desktop of Ann with one key."""

    def setUp(self) -> None:
        self.file = CredentialFile(Path(self.mktemp()))
        self.file.update(lambda known: replace(known, login=ANN))
        create_api_key(self.file, "own", NOW)
        (self.own,) = self.keys()
        self.remote = RemoteKeys(self.file, True, lambda: NOW)

    def keys(self) -> tuple[ApiKey, ...]:
        return self.file.load().api_keys

    def refusals(self) -> dict[str, str]:
        report = self.remote.report(self.file.load(), {})
        return {each.id: each.reason for each in report.refused}

    def test_a_key_is_stored_with_all_that_restricts_it(self) -> None:
        """And with the cloud that has added it; once."""
        wanted = record("k", models=("llama*",), expires=5000, requests_per_minute=3)
        for is_first in (True, False):
            self.assertEqual(self.remote.apply(ANN, added(wanted)), is_first)
            _, stored = self.keys()
            self.assertEqual(stored.record, _without_name(wanted))
            self.assertEqual((stored.name, stored.created), ("page", int(NOW)))
            self.assertEqual(stored.added_by, ANN.cloud_url)

    def test_a_key_is_deleted(self) -> None:
        """An unknown one is none."""
        self.assertFalse(self.remote.apply(ANN, KeyChanges(removed=("f" * 16,))))
        self.assertTrue(self.remote.apply(ANN, KeyChanges(removed=(self.own.id,))))
        self.assertEqual(self.keys(), ())

    def test_nothing_is_changed_where_the_owner_does_not_want_it(self) -> None:
        """desktop.remote_keys is off."""
        self.remote = RemoteKeys(self.file, False, lambda: NOW)
        changes = KeyChanges(added(record("k")).added, (self.own.id,))
        self.assertFalse(self.remote.apply(ANN, changes))
        self.assertEqual(self.keys(), (self.own,))
        self.assertFalse(self.remote.report(self.file.load(), {}).accepts)

    def test_an_existing_key_is_not_replaced(self) -> None:
        """A record with its id is refused, a name that is used gets a number."""
        forged = replace(record("k"), id=self.own.id)
        self.assertTrue(self.remote.apply(ANN, added(forged, record("l", "own"))))
        self.assertEqual(self.keys()[0], self.own)
        self.assertEqual([key.name for key in self.keys()], ["own", "own-2"])
        self.assertIn("another API key", self.refusals()[self.own.id])

    def test_records_that_are_not_understood_are_refused_alone(self) -> None:
        """An unknown scope or field may be a restriction; names may not deceive."""
        base = msgspec.to_builtins(record("k"))
        wrong = [
            base | {"id": "1" * 16, "scope": "serve"},
            base | {"id": "2" * 16, "network": "192.0.2.0/24"},
            base | {"id": "3" * 16, "name": "a\x1b[2Jb"},
            base | {"id": "4" * 16, "name": "x" * 65},
            base | {"id": "5" * 16, "models": ["x"] * 100},
            base | {"id": "../../x"},
            "text",
        ]
        self.assertTrue(self.remote.apply(ANN, added(*wrong, record("good"))))
        self.assertEqual([key.name for key in self.keys()], ["own", "page"])
        self.assertEqual(sorted(self.refusals()), [f"{n}" * 16 for n in range(1, 6)])

    def test_the_number_of_keys_is_limited(self) -> None:
        """What is too much is refused; the next response clears the refusals."""
        records = [record(f"k{number}", f"k{number}") for number in range(MAX_KEYS)]
        self.assertTrue(self.remote.apply(ANN, added(*records)))
        self.assertEqual(len(self.keys()), MAX_KEYS)
        self.assertEqual(list(self.refusals()), [records[-1].id])
        self.assertFalse(self.remote.apply(ANN, KeyChanges()))
        self.assertEqual(self.refusals(), {})

    def test_changes_for_a_login_that_has_ended_are_ignored(self) -> None:
        """Another user has logged in while the request was on its way."""
        self.file.update(lambda known: replace(known, login=BOB))
        self.assertFalse(self.remote.apply(ANN, added(record("k"))))
        self.assertEqual(self.keys(), (self.own,))

    def test_keys_of_a_cloud_do_not_follow_to_another_one(self) -> None:
        """Whoever runs the first would have access to the second, with the same provider."""
        self.remote.apply(ANN, added(record("k")))
        same = self.file.update(keep_keys_of_same_user(replace(ANN, id="again")))
        self.assertEqual(len(same.api_keys), 2)
        moved = replace(ANN, cloud_url="https://another.example")
        self.assertEqual(self.file.update(keep_keys_of_same_user(moved)).api_keys, (self.own,))

    def test_earlier_versions_read_a_file_without_such_keys(self) -> None:
        """The new field is written only where it says something."""
        self.assertNotIn(b"added_by", self.file.path.read_bytes())

    def test_the_report_has_names_and_last_uses(self) -> None:
        """Of keys that have not expired."""
        self.remote.apply(ANN, added(record("k", expires=900)))
        report = self.remote.report(
            self.file.load(), {self.own.id: KeyUse(self.own.id, 7, "192.0.2.0/24")}
        )
        (described,) = report.keys
        self.assertEqual(
            (described.name, described.last_used, described.address), ("own", 7, "192.0.2.0/24")
        )


def _without_name(named: NamedKeyRecord) -> Any:
    fields = msgspec.structs.asdict(named)
    del fields["name"]
    return type(record_key("x"))(**fields)


class LeaseResourceTests(SynchronousTestCase):
    """The hint of the cloud."""

    def test_it_hastens_the_lease_and_does_nothing_else(self) -> None:
        """Its body is refused."""
        renewals: list[None] = []
        resource = LeaseResource(lambda: renewals.append(None))
        path = b"/ctllm/desktop/lease"
        for body, status in ((b"", 204), (b"{}", 413)):
            sink: Any = FakeResponseSink()
            request = resource.start_request(RequestHead(b"POST", path, ()), sink)
            if body:
                request.write(body)
            request.finish()
            self.assertEqual(sink.head.status, status)
        self.assertEqual(len(renewals), 1)
        with self.assertRaises(MethodNotAllowed):
            resource.start_request(RequestHead(b"GET", path, ()), FakeResponseSink())
