"""API keys: created once, and stored as records."""

from __future__ import annotations

from ctllm.auth.api_keys import MAX_KEYS, owner_tag, parse_owner_tag
from ctllm.desktop.api_keys import (
    KeyOptions,
    create_api_key,
    create_numbered_key,
    revoke_api_key,
)
from ctllm.errors import BadRequest
from tests.unit.desktop.test_cloud_session import ANN, CloudSessionCase

NOW = 1000.0


class CreateApiKeyTests(CloudSessionCase):
    def names(self) -> list[str]:
        return [key.name for key in self.file.load().api_keys]

    def test_returns_a_key_of_the_user_and_stores_its_record(self) -> None:
        self.save(ANN, old="k")
        options = KeyOptions("manage", 5000, ("llama*",), 60)
        key = create_api_key(self.file, "new", NOW, options)
        self.assertEqual(parse_owner_tag(key), owner_tag(ANN.user_id))
        self.assertEqual(self.names(), ["old", "new"])
        stored = self.file.load().api_keys[1]
        self.assertTrue(stored.matches(key))
        self.assertEqual(
            (stored.scope, stored.expires, stored.models, stored.requests_per_minute),
            ("manage", 5000, ("llama*",), 60),
        )
        self.assertEqual(stored.created, 1000)
        self.assertNotIn(key[-43:], self.file.path.read_text())

    def test_refuses_without_login_or_with_a_used_name(self) -> None:
        self.save(None)
        self.assertRaises(BadRequest, create_api_key, self.file, "new", NOW)
        self.save(ANN, old="k")
        self.assertRaises(BadRequest, create_api_key, self.file, "old", NOW)
        self.assertEqual(self.names(), ["old"])

    def test_refuses_names_that_cannot_be_shown(self) -> None:
        self.save(ANN)
        for name in ("", " ", " a", "a ", "a\n", "a\x1b[31m", "a" * 65):
            self.assertRaises(BadRequest, create_api_key, self.file, name, NOW)
        create_api_key(self.file, "CI/büro 2", NOW)

    def test_numbers_the_name_while_it_is_used(self) -> None:
        self.save(ANN)
        given = [create_numbered_key(self.file, "codex", NOW) for _ in range(3)]
        self.assertEqual([name for name, _ in given], ["codex", "codex-2", "codex-3"])
        for (_, key), record in zip(given, self.file.load().api_keys, strict=True):
            self.assertTrue(record.matches(key))

    def test_refuses_more_keys_than_the_cloud_accepts(self) -> None:
        """Expired ones do not count: they are not announced."""
        self.save(ANN, **{f"key-{n}": str(n) for n in range(MAX_KEYS - 1)})
        create_api_key(self.file, "short", NOW, KeyOptions(expires=int(NOW) + 60))
        self.assertRaises(BadRequest, create_api_key, self.file, "more", NOW)
        create_api_key(self.file, "more", NOW + 60)

    def test_revoke_deletes_that_key_only(self) -> None:
        self.save(ANN, one="1", two="2")
        revoke_api_key(self.file, "one")
        self.assertEqual(self.names(), ["two"])
        self.assertRaises(BadRequest, revoke_api_key, self.file, "one")
