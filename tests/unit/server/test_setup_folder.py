"""`ctllm server init`: what it writes, what an upgrade keeps, and what it refuses."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import BadRequest, CtllmError, ServiceUnavailable
from ctllm.server.deployment import Deployment, load_deployment
from ctllm.server.env_file import parse_env
from ctllm.server.manifest import ENV, MANIFEST, Action
from ctllm.server.setup_folder import (
    SetupOptions,
    SetupReport,
    parse_domain,
    parse_email,
    read_folder,
    set_up_folder,
)

ROOT = Path(__file__).parents[3]
TEMPLATE = """# The values.

# The domain.
DOMAIN=example.org

# The version.
CTLLM_VERSION=

DOCKER_GID=

# Two limits.
#FIRST=1
#SECOND=2
"""
NEWER = TEMPLATE.replace("#FIRST=1\n", "").replace("#SECOND", "#THIRD=3\n#SECOND")
FIRST = Deployment("1.0", {"compose.yaml": b"one\n", "ctllm.toml": b"[cloud]\n"}, TEMPLATE)
SECOND = Deployment("2.0", {"compose.yaml": b"two\n", "ctllm.toml": b"[cloud]\n"}, NEWER)
VALUES = {"CTLLM_VERSION": "1.0", "DOCKER_GID": "7"}


class SetupCase(SynchronousTestCase):
    """A folder that does not exist yet."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute() / "server"

    def init(self, deployment: Deployment = FIRST, **options: Any) -> SetupReport:
        options = {"domain": "example.org", "values": VALUES, **options}
        return set_up_folder(self.path, deployment, SetupOptions(**options))

    def upgrade(self, deployment: Deployment = SECOND, **options: Any) -> dict[str, Action]:
        report = self.init(deployment, domain=None, **options)
        self.report = {each.name: each for each in report.changes}
        return {name: each.action for name, each in self.report.items()}

    def files(self) -> dict[str, bytes]:
        return {each.name: each.read_bytes() for each in self.path.iterdir()}

    def assert_refused(self, text: str, **options: Any) -> CtllmError:
        """Assert that a run is refused, with `text` in the message, and changes nothing."""
        before = self.files() if self.path.is_dir() else None
        error = self.assertRaises(CtllmError, self.init, **options)
        self.assertIn(text, error.message)
        self.assertEqual(self.files() if self.path.is_dir() else None, before)
        return error


class NewFolderTests(SetupCase):
    """The first run."""

    def test_writes_all_files_with_the_values(self) -> None:
        report = self.init(email="me@example.org")
        self.assertEqual({each.action for each in report.changes}, {Action.WRITTEN})
        files = self.files()
        self.assertEqual(set(files), {"compose.yaml", "ctllm.toml", ENV, MANIFEST})
        values = {"DOMAIN": "example.org", **VALUES}
        self.assertEqual(parse_env(files[ENV].decode()), values)
        self.assertEqual(report.env, values)
        for name in files:  # .env may get the password of an HTTP proxy
            mode = 0o600 if name == ENV else 0o644
            self.assertEqual(stat.S_IMODE((self.path / name).stat().st_mode), mode, name)

    def test_the_delivered_template_takes_every_value(self) -> None:
        deployment = load_deployment()
        report = self.init(
            deployment, email="me@example.org", values={**VALUES, "DOCKER_SOCKET": "/d.sock"}
        )
        expected = {
            **VALUES, "DOMAIN": "example.org", "EMAIL": "me@example.org",
            "DOCKER_SOCKET": "/d.sock", "COMPOSE_PROJECT_NAME": "ctllm",
        }  # fmt: skip
        self.assertEqual(report.env, expected)
        for name, content in deployment.files.items():
            self.assertEqual((self.path / name).read_bytes(), content)
            self.assertEqual(content, (ROOT / "containers" / name).read_bytes())

    def test_needs_a_domain_and_makes_no_folder_without(self) -> None:
        self.assert_refused("--domain example.org", domain=None)
        self.assertFalse(self.path.exists())

    def test_a_dry_run_writes_nothing(self) -> None:
        report = self.init(is_dry_run=True)
        self.assertEqual({each.action for each in report.changes}, {Action.WRITTEN})
        self.assertFalse(self.path.exists())
        self.init()
        before = self.files()
        self.assertEqual(self.upgrade(is_dry_run=True)["compose.yaml"], Action.REPLACED)
        self.assertEqual(self.files(), before)

    def test_domains_and_addresses_cannot_have_more_in_them(self) -> None:
        self.assertEqual(parse_domain("Example.ORG."), "example.org")
        self.assertEqual(parse_email("Me+x@example.org"), "Me+x@example.org")
        for text in ("", "example", "a b.org", "-a.org", "127.0.0.1", "a.org\nX=1", "a..org",
                     "bücher.de", "$(id).org", "*.org", "a" * 64 + ".org", "a." * 130 + "org",
                     "a.org/x", "a.org:80", "::1"):  # fmt: skip
            self.assertRaises(BadRequest, parse_domain, text)
        for text in ("me", "@a.org", "me@", "me@a.org\nX=1", "a@b@c.org", "$HOME@a.org", "'@a.org"):
            self.assertRaises(BadRequest, parse_email, text)


class UpgradeTests(SetupCase):
    """Further runs, with a newer version of ctllm."""

    def setUp(self) -> None:
        super().setUp()
        self.init()

    def test_a_second_run_changes_nothing(self) -> None:
        before = {each.name: each.stat().st_ino for each in self.path.iterdir()}
        self.assertEqual(set(self.upgrade(FIRST).values()), {Action.UNCHANGED})
        self.assertEqual({each.name: each.stat().st_ino for each in self.path.iterdir()}, before)

    def test_replaces_what_nobody_changed_and_keeps_its_mode(self) -> None:
        (self.path / "compose.yaml").chmod(0o600)
        self.assertEqual(self.upgrade()["compose.yaml"], Action.REPLACED)
        self.assertEqual(self.files()["compose.yaml"], b"two\n")
        self.assertEqual(stat.S_IMODE((self.path / "compose.yaml").stat().st_mode), 0o600)
        self.assertEqual(self.upgrade(FIRST)["compose.yaml"], Action.REPLACED)  # a rollback

    def test_keeps_a_changed_file_and_writes_the_new_one_beside(self) -> None:
        (self.path / "compose.yaml").write_text("mine\n")
        self.assertEqual(self.upgrade()["compose.yaml"], Action.KEPT)
        self.assertIn("compose.yaml.new", self.report["compose.yaml"].note)
        files = self.files()
        self.assertEqual((files["compose.yaml"], files["compose.yaml.new"]), (b"mine\n", b"two\n"))
        self.assertEqual(read_folder(self.path).waiting, ("compose.yaml.new",))
        self.assertEqual(self.upgrade()["compose.yaml"], Action.KEPT)  # says it again
        self.assertIn("still there", self.report["compose.yaml"].note)
        self.assertEqual(self.files(), files)

    def test_keeps_a_changed_file_of_which_there_is_no_new_one(self) -> None:
        (self.path / "ctllm.toml").write_text("[cloud]\nmine = 1\n")
        self.assertEqual(self.upgrade()["ctllm.toml"], Action.KEPT)
        self.assertNotIn("ctllm.toml.new", self.files())

    def test_a_changed_file_beside_is_not_replaced(self) -> None:
        (self.path / "compose.yaml").write_text("mine\n")
        self.upgrade()
        (self.path / "compose.yaml.new").write_text("merged, half\n")
        third = Deployment("3.0", {**SECOND.files, "compose.yaml": b"three\n"}, NEWER)
        self.assert_refused("compose.yaml.new", deployment=third, domain=None)
        (self.path / "compose.yaml.new").write_text("two\n")
        self.upgrade(third)
        self.assertEqual(self.files()["compose.yaml.new"], b"three\n")

    def test_a_removed_file_is_written_again(self) -> None:
        (self.path / "ctllm.toml").unlink()
        self.assertEqual(self.upgrade()["ctllm.toml"], Action.WRITTEN)

    def test_an_interrupted_upgrade_can_be_repeated(self) -> None:
        """Files were renamed, and the manifest not."""
        before = self.files()[MANIFEST]
        self.upgrade()
        after = self.files()
        (self.path / MANIFEST).write_bytes(before)
        (self.path / ".ctllm-init-0123").write_text("left")
        self.upgrade()
        self.assertEqual(self.files(), after)

    def test_env_keeps_values_and_comments_and_gets_new_keys(self) -> None:
        path = self.path / ENV
        mine = path.read_text().replace("#FIRST=1", "FIRST=9 # mine\nOWN='x'")
        path.write_text(mine)
        self.assertEqual(self.upgrade()[ENV], Action.MERGED)
        text = path.read_text()
        self.assertEqual(text, mine.replace("=1.0", "=2.0") + "\n# Two limits.\n#THIRD=3\n")
        note = self.report[ENV].note
        self.assertIn("new, with their defaults: THIRD", note)
        self.assertIn("of no use any more: FIRST", note)
        self.assertIn("CTLLM_VERSION 1.0 is now 2.0", note)
        self.assertEqual(self.upgrade()[ENV], Action.UNCHANGED)
        self.assertEqual(path.read_text(), text)

    def test_a_version_that_a_person_chose_stays(self) -> None:
        path = self.path / ENV
        path.write_text(path.read_text().replace("CTLLM_VERSION=1.0", "CTLLM_VERSION=0.9"))
        self.upgrade()
        self.assertIn("CTLLM_VERSION=0.9\n", path.read_text())
        self.assertIn("CTLLM_VERSION stays 0.9", self.report[ENV].note)

    def test_an_empty_value_is_filled_in(self) -> None:
        """Docker was installed after the first run."""
        path = self.path / ENV
        path.write_text(path.read_text().replace("DOCKER_GID=7", "DOCKER_GID="))
        self.upgrade()
        self.assertIn("DOCKER_GID=7\n", path.read_text())

    def test_another_domain_is_refused(self) -> None:
        self.assert_refused(".env has DOMAIN=example.org", domain="example.net")
        self.init(domain="example.org")


class ForeignFolderTests(SetupCase):
    """Folders that this command did not write, and attacks."""

    def test_a_folder_with_other_files_is_refused(self) -> None:
        self.path.mkdir(parents=True)
        (self.path / "thesis.tex").write_text("")
        self.assert_refused("is not empty (it has thesis.tex)")
        self.assert_refused("is not empty", adopt=True)

    def test_a_folder_of_a_server_is_adopted_on_request(self) -> None:
        self.path.mkdir(parents=True)
        (self.path / "compose.yaml").write_text("by hand\n")
        (self.path / ENV).write_text("DOMAIN=a.example\nCTLLM_VERSION=0.5\n")
        self.assert_refused("use --adopt", domain=None)
        self.assertEqual(self.upgrade(adopt=True)["compose.yaml"], Action.KEPT)
        files = self.files()
        self.assertEqual(files["compose.yaml"], b"by hand\n")
        self.assertEqual(files["compose.yaml.new"], b"two\n")
        self.assertIn(b"DOMAIN=a.example\nCTLLM_VERSION=0.5\n", files[ENV])

    def test_links_are_not_followed(self) -> None:
        outside = self.path.parent / "outside"
        for name in ("compose.yaml", ENV, MANIFEST, "ctllm.toml.new"):
            self.init()
            outside.write_text("mine")
            (self.path / name).unlink(missing_ok=True)
            (self.path / name).symlink_to(outside)
            error = self.assertRaises(BadRequest, self.upgrade)
            self.assertIn("no plain file", error.message)
            self.assertEqual(outside.read_text(), "mine")
            (self.path / name).unlink()
            for each in self.path.iterdir():
                each.unlink()

    def test_a_folder_that_is_a_link_is_refused(self) -> None:
        self.init()
        link = self.path.parent / "link"
        link.symlink_to(self.path)
        self.path = link
        self.assert_refused("or a link to one")
        self.path = self.path.parent / "file"
        self.path.write_text("")
        self.assert_refused("is no directory")

    def test_a_pipe_or_a_huge_file_is_refused(self) -> None:
        self.init()
        (self.path / "compose.yaml").unlink()
        os.mkfifo(self.path / "compose.yaml")
        error = self.assertRaises(BadRequest, self.upgrade)
        self.assertIn("no plain file", error.message)
        (self.path / "compose.yaml").unlink()
        (self.path / "compose.yaml").write_bytes(b"x" * 2_000_000)
        self.assertIn("megabyte", self.assertRaises(BadRequest, self.upgrade).message)

    def test_a_damaged_or_newer_manifest_is_refused(self) -> None:
        self.init()
        good = self.files()[MANIFEST].decode()
        for content, text in (
            ("{}", "damaged"), ("[" * 10_000, "damaged"),
            (good.replace("server-folder", "other"), "damaged"),
            (good.replace('"version": 1', '"version": 2'), "newer"),
        ):  # fmt: skip
            (self.path / MANIFEST).write_text(content)
            self.assertIn(text, self.assertRaises(BadRequest, self.upgrade).message)

    def test_a_second_run_at_the_same_time_is_refused(self) -> None:
        self.init()
        program = (
            "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX);"
            "print('locked', flush=True); sys.stdin.read()"
        )
        argv = [sys.executable, "-c", program, str(self.path)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout
            self.assertEqual(other.stdout.readline(), b"locked\n")
            self.assert_refused("Another `ctllm server` command")
            other.communicate()
        self.init()

    def test_a_full_disk_changes_nothing(self) -> None:
        """The second of the files does not fit."""
        self.init()
        real, calls = os.fsync, []

        def fsync(descriptor: int) -> None:
            calls.append(descriptor)
            if len(calls) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(descriptor)

        before = self.files()
        with mock.patch("os.fsync", fsync):
            error = self.assertRaises(ServiceUnavailable, self.upgrade)
        self.assertIn("No space left on device. Nothing was changed.", error.message)
        self.assertEqual(self.files(), before)

    def test_a_folder_that_is_read_only_says_so(self) -> None:
        """Root may write in a folder without permissions, but not on a read-only file system."""
        self.path.mkdir(parents=True)

        def refuse_creation(path: object, flags: int, *_: object, **__: object) -> Any:
            if flags & os.O_CREAT:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return mock.DEFAULT

        with mock.patch("os.open", wraps=os.open, side_effect=refuse_creation):
            error = self.assertRaises(ServiceUnavailable, self.init)
        self.assertIn("Read-only file system. Nothing was changed.", error.message)
        self.assertEqual(self.files(), {})
