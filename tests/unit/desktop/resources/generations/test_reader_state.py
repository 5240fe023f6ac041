"""`ctllm.desktop.resources.generations.reader_state`: the table of states."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ctllm.desktop.resources.generations.reader_state import TABLE, ReaderEvent, ReaderState


class TableTests(SynchronousTestCase):
    """The table as a whole."""

    def test_every_state_is_in_the_table_and_can_be_reached(self) -> None:
        reached = {ReaderState.REQUESTING}
        for _ in ReaderState:
            reached |= {to for state in reached for to in TABLE[state].values()}
        self.assertEqual((set(TABLE), reached), (set(ReaderState), set(ReaderState)))

    def test_a_reader_may_leave_at_any_time_and_once(self) -> None:
        for state in set(ReaderState) - {ReaderState.LEFT}:
            self.assertIs(TABLE[state][ReaderEvent.LEAVE], ReaderState.LEFT)
        self.assertEqual(TABLE[ReaderState.LEFT], {})

    def test_a_pause_and_a_resumption_lead_back(self) -> None:
        for state, row in TABLE.items():
            if ReaderEvent.PAUSE in row:
                paused = TABLE[row[ReaderEvent.PAUSE]]
                self.assertIs(paused[ReaderEvent.RESUME], state)

    def test_sending_does_not_begin_within_itself(self) -> None:
        for state in (ReaderState.SENDING, ReaderState.STALLED):
            self.assertNotIn(ReaderEvent.SEND, TABLE[state])
