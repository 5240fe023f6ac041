"""The tokens while the desktop runs: unlocked once with a dialog, later moved without one."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred

from ctllm.desktop.login_maintenance import POLL_INTERVAL, RETRY_INTERVAL, LoginMaintenance
from ctllm.desktop.login_secrets import LoginSecrets
from ctllm.errors import SecretStoreUnavailable
from tests.unit.desktop.test_login_store import ANN, LoginStoreCase


class LoginMaintenanceTests(LoginStoreCase):
    def start(self, *preferred: str) -> LoginMaintenance:
        self.logins = self.another_process(*preferred)
        maintenance = LoginMaintenance(self.logins, self.clock)
        maintenance.startService()
        self.addCleanup(maintenance.stopService)
        return maintenance

    def test_asks_a_person_once(self) -> None:
        self.done(self.save(ANN, "one"))
        self.first.is_locked = True
        self.first.prompts.clear()
        self.start("first")
        for _ in range(100):
            self.clock.advance(POLL_INTERVAL)
        self.assertEqual(self.first.prompts.count(True), 1)

    def test_moves_the_tokens_to_the_store_of_the_setting(self) -> None:
        self.done(self.save(ANN, "one"))
        self.start("second")
        self.assertEqual((len(self.first.secrets), len(self.second.secrets)), (0, 1))
        self.assertEqual(self.done(self.logins.load()), (ANN, LoginSecrets("one")))
        self.assertEqual(self.file.load().daemon_store, "second")

    def test_keeps_the_tokens_where_they_are_until_they_can_move(self) -> None:
        self.done(self.save(ANN, "one"))
        self.second.is_locked = True
        self.start("second", "first")
        self.assertEqual(len(self.first.secrets), 1)
        self.second.is_locked = False
        self.clock.advance(RETRY_INTERVAL)
        self.assertEqual((len(self.first.secrets), len(self.second.secrets)), (0, 1))

    def test_a_move_that_fails_half_way_loses_nothing(self) -> None:
        self.done(self.save(ANN, "one"))
        self.second.fails_to_set = True
        self.start("second", "first")
        self.assertEqual(self.done(self.another_process().load()), (ANN, LoginSecrets("one")))
        self.assertEqual(len(self.first.secrets), 1)
        self.second.fails_to_set = False
        self.clock.advance(RETRY_INTERVAL)
        self.assertEqual((len(self.first.secrets), len(self.second.secrets)), (0, 1))
        self.assertEqual(self.file.load().unused_secrets, ())
        self.flushLoggedErrors()

    def test_an_old_copy_that_could_not_be_deleted_is_deleted_later(self) -> None:
        self.done(self.save(ANN, "one"))
        self.first.fails_to_delete = True
        self.start("second", "first")
        self.assertEqual((len(self.first.secrets), len(self.second.secrets)), (1, 1))
        self.first.fails_to_delete = False
        self.clock.advance(RETRY_INTERVAL)
        self.assertEqual(self.first.secrets, {})

    def test_looks_again_when_another_process_logs_in(self) -> None:
        self.start("first", "second")
        self.done(self.save(ANN, "one", self.another_process("second")))
        self.clock.advance(POLL_INTERVAL)
        self.assertEqual((len(self.first.secrets), len(self.second.secrets)), (1, 0))

    def test_stores_that_need_nothing_are_not_asked_all_the_time(self) -> None:
        self.done(self.save(ANN, "one"))
        self.start("first")
        asked = len(self.first.prompts)
        self.clock.pump([POLL_INTERVAL] * 5)
        self.assertLessEqual(len(self.first.prompts), asked + 1)

    def test_stopping_ends_the_dialog(self) -> None:
        self.done(self.save(ANN, "one"))
        self.first.dialog = Deferred()
        maintenance = self.start("first")
        maintenance.stopService()
        self.assertTrue(self.first.dialog.called)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class FailureMemoryTests(LoginStoreCase):
    def test_a_store_that_cannot_be_read_is_not_asked_for_each_request(self) -> None:
        self.done(self.save(ANN, "one"))
        self.first.is_locked = True
        logins = self.another_process()
        for _ in range(5):
            self.refused(logins.load(), SecretStoreUnavailable)
            self.clock.advance(1)
        self.assertEqual(self.first.reads, 1)
        self.refused(logins.load(may_prompt=True), SecretStoreUnavailable)
        self.assertEqual(self.first.reads, 2)
        self.first.is_locked = False
        self.clock.advance(10)
        self.assertEqual(self.done(logins.load())[1], LoginSecrets("one"))

    def test_requests_that_wait_share_one_read(self) -> None:
        self.done(self.save(ANN, "one"))
        dialog: Deferred[None] = Deferred()
        self.first.dialog = dialog
        logins = self.another_process()
        reading, cancelled, waiting = (Deferred.fromCoroutine(logins.load()) for _ in range(3))
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        dialog.callback(None)
        for each in (reading, waiting):
            self.assertEqual(self.successResultOf(each), (ANN, LoginSecrets("one")))
        self.assertEqual(self.first.reads, 1)

    def test_a_read_that_is_cancelled_is_begun_again_by_who_waits(self) -> None:
        self.done(self.save(ANN, "one"))
        dialog: Deferred[None] = Deferred()
        self.first.dialog = dialog
        logins = self.another_process()
        reading, waiting = (Deferred.fromCoroutine(logins.load()) for _ in range(2))
        self.first.dialog = None
        reading.cancel()
        self.failureResultOf(reading, CancelledError)
        self.assertTrue(dialog.called)
        self.assertEqual(self.successResultOf(waiting), (ANN, LoginSecrets("one")))
