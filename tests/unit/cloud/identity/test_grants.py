"""`ctllm.cloud.identity.grants`: users and scopes."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.identity import (
    AccessGrant,
    User,
)
from ctllm.errors import Forbidden
from tests.unit.cloud.identity.identity_case import (
    ALICE,
    START,
    USE_SCOPES,
)


class UserTests(SynchronousTestCase):
    """Users and what they are granted."""

    def test_ids_are_unique(self) -> None:
        """A subject may contain a bar, an issuer may not."""
        self.assertEqual(User("https://i/", "auth0|1", "A").id, "https://i/|auth0|1")
        for issuer, subject in (("https://i/|auth0", "1"), ("", "1"), ("i", "")):
            self.assertRaises(ValueError, User, issuer, subject, "A")

    def test_the_name_is_not_part_of_the_id(self) -> None:
        self.assertEqual(User("i", "1", "A").id, User("i", "1", "B").id)

    def test_require_scope_names_the_missing_scope(self) -> None:
        grant = AccessGrant(ALICE, USE_SCOPES, START, START)
        grant.require_scope("use")
        self.assertIn(
            "'manage'", self.assertRaises(Forbidden, grant.require_scope, "manage").message
        )
