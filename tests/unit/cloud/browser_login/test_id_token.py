"""`ctllm.cloud.browser_login.id_token`: which ID token finishes a login."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.browser_login.id_token import check_id_token
from ctllm.errors import Unauthorized

NOW = 1_700_000_000
CLAIMS = {
    "iss": "https://idp.example/", "aud": "page", "sub": "ada", "nonce": "n", "iat": NOW,
    "exp": NOW + 300,
}  # fmt: skip


class IdTokenTests(SynchronousTestCase):
    def check(self, **changes: Any) -> None:
        claims = {k: v for k, v in {**CLAIMS, **changes}.items() if v is not None}
        check_id_token(claims, "https://idp.example/", "page", "n", NOW)

    def test_accepts_one_that_answers_this_login(self) -> None:
        self.check()
        self.check(aud=["page"], iat=NOW + 4)
        self.check(aud=["page", "other"], azp="page")
        self.check(iss="https://idp.example")

    def test_refuses_any_other(self) -> None:
        for changes in (
            {"iss": "https://evil.example/"}, {"iss": None}, {"iss": 1},
            {"aud": "other"}, {"aud": None}, {"aud": ["other"]}, {"aud": {"page": 1}},
            {"aud": ["page", "other"]}, {"azp": "other"}, {"azp": None, "aud": "pag"},
            {"nonce": None}, {"nonce": "m"}, {"nonce": "\\udcff"}, {"nonce": ["n"]},
            {"exp": NOW - 31}, {"exp": None}, {"exp": "9"}, {"exp": True},
            {"iat": NOW + 31}, {"iat": None}, {"nbf": NOW + 31},
        ):  # fmt: skip
            with self.assertRaises(Unauthorized, msg=str(changes)):
                self.check(**changes)
