"""`ctllm.desktop.profiles`: what is stored for whom."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.credential_file import Login
from ctllm.desktop.profiles import DEFAULT, CurrentProfile, Profiles, with_current
from ctllm.errors import BadConfiguration

CLOUD = "https://cloud.example"
ANN = Login(CLOUD, "ctllm|ann", "ann", "1")
BOB = Login(CLOUD, "ctllm|bob", "bob", "2")
OTHER_ANN = Login("https://other.example", "ctllm|ann", "ann", "3")
LOGINS = st.sampled_from((None, ANN, BOB, OTHER_ANN))


class ProfilesTests(SynchronousTestCase):
    """A desktop on which users log in and out."""

    def setUp(self) -> None:
        self.state = Path(self.mktemp())
        self.path = self.state / "desktop" / "profiles.json"
        self.login: Login | None = None
        self.changes = 0
        self.restart()

    def restart(self) -> None:
        """Restart the desktop."""
        self.profile = CurrentProfile(self.state, lambda: self.login)
        self.profile.add_observer(self.changed)

    def changed(self) -> None:
        self.changes += 1
        self.profile.get()  # an observer may ask for it

    def name_for(self, login: Login | None) -> str:
        self.login = login
        return self.profile.get().name

    def test_the_first_login_takes_over_what_there_is(self) -> None:
        """Of the time before it, or of a version that knew no profiles."""
        self.assertEqual(self.name_for(None), DEFAULT)
        self.assertFalse(self.path.exists())
        self.assertEqual(self.name_for(ANN), DEFAULT)
        self.assertEqual((self.profile.get().suffix, self.changes), ("", 0))

    def test_each_user_of_each_cloud_has_a_profile(self) -> None:
        """Which is the same again, also after restarts."""
        first = [self.name_for(login) for login in (ANN, BOB, OTHER_ANN)]
        self.assertEqual(len(set(first)), 3)
        self.assertEqual(self.changes, 2)
        self.restart()
        self.assertEqual([self.name_for(login) for login in (ANN, BOB, OTHER_ANN)], first)
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    def test_a_new_login_of_the_same_user_changes_nothing(self) -> None:
        self.name_for(ANN)
        again = Login(CLOUD, "ctllm|ann", "Ann A.", "9", ended="Revoked.")
        self.assertEqual(self.name_for(again), DEFAULT)
        self.assertEqual(self.changes, 0)

    def test_without_a_login_the_profile_is_that_of_the_last_user(self) -> None:
        """So that nobody takes over what a user has stored while logged out."""
        self.name_for(ANN)
        bob = self.name_for(BOB)
        self.assertEqual(self.name_for(None), bob)
        self.restart()
        self.assertEqual(self.name_for(None), bob)
        self.assertEqual(self.name_for(ANN), DEFAULT)
        self.assertEqual(self.name_for(None), DEFAULT)
        self.assertNotIn(self.name_for(OTHER_ANN), (bob, DEFAULT))

    @given(st.lists(LOGINS, max_size=12))
    def test_nobody_gets_the_profile_of_another_user(self, logins: list[Login | None]) -> None:
        profiles: Profiles = ()
        names: dict[str, Login] = {}
        for login in logins:
            profiles = with_current(profiles, login)
            if login is not None:
                self.assertIs(names.setdefault(profiles[0].name, login), login)
                self.assertTrue(profiles[0].belongs_to(login))
        self.assertEqual(len({each.name for each in profiles}), len(profiles))
        self.assertLessEqual(len(names), len(profiles))

    def test_a_damaged_file_gives_nothing_to_anybody(self) -> None:
        """The message says what to do."""
        self.name_for(ANN)
        for content in ("{", '{"profiles": [{"name": "../x"}]}', '{"profiles": [], "x": 1}'):
            self.path.write_text(content)
            self.restart()
            error = self.assertRaises(BadConfiguration, self.name_for, BOB)
            self.assertIn(str(self.path), error.message)
            self.assertEqual(self.path.read_text(), content)

    def test_a_profile_that_cannot_be_stored_is_not_used(self) -> None:
        """After a restart it would be another one."""
        self.name_for(ANN)
        self.path.unlink()
        self.path.parent.rmdir()
        self.path.parent.write_text("a file")
        self.assertRaises(BadConfiguration, self.name_for, BOB)
        self.assertEqual(self.name_for(ANN), DEFAULT)
        self.assertEqual(self.changes, 0)
