"""What `ctllm login` shows and asks for a login with a provider."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from ctllm.cli.provider_login import TerminalPrompt, choose_provider
from ctllm.desktop.oauth.device_grant import DeviceCode
from ctllm.desktop.oauth.provider import Provider
from ctllm.errors import BadConfiguration, BadRequest

ACME = Provider("acme", "https://login.example", "desktop", "Acme Login")
OTHER = Provider("other", "https://other.example", "desktop")
URL = "https://login.example/activate"
CODE = DeviceCode("ABCD-EFGH", URL, f"{URL}?user_code=ABCD-EFGH", 600, 5, "device-code")


class Terminal(io.StringIO):
    """A terminal of UTF-8, or a file."""

    encoding = "utf-8"

    def __init__(self, text: str = "", is_terminal: bool = True) -> None:
        super().__init__(text)
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


class TerminalPromptTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.opened: list[str] = []

    async def open(self, url: str) -> bool:
        self.opened.append(url)
        return True

    def shown(self, code: DeviceCode = CODE, out: Terminal | None = None, **size: int) -> str:
        out = out or Terminal()
        columns, lines = size.get("columns", 80), size.get("lines", 40)
        with (
            redirect_stdout(out),
            mock.patch("shutil.get_terminal_size", return_value=(columns, lines)),
        ):
            TerminalPrompt(ACME, self.open, out, {"NO_COLOR": "1"}).show_code(code)
        return out.getvalue()

    def test_shows_code_link_and_qr_code_and_opens_the_link(self) -> None:
        shown = self.shown()
        for part in (
            f"Acme Login ({ACME.issuer})",
            CODE.link,
            "check that it shows",
            "ABCD-EFGH",
            "10 min",
            "█",
        ):
            self.assertIn(part, shown)
        self.assertEqual(self.opened, [CODE.link])
        self.assertNotIn("device-code", shown)

    def test_a_link_without_the_code_asks_to_enter_it(self) -> None:
        code = DeviceCode("ABCD", URL, URL, 600, 5, "device-code")
        self.assertIn("enter this code:  ABCD", self.shown(code))

    def test_no_qr_code_where_it_does_not_fit_or_is_not_seen(self) -> None:
        self.assertNotIn("█", self.shown(out=Terminal(is_terminal=False)))
        self.assertNotIn("█", self.shown(columns=20))
        self.assertNotIn("█", self.shown(lines=15))

    def test_a_browser_that_cannot_be_opened_is_told(self) -> None:
        async def fail(url: str) -> bool:
            raise BadConfiguration("No space left.")

        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as errors:
            TerminalPrompt(ACME, fail, out, {}).show_link(URL)
        self.assertIn(URL, out.getvalue())
        self.assertIn("No space left.", errors.getvalue())

    def test_opens_nothing_if_told_so(self) -> None:
        with redirect_stdout(io.StringIO()) as out:
            TerminalPrompt(ACME, None, out, {}).show_link(URL)
        self.assertIn(URL, out.getvalue())


class ChooseProviderTests(SynchronousTestCase):
    def choose(self, answer: str | BaseException, name: str = "", terminal: bool = True) -> str:
        def ask(prompt: str) -> str:
            if isinstance(answer, BaseException):
                raise answer
            return answer

        stdin: Any = Terminal(is_terminal=terminal)
        with redirect_stdout(io.StringIO()), mock.patch("builtins.input", ask):
            return choose_provider((ACME, OTHER), name, stdin).name

    def test_asks_on_a_terminal_alone(self) -> None:
        self.assertEqual(self.choose("2"), "other")
        self.assertEqual(self.choose("acme"), "acme")
        self.assertEqual(self.choose("", name="other"), "other")
        self.assertRaises(BadRequest, self.choose, "2", terminal=False)

    def test_refuses_what_is_no_choice(self) -> None:
        for answer in ("", "0", "3", "²", "acme2", EOFError(), KeyboardInterrupt()):
            self.assertRaises(BadRequest, self.choose, answer)

    def test_the_only_provider_needs_no_question(self) -> None:
        stdin: Any = Terminal()
        self.assertEqual(choose_provider((ACME,), "", stdin), ACME)
