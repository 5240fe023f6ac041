"""`ctllm.cloud.identity.signing_keys`: the keys are created once and checked at each start."""

from __future__ import annotations

from ctllm.cloud.identity import (
    PrivateDirectory,
    SigningKeys,
    load_signing_keys,
    proxy_id,
)
from ctllm.errors import BadConfiguration
from tests.unit.cloud.identity.identity_case import (
    ALICE,
    InterferingDirectory,
    StoreCase,
)


class SigningKeysTests(StoreCase):
    """The keys of a cloud."""

    def are_equal(self, one: SigningKeys, other: SigningKeys) -> bool:
        return (one.public_key_text, one.instance_secret) == (
            other.public_key_text,
            other.instance_secret,
        )

    def test_a_second_start_reads_the_same_keys(self) -> None:
        keys = load_signing_keys(self.directory)
        self.assertTrue(self.are_equal(keys, load_signing_keys(PrivateDirectory(self.path))))
        self.assertEqual(len(keys.instance_secret), 32)

    def test_clouds_have_different_keys(self) -> None:
        keys, other = (
            load_signing_keys(self.directory),
            load_signing_keys(self.directory.subdirectory("other")),
        )
        self.assertNotEqual(keys.public_key_text, other.public_key_text)
        self.assertNotEqual(keys.instance_secret, other.instance_secret)
        self.assertNotEqual(keys.signing_key.private_bytes_raw(), keys.instance_secret)

    def test_concurrent_first_starts_agree_on_the_keys(self) -> None:
        directory, others = InterferingDirectory(self.path), []
        directory.interfere = lambda: others.append(load_signing_keys(PrivateDirectory(self.path)))
        self.assertTrue(self.are_equal(load_signing_keys(directory), others[0]))
        self.assertEqual(len(self.files()), 2)

    def test_refuses_a_damaged_key_and_does_not_replace_it(self) -> None:
        for name in ("signing-key", "instance-secret"):
            for content in (b"", b"A" * 42 + b"\n", b"A" * 44, b"\xff" * 43, b"!" * 43):
                load_signing_keys(self.directory)
                path = self.path / name
                good = path.read_bytes()
                path.write_bytes(content)
                error = self.assertRaises(BadConfiguration, load_signing_keys, self.directory)
                self.assertIn(str(path), error.message)
                self.assertIn("backup", error.message)
                self.assertEqual(path.read_bytes(), content)
                path.write_bytes(good)

    def test_refuses_a_key_that_others_can_read(self) -> None:
        load_signing_keys(self.directory)
        (self.path / "signing-key").chmod(0o640)
        error = self.assertRaises(BadConfiguration, load_signing_keys, self.directory)
        self.assertIn(f"chmod 600 {self.path / 'signing-key'}", error.message)

    def test_names_a_key_that_cannot_be_read(self) -> None:
        (self.path / "instance-secret").mkdir()
        error = self.assertRaises(BadConfiguration, load_signing_keys, self.directory)
        self.assertIn(str(self.path / "instance-secret"), error.message)

    def test_repr_has_no_secret(self) -> None:
        keys = load_signing_keys(self.directory)
        self.assertEqual(repr(keys), "SigningKeys()")

    def test_proxy_ids_depend_on_user_and_secret(self) -> None:
        name = proxy_id(b"1" * 32, ALICE.id)
        self.assertRegex(name, r"\Actllm-proxy-[0-9a-f]{32}\Z")
        self.assertEqual(name, proxy_id(b"1" * 32, ALICE.id))
        self.assertNotEqual(name, proxy_id(b"1" * 32, "ctllm|bob"))
        self.assertNotEqual(name, proxy_id(b"2" * 32, ALICE.id))
