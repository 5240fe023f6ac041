"""Tests of backups: what they have, and what a restore refuses."""

from __future__ import annotations

import io
import os
import re
import socket
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from twisted.trial.unittest import SynchronousTestCase

import ctllm
from ctllm.errors import BadRequest, CtllmError, ServiceUnavailable
from ctllm.server.backup import BackupSource, write_backup, write_backup_file
from ctllm.server.backup_format import CHECKSUMS, HEADER, is_included, parse_member_name
from ctllm.server.restore import RestoreTarget, restore_backup

OPERATIONS = Path(ctllm.__file__).parent.parent / "docs" / "operations.md"


def make_state(top: Path) -> Path:
    """Create a state directory like that of a cloud."""
    for name, content in {
        "cloud/signing-key": "key",
        "cloud/instance-secret": "secret",
        "cloud/sessions/1": "session",
        "cloud/revocations/2": "9",
        "cloud/audit.jsonl": "{}\n",
        "cloud/invites/3": "invite",
        "cloud/sessions/.4.tmp": "temporary",
        "cloud/url": "https://example.org",
        "run/proxy/file": "",
    }.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_text(content)
        path.chmod(0o600)
    return top


class SelectionTests(SynchronousTestCase):
    """Which files of the state directory a backup has."""

    def test_it_agrees_with_the_table_in_the_documentation(self) -> None:
        """Every file that the table names is backed up, or not, as it says."""
        table = OPERATIONS.read_text().partition("## The state directory")[2].partition("\n## ")[0]
        rows = re.findall(r"^\| (`.*?) \|.*\| ([^|]*) \|$", table, re.MULTILINE)
        self.assertGreater(len(rows), 15)
        for names, backed_up in rows:
            for name in re.findall(r"`([^`]+)`", names):
                path = PurePosixPath(name.replace("*", "x").rstrip("/"))
                self.assertEqual(is_included(path), backed_up != "no", name)

    def test_temporary_files_are_left_out(self) -> None:
        self.assertFalse(is_included(PurePosixPath("cloud/sessions/.x.1234")))
        self.assertTrue(is_included(PurePosixPath("cloud/sessions/x")))

    def test_names_that_leave_the_directory_are_refused(self) -> None:
        for name in (
            "state/../x", "/state/x", "state//etc/x", "state/./x", "state/", "state", "other/x",
            "state/a/../../x", "folder/../x", "folder/..", "folder/a/../../x",
            "config/passwd", "state/run/x", "state/cloud/.hidden", "state/a\nb",
        ):  # fmt: skip
            self.assertRaises(BadRequest, parse_member_name, name)
        self.assertEqual(parse_member_name("state/a/b"), ("state", PurePosixPath("a/b")))


class BackupTests(SynchronousTestCase):
    """A backup and its restoration."""

    def setUp(self) -> None:
        self.top = Path(self.mktemp())
        self.top.mkdir()
        self.state = make_state(self.top / "state")
        self.config = self.top / "ctllm.toml"
        self.config.write_text("[cloud]\n")
        self.target = RestoreTarget(self.top / "restored", self.top / "etc" / "ctllm.toml")

    def backup(self, folder: Path | None = None) -> bytes:
        out = io.BytesIO()
        write_backup(BackupSource(self.state, self.config, folder), out, lambda: 1000.0)
        return out.getvalue()

    def refused(self, archive: bytes) -> str:
        """Return why the archive is refused; assert that nothing is left of it."""
        error = self.assertRaises(CtllmError, restore_backup, io.BytesIO(archive), self.target)
        left = os.listdir(self.target.state_dir) if self.target.state_dir.exists() else []
        self.assertEqual(left, [])
        self.assertFalse(self.target.config_file.exists())
        return error.message

    def test_files_and_modes_return(self) -> None:
        report = restore_backup(io.BytesIO(self.backup()), self.target)
        files = {
            str(path.relative_to(self.target.state_dir)): path.read_text()
            for path in self.target.state_dir.rglob("*") if path.is_file()
        }  # fmt: skip
        self.assertEqual(
            files,
            {
                "cloud/signing-key": "key",
                "cloud/instance-secret": "secret",
                "cloud/sessions/1": "session",
                "cloud/revocations/2": "9",
                "cloud/audit.jsonl": "{}\n",
            },
        )
        self.assertEqual((report.files, report.header.created), (6, 1000.0))
        for path in self.target.state_dir.rglob("*"):
            expected = 0o700 if path.is_dir() else 0o600
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), expected, path)
        self.assertEqual(self.target.config_file.read_text(), "[cloud]\n")

    def test_what_ends_access_is_read_last(self) -> None:
        with tarfile.open(fileobj=io.BytesIO(self.backup())) as archive:
            names = archive.getnames()
        self.assertEqual(names[0], HEADER)
        self.assertEqual(names[-3:], ["state/cloud/revocations/2", "config/ctllm.toml", CHECKSUMS])

    def test_links_and_sockets_are_left_out(self) -> None:
        (self.state / "cloud" / "link").symlink_to("/etc/passwd")
        (self.state / "cloud" / "links").symlink_to("/etc")
        with socket.socket(socket.AF_UNIX) as listening:
            os.mkfifo(self.state / "cloud" / "pipe")
            here = os.getcwd()
            os.chdir(self.state / "cloud")
            listening.bind("socket")
            os.chdir(here)
            with tarfile.open(fileobj=io.BytesIO(self.backup())) as archive:
                names = archive.getnames()
        self.assertEqual([name for name in names if "link" in name or "pipe" in name], [])
        self.assertNotIn("state/cloud/socket", names)

    def test_the_file_is_private_and_never_replaces_another(self) -> None:
        path = self.top / "backup.tar"
        write_backup_file(BackupSource(self.state), path)
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        before = path.read_bytes()
        self.assertRaises(BadRequest, write_backup_file, BackupSource(self.state), path)
        self.assertEqual(path.read_bytes(), before)
        missing = self.top / "missing" / "backup.tar"
        self.assertRaises(ServiceUnavailable, write_backup_file, BackupSource(self.state), missing)
        self.assertEqual(sorted(os.listdir(self.top)), ["backup.tar", "ctllm.toml", "state"])

    def test_a_name_that_no_restore_would_take_is_refused(self) -> None:
        """At the backup, and not when it is needed."""
        (self.state / "cloud" / "a\nb").write_text("")
        error = self.assertRaises(BadRequest, self.backup)
        self.assertIn(r"'cloud/a\nb' cannot be backed up", error.message)

    def test_a_full_directory_is_refused(self) -> None:
        archive = self.backup()
        restore_backup(io.BytesIO(archive), self.target)
        error = self.assertRaises(BadRequest, restore_backup, io.BytesIO(archive), self.target)
        self.assertIn("is not empty: it has cloud", error.message)

    def test_another_configuration_file_is_kept(self) -> None:
        self.target.config_file.parent.mkdir()
        self.target.config_file.write_text("# mine\n")
        report = restore_backup(io.BytesIO(self.backup()), self.target)
        self.assertEqual(self.target.config_file.read_text(), "# mine\n")
        assert report.config_file is not None
        self.assertEqual(report.config_file.name, "ctllm.toml.restored")
        self.assertEqual(report.config_file.read_text(), "[cloud]\n")

    def test_what_an_interrupted_restore_left_is_removed(self) -> None:
        (self.target.state_dir / ".restore-1234" / "state").mkdir(parents=True)
        restore_backup(io.BytesIO(self.backup()), self.target)
        self.assertEqual(os.listdir(self.target.state_dir), ["cloud"])

    def test_a_folder_returns_if_it_is_named(self) -> None:
        folder = self.top / "server"
        (folder / "nginx").mkdir(parents=True)
        (folder / ".env").write_text("DOMAIN=example.org\n")
        (folder / ".env").chmod(0o600)
        (folder / "nginx" / "a.template").write_text("server {}\n")
        archive = self.backup(folder)
        self.assertTrue(restore_backup(io.BytesIO(archive), self.target).skipped_folder)
        target = RestoreTarget(self.top / "2", self.top / "3", self.top / "new")
        self.assertFalse(restore_backup(io.BytesIO(archive), target).skipped_folder)
        self.assertEqual((self.top / "new" / ".env").read_text(), "DOMAIN=example.org\n")
        self.assertEqual(stat.S_IMODE((self.top / "new" / ".env").stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE((self.top / "new" / "nginx").stat().st_mode), 0o755)

    def test_a_damaged_archive_is_refused(self) -> None:
        """Wherever a byte is wrong or the file ends; nothing is restored."""
        archive = self.backup()
        for cut in (600, 2048, len(archive) // 2, archive.rindex(b"ctllm-checksums")):
            self.assertIn("damaged", self.refused(archive[:cut]))
        changed = archive.replace(b"session\0", b"sessiom\0")
        self.assertNotEqual(changed, archive)
        self.assertIn("state/cloud/sessions/1 is not as it was", self.refused(changed))
        renamed = archive.replace(b"state/cloud/revocations/2", b"state/cloud/revocations/3")
        self.assertIn("damaged", self.refused(renamed))

    def test_a_foreign_archive_is_refused(self) -> None:
        for foreign in (b"", b"hello", os.urandom(4096), rebuild(self.backup(), skip={HEADER})):
            self.assertIn("not a backup", self.refused(foreign))

    def test_a_newer_format_is_refused(self) -> None:
        newer = rebuild(
            self.backup(), change=lambda data: data.replace(b'"version":1', b'"version":2')
        )
        self.assertIn("newer", self.refused(newer))

    def test_hostile_members_are_refused(self) -> None:
        """Links, devices, paths that lead elsewhere, files twice."""
        outside = self.top / "outside"
        for member in (
            link("state/cloud/link", str(self.top)),
            link("state/cloud/hard", "state/cloud/signing-key", tarfile.LNKTYPE),
            link("state/cloud/device", "", tarfile.CHRTYPE),
            link("state/cloud/pipe", "", tarfile.FIFOTYPE),
            tarfile.TarInfo("state/../../outside"),
            tarfile.TarInfo(str(outside.resolve())),
            tarfile.TarInfo("state/cloud/signing-key"),
            tarfile.TarInfo("config/other"),
        ):
            self.assertIn("damaged", self.refused(rebuild(self.backup(), add=member)), member.name)
            self.assertFalse(outside.exists())

    def test_a_link_that_another_member_writes_through_is_refused(self) -> None:
        archive = rebuild(
            self.backup(), add=link("state/evil", str(self.top)), then="state/evil/outside"
        )
        self.refused(archive)
        self.assertFalse((self.top / "outside").exists())

    def test_others_may_not_read_the_state_whatever_the_archive_says(self) -> None:
        archive = rebuild(self.backup(), mode=0o4777)
        restore_backup(io.BytesIO(archive), self.target)
        key = self.target.state_dir / "cloud" / "signing-key"
        self.assertEqual(stat.S_IMODE(key.stat().st_mode), 0o700)
        self.assertEqual(stat.S_IMODE(self.target.config_file.stat().st_mode), 0o755)


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """Return a member that is no plain file."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, to
    return member


def rebuild(
    archive: bytes,
    skip: set[str] = frozenset(),  # type: ignore[assignment]
    add: tarfile.TarInfo | None = None,
    then: str = "",
    mode: int | None = None,
    change: Callable[[bytes], bytes] = lambda data: data,
) -> bytes:
    """Return the archive with other members."""
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archive)) as source,
        tarfile.open(fileobj=out, mode="w") as target,
    ):
        for member in source:
            if member.name == CHECKSUMS:
                if add is not None:
                    target.addfile(add)
                if then:
                    target.addfile(tarfile.TarInfo(then))
            if member.name not in skip:
                content = source.extractfile(member)
                assert content is not None
                data = change(content.read())
                member.mode = member.mode if mode is None else mode
                member.size = len(data)
                target.addfile(member, io.BytesIO(data))
    return out.getvalue()
