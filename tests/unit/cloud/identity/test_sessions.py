"""`ctllm.cloud.identity.sessions`: a session lasts as long as it is renewed."""

from __future__ import annotations

import json

from ctllm.cloud.identity import (
    Authentication,
    ClientType,
    PrivateDirectory,
    Session,
    Sessions,
    User,
)
from ctllm.cloud.identity.sessions import MAX_PER_USER
from ctllm.errors import (
    Unauthorized,
)
from tests.unit.cloud.identity.identity_case import (
    ALICE,
    AUTHENTICATION,
    START,
    InterferingDirectory,
    StoreCase,
)


class SessionsTests(StoreCase):
    """Sessions."""

    def setUp(self) -> None:
        super().setUp()
        self.sessions = Sessions(self.directory, self.now, days=2)

    def assert_refused(self, refresh: str) -> None:
        error = self.assertRaises(Unauthorized, self.sessions.renew, refresh)
        self.assertIn("Log in", error.message)

    def test_desktops_have_the_scope_serve_and_browsers_conversations(self) -> None:
        cases: tuple[tuple[ClientType, set[str]], ...] = (
            ("browser", {"use", "manage", "conversations"}),
            ("desktop", {"use", "manage", "serve"}),
        )
        for client, scopes in cases:
            session = self.sessions.renew(self.sessions.create(AUTHENTICATION, client))
            self.assertEqual((session.user, session.scopes), (ALICE, scopes))

    def test_files_do_not_have_the_refresh_token(self) -> None:
        refresh = self.sessions.create(AUTHENTICATION, "browser")
        self.assertTrue(refresh.startswith("ctllm-r-"))
        (file,) = self.files()
        self.assertNotIn(refresh.removeprefix("ctllm-r-"), file.name + file.read_text())

    def test_each_renewal_extends_the_session(self) -> None:
        refresh = self.sessions.create(AUTHENTICATION, "browser")
        for day in (1, 2, 3):
            self.time = START + day * 86400
            session = Sessions(PrivateDirectory(self.path), self.now, days=2).renew(refresh)
            self.assertEqual(session.expires, self.time + 2 * 86400)
            self.assertEqual(session.created, START)
        self.time += 2 * 86400
        self.assert_refused(refresh)

    def test_renewals_within_an_hour_are_not_stored(self) -> None:
        refresh = self.sessions.create(AUTHENTICATION, "browser")
        before = self.files()[0].stat().st_ino
        self.time = START + 3599
        self.sessions.renew(refresh)
        self.assertEqual(self.files()[0].stat().st_ino, before)
        self.time = START + 3600
        self.assertEqual(self.sessions.renew(refresh).expires, self.time + 2 * 86400)

    def test_close_ends_one_session_and_may_be_repeated(self) -> None:
        refresh, other = (self.sessions.create(AUTHENTICATION, "browser") for _ in range(2))
        self.sessions.close(refresh)
        self.sessions.close(refresh)
        self.assert_refused(refresh)
        self.sessions.renew(other)

    def test_close_all_ends_the_sessions_of_one_user(self) -> None:
        mine = [
            self.sessions.create(AUTHENTICATION, "browser"),
            self.sessions.create(AUTHENTICATION, "desktop"),
        ]
        foreign = Authentication(User("https://i/", "alice", "alice"), START)
        other = self.sessions.create(foreign, "browser")
        self.assertEqual(self.sessions.close_all(User("ctllm", "alice", "New Name")), 2)
        for refresh in mine:
            self.assert_refused(refresh)
        self.sessions.renew(other)

    def test_refuses_other_text_including_file_names(self) -> None:
        self.sessions.create(AUTHENTICATION, "browser")
        for guess in ("", "ctllm-r-", self.files()[0].name, self.files()[0].stem, "\udcff"):
            self.assert_refused(guess)

    def test_a_damaged_session_is_refused_and_removed(self) -> None:
        refresh = self.sessions.create(AUTHENTICATION, "browser")
        (file,) = self.files()
        file.write_bytes(file.read_bytes()[:-9])
        other = self.sessions.create(AUTHENTICATION, "browser")
        self.assert_refused(refresh)
        self.sessions.renew(other)
        self.assertEqual(self.sessions.remove_expired(), 1)
        self.assertEqual(self.sessions.close_all(ALICE), 1)

    def test_remove_expired_leaves_active_sessions(self) -> None:
        self.sessions.create(AUTHENTICATION, "browser")
        self.time = START + 2 * 86400
        refresh = self.sessions.create(AUTHENTICATION, "browser")
        self.assertEqual(self.sessions.remove_expired(), 1)
        self.sessions.renew(refresh)

    def test_a_user_has_a_limited_number_of_sessions(self) -> None:
        """A further one ends that which was not renewed for longest, also after a restart."""
        bob = self.sessions.create(Authentication(User("ctllm", "bob", "bob"), START), "browser")
        old = self.sessions.create(AUTHENTICATION, "browser")
        first, *others = (
            self.sessions.create(AUTHENTICATION, "desktop") for _ in range(MAX_PER_USER - 1)
        )
        for sessions in (self.sessions, Sessions(self.directory, self.now, days=2)):
            sessions.remove_expired()
            self.time += 1
            for refresh in (old, *others):
                sessions.renew(refresh)
            new = sessions.create(AUTHENTICATION, "browser")
            self.assertRaises(Unauthorized, sessions.renew, first)
            first, *others = (*others, new)
            self.assertEqual(len(self.files()), MAX_PER_USER + 1)
        self.sessions.renew(old)
        self.sessions.renew(bob)

    def test_of_too_many_the_oldest_of_an_earlier_run_ends(self) -> None:
        """That run has stored when each was created or renewed."""
        created = []
        for _ in range(MAX_PER_USER):
            created.append(self.sessions.create(AUTHENTICATION, "desktop"))
            self.time += 1
        self.time += 43_200  # so that a renewal is stored
        first, second = created[:2]
        self.sessions.renew(first)
        sessions = Sessions(self.directory, self.now, days=2)
        sessions.remove_expired()
        sessions.create(AUTHENTICATION, "browser")
        sessions.renew(first)
        self.assertRaises(Unauthorized, sessions.renew, second)


class UpgradeTests(StoreCase):
    """Sessions that an earlier version stored."""

    def test_a_session_without_tier_and_proof_goes_on(self) -> None:
        sessions = Sessions(self.directory, self.now, days=2)
        refresh = sessions.create(AUTHENTICATION, "desktop")
        (file,) = self.files()
        stored = json.loads(file.read_text())
        del stored["tier"], stored["proof"]
        file.write_text(json.dumps(stored))
        session = Sessions(self.directory, self.now, days=2).renew(refresh)
        self.assertEqual((session.user, session.tier, session.proof), (ALICE, "", None))


class EndedSessionTests(StoreCase):
    """Sessions that are closed during a renewal or with their parent."""

    def setUp(self) -> None:
        super().setUp()
        self.sessions = Sessions(self.directory, self.now, days=2)

    def test_a_renewal_does_not_restore_a_closed_session(self) -> None:
        refresh = self.sessions.create(AUTHENTICATION, "browser")
        self.time += 86400
        directory = InterferingDirectory(self.path)
        closed: list[Session | None] = []
        directory.interfere = lambda: closed.append(self.sessions.close(refresh))
        self.assertRaises(Unauthorized, Sessions(directory, self.now, days=2).renew, refresh)
        self.assertEqual(self.files(), [])
        self.assertEqual([each and each.user for each in closed], [ALICE])

    def test_a_session_ends_with_its_parent(self) -> None:
        for end in ("close", "expire"):
            parent = self.sessions.create(AUTHENTICATION, "desktop")
            (file,) = self.files()
            child = self.sessions.create(Authentication(ALICE, self.time, file.stem), "browser")
            self.time += 86400
            self.sessions.renew(child)
            if end == "close":
                self.sessions.close(parent)
            else:
                self.time += 86400
            self.assertRaises(Unauthorized, self.sessions.renew, child)
            self.assertEqual(self.sessions.remove_expired(), 1 if end == "close" else 2)
