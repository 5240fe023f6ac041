"""`ctllm.relay.replay_buffer`: a body that can be sent twice, within limits of memory."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ctllm.common.memory_budget import BufferBudget
from ctllm.relay.replay_buffer import ReplayBuffer


def send_all(buffer: ReplayBuffer) -> list[bytes]:
    """Take every chunk that is left to send."""
    chunks = []
    while buffer.has_unsent:
        chunks.append(buffer.next_chunk())
    return chunks


class ReplayBufferTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.budget = BufferBudget(100)

    def test_sends_chunks_of_the_chunk_size_in_order(self) -> None:
        buffer = ReplayBuffer(self.budget, chunk_size=4)
        buffer.append(b"abc")
        buffer.append(b"defghi")
        self.assertEqual(send_all(buffer), [b"abcd", b"efgh", b"i"])

    def test_sent_data_is_released_unless_replayable(self) -> None:
        buffer = ReplayBuffer(self.budget, chunk_size=4)
        buffer.append(b"abcdef")
        buffer.next_chunk()
        self.assertEqual((buffer.size, self.budget.reserved), (2, 2))

    def test_replayable_data_is_sent_again_after_rewind(self) -> None:
        buffer = ReplayBuffer(self.budget, is_replayable=True)
        buffer.append(b"abc")
        self.assertEqual(send_all(buffer), [b"abc"])
        buffer.append(b"def")
        buffer.rewind()
        self.assertEqual((send_all(buffer), self.budget.reserved), ([b"abcdef"], 6))

    def test_body_over_the_limit_is_not_replayable(self) -> None:
        buffer = ReplayBuffer(self.budget, is_replayable=True, limit=5)
        buffer.append(b"abcde")
        self.assertTrue(buffer.is_replayable)
        send_all(buffer)
        buffer.append(b"f")
        self.assertEqual((buffer.is_replayable, buffer.data), (False, b"f"))

    def test_body_is_not_replayable_when_the_budget_is_exhausted(self) -> None:
        buffer = ReplayBuffer(self.budget, is_replayable=True)
        self.budget.reserve(98)
        buffer.append(b"abc")
        self.assertEqual((buffer.is_replayable, buffer.is_full), (False, True))

    def test_close_releases_everything(self) -> None:
        buffer = ReplayBuffer(self.budget, is_replayable=True)
        buffer.append(b"abc")
        buffer.next_chunk()
        buffer.close()
        self.assertEqual((buffer.has_unsent, buffer.size, self.budget.reserved), (False, 0, 0))
