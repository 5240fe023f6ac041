"""`ctllm.common.memory_budget`: one budget for all that a process holds."""

from __future__ import annotations

from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from ctllm.common.memory_budget import BufferBudget, MemoryBudget
from ctllm.errors import TooManyRequests
from ctllm.proxy.process_confinement import BASE_MEMORY, MIN_BUDGET, memory_budget


class MemoryBudgetTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.budget = MemoryBudget(1000)

    def test_admits_requests_up_to_half_of_the_size(self) -> None:
        self.budget.admit(500)
        error = self.assertRaises(TooManyRequests, self.budget.admit, 1)
        self.assertEqual(error.status, 429)
        self.budget.release(1)
        self.budget.admit(1)

    def test_reserves_for_bodies_up_to_three_quarters_of_the_size(self) -> None:
        self.budget.reserve(700)
        self.assertTrue(self.budget.try_reserve(50))
        self.assertFalse(self.budget.try_reserve(1))
        self.assertTrue(self.budget.is_tight)
        self.assertEqual(self.budget.reserved, 750)

    def test_observers_are_notified_when_the_size_is_exceeded(self) -> None:
        calls: list[int] = []
        self.budget.add_observer(
            mock.Mock(memory_exceeded=lambda: calls.append(self.budget.reserved))
        )
        self.budget.reserve(1000)
        self.assertEqual(calls, [])
        self.budget.reserve(1)
        self.assertEqual(calls, [1001])

    def test_observers_are_notified_of_released_memory_when_bodies_may_be_read(self) -> None:
        calls: list[int] = []
        self.budget.add_observer(
            mock.Mock(memory_released=lambda: calls.append(self.budget.reserved))
        )
        self.budget.reserve(900)
        self.budget.release(100)
        self.assertEqual(calls, [])
        self.budget.release(100)
        self.assertEqual(calls, [700])

    def test_budget_of_a_process_fits_into_its_memory(self) -> None:
        self.assertEqual(memory_budget(BASE_MEMORY + 300), MIN_BUDGET)
        for megabytes in (128, 512, 4096):
            self.assertLess(BASE_MEMORY + memory_budget(megabytes << 20), megabytes << 20)

    def test_buffer_budget_is_part_of_the_memory_budget(self) -> None:
        buffer = BufferBudget(900, self.budget)
        buffer.reserve(100)
        self.assertEqual((self.budget.reserved, buffer.is_full), (100, False))
        self.budget.reserve(700)
        self.assertTrue(buffer.is_full)
        buffer.release(100)
        self.assertEqual(self.budget.reserved, 700)
