"""What the cloud keeps of people: its own keys, invites, sessions, each in a file of its own."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from ctllm.cloud.identity import (
    Authentication,
    Invites,
    PrivateDirectory,
    Sessions,
    SigningKeys,
    User,
    load_signing_keys,
    proxy_id,
)
from ctllm.errors import BadConfiguration, BadRequest, ServiceUnavailable, Unauthorized

ALICE = User("ctllm", "alice", "alice")
START = 1_000_000.0
SIGNED_IN = Authentication(ALICE, START)


class Case(SynchronousTestCase):
    """A clock, and a state folder of each test's own."""

    def setUp(self) -> None:
        self.time = START
        self.path = Path(self.mktemp()) / "cloud"
        self.folder = PrivateDirectory(self.path)

    def now(self) -> float:
        return self.time

    def files(self) -> list[Path]:
        return list(self.path.iterdir())


class FolderTests(Case):
    """Files that are whole or absent."""

    def test_private(self) -> None:
        """Folder and files are their owner's alone, whatever the umask."""
        self.addCleanup(os.umask, os.umask(0))
        inner = self.folder.subdirectory("new")
        inner.create("a", b"1")
        inner.replace("b", b"2")
        self.assertEqual(inner.path.stat().st_mode & 0o777, 0o700)
        self.assertEqual({f.stat().st_mode & 0o777 for f in inner.path.iterdir()}, {0o600})

    def test_open_folder(self) -> None:
        """A folder that others can look into is refused, with the command that closes it."""
        self.path.chmod(0o750)
        error = self.assertRaises(BadConfiguration, PrivateDirectory, self.path)
        self.assertIn(f"chmod 700 {self.path}", error.message)

    def test_first_wins(self) -> None:
        """Making a file that is there changes nothing and says so."""
        self.assertTrue(self.folder.create("a", b"1"))
        self.assertFalse(self.folder.create("a", b"2"))
        self.assertEqual(self.folder.read("a"), b"1")

    def test_replace_and_remove(self) -> None:
        """The newest content is what is read; what was removed is not there to remove."""
        self.folder.create("a", b"1")
        self.folder.replace("a", b"2")
        self.assertEqual(self.folder.read("a"), b"2")
        self.assertTrue(self.folder.remove("a"))
        self.assertFalse(self.folder.remove("a"))
        self.assertIsNone(self.folder.read("a"))

    def test_leaves_nothing_behind(self) -> None:
        """Won, lost or failed, no half-made file stays."""
        self.folder.create("a", b"1")
        self.folder.create("a", b"2")
        self.folder.replace("a", b"3")
        with mock.patch("os.fsync", side_effect=OSError(errno.EIO, "Input/output error")):
            self.assertRaises(BadConfiguration, self.folder.replace, "a", b"4")
        self.assertEqual(self.files(), [self.path / "a"])
        self.assertEqual(self.folder.read("a"), b"3")

    def test_full_disk(self) -> None:
        """A full disk is no fault of the configuration, and what was there stays."""
        self.folder.create("a", b"1")
        with mock.patch("os.fsync", side_effect=OSError(errno.ENOSPC, "No space left")):
            error = self.assertRaises(ServiceUnavailable, self.folder.replace, "a", b"2")
        self.assertIn("Free some space", error.message)
        self.assertEqual(self.folder.read("a"), b"1")

    def test_unwritable(self) -> None:
        """A place where no folder can be is refused by name."""
        self.folder.create("file", b"")
        error = self.assertRaises(BadConfiguration, PrivateDirectory, self.path / "file" / "cloud")
        self.assertIn(str(self.path / "file" / "cloud"), error.message)

    def test_read_only(self) -> None:
        """Without the right to write, the file is named and nothing is made."""
        if os.geteuid() == 0:
            raise SkipTest("nothing is read-only for root")
        self.path.chmod(0o500)
        self.addCleanup(self.path.chmod, 0o700)
        error = self.assertRaises(BadConfiguration, self.folder.create, "a", b"1")
        self.assertIn(str(self.path / "a"), error.message)

    def test_root_writes_for_the_service(self) -> None:
        """What root makes belongs to the owner of the folder around it."""
        if os.geteuid() != 0:
            raise SkipTest("only root can give files away")
        os.chown(self.path, 1234, 4321)
        inner = self.folder.subdirectory("invites")
        inner.create("a", b"1")
        for made in (inner.path, inner.path / "a"):
            self.assertEqual((made.stat().st_uid, made.stat().st_gid), (1234, 4321))


class Late(PrivateDirectory):
    """A folder in which, just before something is made or after it is read, a rival acts."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.rival = lambda: None

    def create(self, name: str, data: bytes) -> bool:
        """Let the rival act, then make the file."""
        self.rival()
        return super().create(name, data)

    def read(self, name: str) -> bytes | None:
        """Read, then let the rival act, once."""
        data = super().read(name)
        if data is not None:
            rival, self.rival = self.rival, lambda: None
            rival()
        return data


class KeysTests(Case):
    """The cloud's own keys."""

    def same(self, one: SigningKeys, other: SigningKeys) -> bool:
        return (one.public_key_text, one.instance_secret) == (
            other.public_key_text,
            other.instance_secret,
        )

    def test_made_once(self) -> None:
        """The second start finds what the first one made."""
        keys = load_signing_keys(self.folder)
        self.assertTrue(self.same(keys, load_signing_keys(PrivateDirectory(self.path))))
        self.assertEqual(len(keys.instance_secret), 32)

    def test_each_its_own(self) -> None:
        """Two clouds have different keys, and in one cloud the two secrets differ."""
        keys, other = (
            load_signing_keys(self.folder),
            load_signing_keys(self.folder.subdirectory("other")),
        )
        self.assertNotEqual(keys.public_key_text, other.public_key_text)
        self.assertNotEqual(keys.instance_secret, other.instance_secret)
        self.assertNotEqual(keys.signing_key.private_bytes_raw(), keys.instance_secret)

    def test_two_starts_at_once(self) -> None:
        """Of two first starts, both end with the same keys."""
        late, rivals = Late(self.path), []
        late.rival = lambda: rivals.append(load_signing_keys(PrivateDirectory(self.path)))
        self.assertTrue(self.same(load_signing_keys(late), rivals[0]))
        self.assertEqual(len(self.files()), 2)

    def test_damaged(self) -> None:
        """A key that is no key is refused by name, and is not replaced behind one's back."""
        for name in ("signing-key", "instance-secret"):
            for content in (b"", b"A" * 42 + b"\n", b"A" * 44, b"\xff" * 43, b"!" * 43):
                load_signing_keys(self.folder)
                path = self.path / name
                good = path.read_bytes()
                path.write_bytes(content)
                error = self.assertRaises(BadConfiguration, load_signing_keys, self.folder)
                self.assertIn(str(path), error.message)
                self.assertIn("backup", error.message)
                self.assertEqual(path.read_bytes(), content)
                path.write_bytes(good)

    def test_readable_by_others(self) -> None:
        """A key that others can read is refused, with the command that closes it."""
        load_signing_keys(self.folder)
        (self.path / "signing-key").chmod(0o640)
        error = self.assertRaises(BadConfiguration, load_signing_keys, self.folder)
        self.assertIn(f"chmod 600 {self.path / 'signing-key'}", error.message)

    def test_unreadable(self) -> None:
        """Something else where the key should be is named."""
        (self.path / "instance-secret").mkdir()
        error = self.assertRaises(BadConfiguration, load_signing_keys, self.folder)
        self.assertIn(str(self.path / "instance-secret"), error.message)

    def test_not_shown(self) -> None:
        """A logged value of keys shows no secret."""
        keys = load_signing_keys(self.folder)
        self.assertEqual(repr(keys), "SigningKeys()")

    def test_names_of_proxies(self) -> None:
        """A user's proxy has one name, which says nothing without the instance's secret."""
        name = proxy_id(b"1" * 32, ALICE.id)
        self.assertRegex(name, r"\Actllm-proxy-[0-9a-f]{32}\Z")
        self.assertEqual(name, proxy_id(b"1" * 32, ALICE.id))
        self.assertNotEqual(name, proxy_id(b"1" * 32, "ctllm|bob"))
        self.assertNotEqual(name, proxy_id(b"2" * 32, ALICE.id))


class InvitesTests(Case):
    """An invite makes one user, once."""

    def setUp(self) -> None:
        super().setUp()
        self.invites = Invites(self.folder, self.now)

    def refused(self, secret: str) -> None:
        error = self.assertRaises(Unauthorized, self.invites.redeem, secret)
        self.assertIn("ctllm invite", error.message)

    def test_once(self) -> None:
        """The first who brings the secret is the user; the second is nobody."""
        secret = self.invites.create("alice")
        self.assertEqual(self.invites.redeem(secret), ALICE)
        self.refused(secret)

    def test_other_process(self) -> None:
        """What another process made is redeemed here."""
        secret = Invites(PrivateDirectory(self.path), self.now).create("alice")
        self.assertEqual(self.invites.redeem(secret), ALICE)

    def test_raced(self) -> None:
        """Of two who read the invite at the same time, one is the user."""
        secret = self.invites.create("alice")
        late, won = Late(self.path), []
        late.rival = lambda: won.append(self.invites.redeem(secret))
        self.assertRaises(Unauthorized, Invites(late, self.now).redeem, secret)
        self.assertEqual(won, [ALICE])

    def test_fifteen_minutes(self) -> None:
        """An invite is good for less than fifteen minutes, and gone when it was tried after."""
        secrets = [self.invites.create(name) for name in ("alice", "bob")]
        self.time = START + 899
        self.invites.redeem(secrets[0])
        self.time = START + 900
        self.refused(secrets[1])
        self.assertEqual(self.files(), [])

    def test_secret_is_not_kept(self) -> None:
        """Neither name nor content of a file tells the secret."""
        secret = self.invites.create("alice")
        (file,) = self.files()
        self.assertNotIn(secret, file.name)
        self.assertNotIn(secret.encode(), file.read_bytes())

    def test_guesses(self) -> None:
        """Any other text is refused, a file's own name and paths included."""
        self.invites.create("alice")
        (file,) = self.files()
        for guess in ("", file.name, file.stem, "../cloud/" + file.name, "\udcff", "x" * 100_000):
            self.refused(guess)

    def test_names(self) -> None:
        """Names are folded to lower case; what could confuse people or programs is refused."""
        for name, folded in (("Alice", "alice"), ("a.b_c@d-e", "a.b_c@d-e"), ("0" * 64, "0" * 64)):
            self.assertEqual(self.invites.redeem(self.invites.create(name)).subject, folded)
        for bad in ("", "0" * 65, ".a", "-a", "a b", "a/b", "a|b", "a\n", "\u212aim", "straße"):
            error = self.assertRaises(BadRequest, self.invites.create, bad)
            self.assertIn("1 to 64", error.message)
        self.assertEqual(self.files(), [])

    def test_damaged(self) -> None:
        """A damaged invite is refused like an unknown one and swept."""
        for content in (b"", b"\xff", b"[]", b"null", b'{"name": 1, "expires": 9e9}'):
            secret = self.invites.create("alice")
            self.files()[0].write_bytes(content)
            self.refused(secret)
            self.assertEqual(self.invites.remove_expired(), 1)
        self.assertEqual(self.files(), [])

    def test_sweep(self) -> None:
        """Sweeping takes what is too old, leaves what is good, and touches no other file."""
        self.invites.create("alice")
        self.time = START + 900
        secret = self.invites.create("bob")
        (self.path / "README").write_text("mine")
        self.assertEqual(self.invites.remove_expired(), 1)
        self.invites.redeem(secret)
        self.assertEqual([file.name for file in self.files()], ["README"])


class SessionsTests(Case):
    """A sign-in lasts as long as it is used."""

    def setUp(self) -> None:
        super().setUp()
        self.sessions = Sessions(self.folder, self.now, days=2)

    def refused(self, refresh: str) -> None:
        error = self.assertRaises(Unauthorized, self.sessions.renew, refresh)
        self.assertIn("Log in", error.message)

    def test_scopes(self) -> None:
        """A browser uses and manages; a desktop serves too."""
        for client, scopes in (
            ("browser", {"use", "manage"}),
            ("desktop", {"use", "manage", "serve"}),
        ):
            session = self.sessions.renew(self.sessions.create(SIGNED_IN, client))
            self.assertEqual((session.user, session.scopes), (ALICE, scopes))

    def test_secret_is_not_kept(self) -> None:
        """Refresh tokens say what they are, and no file tells one."""
        refresh = self.sessions.create(SIGNED_IN, "browser")
        self.assertTrue(refresh.startswith("ctllm-r-"))
        (file,) = self.files()
        self.assertNotIn(refresh.removeprefix("ctllm-r-"), file.name + file.read_text())

    def test_slides(self) -> None:
        """Each use puts the end off, also for the next process; unused, it ends."""
        refresh = self.sessions.create(SIGNED_IN, "browser")
        for day in (1, 2, 3):
            self.time = START + day * 86400
            session = Sessions(PrivateDirectory(self.path), self.now, days=2).renew(refresh)
            self.assertEqual(session.expires, self.time + 2 * 86400)
            self.assertEqual(session.created, START)
        self.time += 2 * 86400
        self.refused(refresh)

    def test_slides_in_steps(self) -> None:
        """Renewals within the hour do not write."""
        refresh = self.sessions.create(SIGNED_IN, "browser")
        before = self.files()[0].stat().st_ino
        self.time = START + 3599
        self.sessions.renew(refresh)
        self.assertEqual(self.files()[0].stat().st_ino, before)
        self.time = START + 3600
        self.assertEqual(self.sessions.renew(refresh).expires, self.time + 2 * 86400)

    def test_close(self) -> None:
        """Signing out ends this session only, and twice is no error."""
        refresh, other = (self.sessions.create(SIGNED_IN, "browser") for _ in range(2))
        self.sessions.close(refresh)
        self.sessions.close(refresh)
        self.refused(refresh)
        self.sessions.renew(other)

    def test_close_all(self) -> None:
        """Signing out everywhere ends all of one user's sessions and nobody else's."""
        mine = [
            self.sessions.create(SIGNED_IN, "browser"),
            self.sessions.create(SIGNED_IN, "desktop"),
        ]
        foreign = Authentication(User("https://i/", "alice", "alice"), START)
        other = self.sessions.create(foreign, "browser")
        self.assertEqual(self.sessions.close_all(User("ctllm", "alice", "New Name")), 2)
        for refresh in mine:
            self.refused(refresh)
        self.sessions.renew(other)

    def test_guesses(self) -> None:
        """Any other text is refused, a file's own name included."""
        self.sessions.create(SIGNED_IN, "browser")
        for guess in ("", "ctllm-r-", self.files()[0].name, self.files()[0].stem, "\udcff"):
            self.refused(guess)

    def test_damaged(self) -> None:
        """A damaged session is over, hinders no other, and is swept."""
        refresh = self.sessions.create(SIGNED_IN, "browser")
        (file,) = self.files()
        file.write_bytes(file.read_bytes()[:-9])
        other = self.sessions.create(SIGNED_IN, "browser")
        self.refused(refresh)
        self.sessions.renew(other)
        self.assertEqual(self.sessions.remove_expired(), 1)
        self.assertEqual(self.sessions.close_all(ALICE), 1)

    def test_sweep(self) -> None:
        """Sweeping takes what is over and leaves what is not."""
        self.sessions.create(SIGNED_IN, "browser")
        self.time = START + 2 * 86400
        refresh = self.sessions.create(SIGNED_IN, "browser")
        self.assertEqual(self.sessions.remove_expired(), 1)
        self.sessions.renew(refresh)
