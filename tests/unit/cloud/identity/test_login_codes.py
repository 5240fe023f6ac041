"""`ctllm.cloud.identity.login_codes`: a code logs in one browser, once."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ctllm.cloud.identity import Authentication, LoginCodes, User
from ctllm.cloud.identity.login_codes import LIFETIME, MAX_PER_USER

ANN = Authentication(User("ctllm", "ann", "ann"), 1.0)
BOB = Authentication(User("ctllm", "bob", "bob"), 1.0)


class LoginCodesTests(SynchronousTestCase):
    """Login codes."""

    def setUp(self) -> None:
        self.now = 1000.0
        self.login_codes = LoginCodes(lambda: self.now)

    def test_a_code_can_be_redeemed_once(self) -> None:
        secret = self.login_codes.create(ANN)
        self.assertIsNone(self.login_codes.redeem(secret + "x"))
        self.assertEqual(self.login_codes.redeem(secret), ANN)
        self.assertIsNone(self.login_codes.redeem(secret))

    def test_a_code_expires(self) -> None:
        secret, other = self.login_codes.create(ANN), self.login_codes.create(ANN)
        self.now += LIFETIME - 1
        self.assertEqual(self.login_codes.redeem(secret), ANN)
        self.now += 1
        self.assertIsNone(self.login_codes.redeem(other))

    def test_a_further_code_replaces_the_users_oldest(self) -> None:
        of_bob = self.login_codes.create(BOB)
        secrets = [self.login_codes.create(ANN) for _ in range(MAX_PER_USER + 2)]
        self.assertEqual(self.login_codes.redeem(of_bob), BOB)
        valid = [secret for secret in secrets if self.login_codes.redeem(secret)]
        self.assertEqual(valid, secrets[2:])

    def test_expired_codes_use_no_memory(self) -> None:
        for _ in range(100):
            self.login_codes.create(ANN)
            self.login_codes.create(BOB)
        self.assertEqual(len(self.login_codes), 2 * MAX_PER_USER)
        self.now += LIFETIME
        self.login_codes.create(ANN)
        self.assertEqual(len(self.login_codes), 1)
