"""`ctllm.http.server.date`: the Date of responses."""

from __future__ import annotations

import time
from email.utils import formatdate

from twisted.trial.unittest import SynchronousTestCase

from ctllm.http.server.date import date_header, format_date


class DateTests(SynchronousTestCase):
    def test_is_that_of_the_example_in_rfc_9110(self) -> None:
        self.assertEqual(format_date(784111777), b"Sun, 06 Nov 1994 08:49:37 GMT")

    def test_is_an_imf_fixdate_in_each_month_and_on_each_day(self) -> None:
        for day in range(0, 400, 5):
            seconds = 1_700_000_000 + day * 86_400 + day
            self.assertEqual(format_date(seconds).decode(), formatdate(seconds, usegmt=True))

    def test_is_now(self) -> None:
        before = int(time.time())
        name, value = date_header()
        dates = {format_date(each) for each in range(before, int(time.time()) + 1)}
        self.assertEqual(name, b"Date")
        self.assertIn(value, dates)
