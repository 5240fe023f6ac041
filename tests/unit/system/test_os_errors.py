"""`ctllm.system.os_errors`: what people are told of an error of the file system."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ctllm.errors import BadConfiguration, CtllmError, InsufficientStorage
from ctllm.system.os_errors import translate_os_errors


class TranslationTests(SynchronousTestCase):
    """`translate_os_errors`."""

    def translate(self, number: int) -> CtllmError:
        try:
            with translate_os_errors("write", Path("/some/file"), InsufficientStorage):
                raise OSError(number, os.strerror(number))
        except CtllmError as error:
            self.assertIsInstance(error.__cause__, OSError)
            return error

    def test_a_full_disk_a_quota_and_a_limit_are_the_given_error(self) -> None:
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            error = self.translate(number)
            self.assertIsInstance(error, InsufficientStorage)
            self.assertIn("/some/file", error.message)
            self.assertIn("Free some space", error.message)

    def test_any_other_error_is_that_of_the_configuration(self) -> None:
        error = self.translate(errno.EACCES)
        self.assertIsInstance(error, BadConfiguration)
        self.assertEqual(
            error.message,
            "Cannot write /some/file: Permission denied. The user who runs ctllm must be able to "
            "read and write it.",
        )
