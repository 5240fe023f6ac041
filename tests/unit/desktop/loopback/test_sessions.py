"""`ctllm.desktop.loopback.sessions`: a code works once and soon; a token until the daemon ends."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.loopback.sessions import (
    CODE_LIFETIME,
    FAILURE_WINDOW,
    MAX_FAILURES,
    SESSION_LIFETIME,
    LoopbackSessions,
)
from ctllm.errors import RateLimited, Unauthorized, UserChanged


class LoopbackSessionsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.sessions = LoopbackSessions(self.clock.seconds, max_codes=3, max_sessions=2)

    def begin(self) -> str:
        return self.sessions.redeem(self.sessions.create_code())

    def test_a_code_begins_one_session(self) -> None:
        code = self.sessions.create_code()
        self.sessions.verify(self.sessions.redeem(code))
        self.assertRaises(Unauthorized, self.sessions.redeem, code)

    def test_a_code_is_no_token_and_a_token_no_code(self) -> None:
        code = self.sessions.create_code()
        self.assertRaises(Unauthorized, self.sessions.verify, code)
        self.assertRaises(Unauthorized, self.sessions.redeem, self.sessions.redeem(code))

    def test_a_code_expires(self) -> None:
        old, code = self.sessions.create_code(), self.sessions.create_code()
        self.clock.advance(CODE_LIFETIME - 1)
        self.sessions.redeem(code)
        self.clock.advance(1)
        self.assertRaises(Unauthorized, self.sessions.redeem, old)

    def test_a_further_code_replaces_the_oldest(self) -> None:
        first, *others = (self.sessions.create_code() for _ in range(4))
        self.assertRaises(Unauthorized, self.sessions.redeem, first)
        for code in others:
            self.sessions.redeem(code)

    def test_secrets_have_256_bits_and_are_not_in_memory(self) -> None:
        code = self.sessions.create_code()
        token = self.sessions.redeem(self.sessions.create_code())
        self.assertEqual((len(code), len(token)), (43, 43))
        for secret in (code, token):
            self.assertNotIn(secret, str(vars(self.sessions)))

    def test_wrong_codes_are_limited_but_lock_nobody_out(self) -> None:
        for _ in range(MAX_FAILURES):
            self.assertRaises(Unauthorized, self.sessions.redeem, "x" * 43)
        error = self.assertRaises(RateLimited, self.sessions.redeem, "x" * 43)
        self.assertEqual(error.retry_after, int(FAILURE_WINDOW))
        self.sessions.verify(self.begin())
        self.clock.advance(FAILURE_WINDOW)
        self.assertRaises(Unauthorized, self.sessions.redeem, "x" * 43)

    def test_a_session_ends_when_it_is_closed(self) -> None:
        token, other = self.begin(), self.begin()
        self.sessions.close(token)
        self.assertRaises(Unauthorized, self.sessions.verify, token)
        self.sessions.verify(other)

    def test_all_sessions_and_codes_end_at_once(self) -> None:
        token = self.sessions.redeem(self.sessions.create_code())
        code = self.sessions.create_code()
        self.sessions.close_all()
        self.assertRaises(Unauthorized, self.sessions.verify, token)
        self.assertRaises(Unauthorized, self.sessions.redeem, code)

    def test_a_session_of_another_user_says_so(self) -> None:
        tokens = [self.begin() for _ in range(2)]
        self.sessions.close_all()
        for token in tokens:
            self.assertRaises(UserChanged, self.sessions.verify, token)
        self.sessions.verify(self.begin())
        with self.assertRaises(Unauthorized) as raised:
            self.sessions.verify("x" * 43)
        self.assertEqual(raised.exception.code, "unauthenticated")

    def test_no_more_sessions_of_other_users_are_known_than_of_the_present_one(self) -> None:
        first = self.begin()
        self.sessions.close_all()
        others = [self.begin() for _ in range(2)]
        self.sessions.close_all()
        for token in others:
            self.assertRaises(UserChanged, self.sessions.verify, token)
        with self.assertRaises(Unauthorized) as raised:
            self.sessions.verify(first)
        self.assertEqual(raised.exception.code, "unauthenticated")

    def test_a_session_ends_some_time_after_its_last_use(self) -> None:
        token = self.begin()
        for _ in range(2):
            self.clock.advance(SESSION_LIFETIME - 1)
            self.sessions.verify(token)
        self.clock.advance(SESSION_LIFETIME)
        self.assertRaises(Unauthorized, self.sessions.verify, token)
        self.assertEqual(len(self.sessions), 0)

    def test_a_further_session_replaces_the_one_that_was_not_used_for_longest(self) -> None:
        first, second = self.begin(), self.begin()
        self.sessions.verify(first)
        third = self.begin()
        self.assertRaises(Unauthorized, self.sessions.verify, second)
        for token in (first, third):
            self.sessions.verify(token)
