"""The documents say what is true: the tunnel's bytes, every option, key, metric, code and link."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args
from unittest import mock

from twisted.scripts.twistd import ServerOptions  # type: ignore[attr-defined]
from twisted.trial.unittest import SynchronousTestCase as TestCase

from ctllm import cli, errors, tap_options
from ctllm.cli.parser import Parser
from ctllm.cloud.audit import AuditEvent
from ctllm.cloud.metrics import Metrics
from ctllm.config import KEYS
from ctllm.desktop.ipc.connection import IpcLimits
from ctllm.http.interfaces import RequestSink
from ctllm.http.message.head import RequestHead, ResponseHead
from ctllm.ipc import messages, protocol
from ctllm.tunnel import frames
from ctllm.tunnel.frames import CONNECTION_ID, Desktop, FrameKind, Reason, Status
from ctllm.tunnel.initiator import Initiator
from ctllm.tunnel.peer import MAX_CLOSED_IDS
from ctllm.tunnel.responder import Responder, ResponderStream
from tests.unit.fakes import FakeResponseSink

ROOT = Path(__file__).parents[2]
TUNNEL = ROOT / "docs" / "tunnel.md"
UNITS = sorted((ROOT / "etc").glob("*.service"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
TEXTS = [*PAGES, *UNITS]

EXCHANGE = bytes.fromhex("8f3a61c0d27b4e95a1046b8cf0e7d213")
ANSWER = b'{"version":"0.12.6"}'

#: Options of other programs that the documents name.
OTHERS = {
    "input-type",  # of Node
    "draft",
    "filter",
    "help",
    "home-dir",
    "now",
    "shell",
    "system",
    "system-site-packages",
    "user",
    "version",
    "write",
}


def blocks(language: str) -> dict[str, str]:
    """The fenced blocks of the tunnel's page in a language, by the name behind it."""
    found = re.findall(rf"^```{language} (\S+)\n(.*?)^```$", TUNNEL.read_text(), re.M | re.S)
    return dict(found)


def tables(page: Path, columns: int) -> Iterator[list[str]]:
    """The rows of a page's tables that have so many columns, heads included."""
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == columns:
            yield cells


def code(page: Path) -> str:
    """What stands in code: spans and blocks; all of a file that is no page."""
    text = page.read_text()
    if page.suffix != ".md":
        return text
    fenced = re.findall(r"^```.*?^```$|^ {4}[^\n]*$", text, re.M | re.S)
    spans = re.findall(r"`[^`\n]+`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    return "\n".join([*fenced, *spans])


class TunnelPageTests(TestCase):
    def test_kinds(self) -> None:
        """The table has every kind of frame with its number and its largest payload."""
        told = {
            int(number): (re.sub(r"\[(\w+)\].*", r"\1", name), int(most))
            for number, name, _, _, most in tables(TUNNEL, 5)
            if number.isdigit()
        }
        true = {int(kind): (kind.name, frames._MAX_PAYLOAD[kind]) for kind in FrameKind}
        self.assertEqual(told, true)

    def test_codes(self) -> None:
        """The codes of RESET and BYE are the tree's, with their statuses."""
        statuses = {
            kind.code: kind.status for kind in vars(errors).values() if isinstance(kind, type)
            and issubclass(kind, errors.CtllmError)
        }  # fmt: skip
        told = {
            found[1]: int(status)
            for name, status, _ in tables(TUNNEL, 3)
            if (found := re.fullmatch(r"`(\w+)`", name)) and status.isdigit()
        }
        self.assertGreater(len(told), 8)
        self.assertEqual(told, {name: statuses[name] for name in told})

    def test_constants(self) -> None:
        """The numbers in the prose are the code's."""
        text = TUNNEL.read_text()
        for said in (
            frames.SUBPROTOCOL,
            f"{frames.MAX_MESSAGE:,} bytes",
            f"1 to {frames.MAX_DATA:,} bytes",
            f"{KEYS['proxy.stream_window_bytes'].default} unless configured",
            f"the last {MAX_CLOSED_IDS})",
        ):
            self.assertIn(said, text)

    def test_worked_example(self) -> None:
        """The two ends, made to speak, say the example byte for byte."""
        told = {name: bytes.fromhex(text) for name, text in blocks("hex").items()}
        said: dict[str, bytes] = {}
        desktop = Desktop("00112233445566778899aabbccddeeff", "attic")
        proxy = Initiator(262144, 30, 8)
        works: list[ResponderStream] = []

        def accept(head: RequestHead, work: ResponderStream) -> RequestSink:
            works.append(work)
            return mock.create_autospec(RequestSink, instance=True)

        bridge = Responder(
            262144, 30, 8, request_handler=accept, resume_buffer_bytes=0, desktop=desktop
        )

        def speak(name: str) -> None:
            speaker, hearer = (bridge, proxy) if name.startswith("desktop") else (proxy, bridge)
            said[name] = speaker.next_message()
            hearer.receive_message(said[name])

        bridge.send_status(Status("up", "0.12.6", ("llama3.2:latest",)))
        bridge.connection_made()
        for name in ("desktop-1", "proxy-1", "desktop-2"):
            speak(name)
        client = FakeResponseSink()
        with mock.patch("ctllm.tunnel.initiator.secrets.token_bytes", return_value=EXCHANGE):
            asked = RequestHead(b"GET", b"/api/version", ((b"Accept", b"*/*"),))
            proxy.start_request(asked, client).finish()
        for name in ("proxy-2", "desktop-3"):
            speak(name)
        works[0].write_head(ResponseHead(200, b"OK", ((b"Content-Length", b"20"),)))
        works[0].write(ANSWER)
        works[0].finish()
        for name in ("desktop-4", "proxy-3"):
            speak(name)
        self.assertEqual((bytes(client.body), client.outcome), (ANSWER, "end"))
        self.assertEqual((proxy.streams, bridge.streams), ({}, {}))
        self.assertEqual({name: told[name].hex() for name in said}, hexed(said))

    def test_other_frames(self) -> None:
        """So are the frames that the example did not need."""
        told = {name: bytes.fromhex(text) for name, text in blocks("hex").items()}
        replaced = Reason("replaced", "A newer connection of this desktop replaces this one.")
        true = {
            "attach": frames.encode_offset_frame(FrameKind.ATTACH, EXCHANGE, 12),
            "reset": frames.encode_json_frame(
                FrameKind.RESET, EXCHANGE, Reason("cancelled", "The client disconnected.")
            ),
            "bye": frames.encode_json_frame(FrameKind.BYE, CONNECTION_ID, replaced),
        }
        self.assertEqual({name: told[name].hex() for name in true}, hexed(true))

    def test_payloads_in_prose(self) -> None:
        """Each JSON payload that the example shows as text is in its bytes too."""
        payloads = b"".join(bytes.fromhex(text) for text in blocks("hex").values())
        shown = re.findall(r'`(\{"\w+":["\d[{].*?\})`', TUNNEL.read_text())
        self.assertGreater(len(shown), 6)
        for text in shown:
            self.assertIn(text.encode(), payloads)


def hexed(said: dict[str, bytes]) -> dict[str, str]:
    """Bytes in the form in which differences can be read."""
    return {name: data.hex() for name, data in said.items()}


def command_options(parser: Parser) -> Iterator[str]:
    """Every option of a command and of its subcommands."""
    yield from re.findall(r"--([a-z-]+)", parser.format_help())
    for command in parser.commands.values():
        yield from command_options(command)


class IpcPageTests(TestCase):
    """The page of the IPC has what the code has."""

    TEXT = (ROOT / "docs" / "ipc.md").read_text()

    def rows(self, columns: int) -> dict[str, list[str]]:
        """The rows of its tables that have so many columns, by their first cell."""
        return {cells[0]: cells for cells in tables(ROOT / "docs" / "ipc.md", columns)}

    def test_commands(self) -> None:
        rows = {name.strip("`"): cells for name, cells in self.rows(3).items() if "`" in name}
        told = {name: set(re.findall(r"`(\w+)`", cells[1])) for name, cells in rows.items()}
        kinds = {kind.__struct_config__.tag: kind for kind in protocol.Request.__args__}
        true = {tag: set(kind.__struct_encode_fields__) - {"id"} for tag, kind in kinds.items()}
        events = {"hello", "status", "log", "quitting", "error"}
        self.assertEqual({name: told[name] for name in told if name not in events}, true)
        self.assertLessEqual(events, set(told))

    def test_status(self) -> None:
        told = [name for cell in self.rows(2) for name in re.findall(r"`(\w+)`", cell)]
        self.assertEqual(told, list(messages.Status.__struct_encode_fields__))
        for kind in (messages.OllamaStatus, messages.DesktopStatus, messages.Traffic):
            for name in kind.__struct_encode_fields__:
                self.assertIn(f"`{name}`", self.TEXT)

    def test_numbers(self) -> None:
        limits = IpcLimits()
        for said in (
            f"A line may have {protocol.MAX_LINE // 2**20} MiB, "
            f"{protocol.MAX_UNAUTHENTICATED_LINE // 1024} KiB",
            f"within {limits.read_timeout:g} seconds",
            f"{limits.max_connections} programs",
            f"{limits.max_unauthenticated} more",
            f"{limits.max_concurrent_commands} commands",
        ):
            self.assertIn(said, " ".join(self.TEXT.split()))

    def test_a_proof(self) -> None:
        """Made as the page says."""
        words = re.findall(r"`(ctllm-ipc-\w+)`", self.TEXT)
        for who, word in zip(("client", "daemon"), words, strict=True):
            by_hand = hmac.new(bytes(32), f"{word} challenge nonce".encode(), "sha256").hexdigest()
            self.assertEqual(protocol.compute_proof("00" * 32, who, "challenge", "nonce"), by_hand)  # type: ignore


class NamesTests(TestCase):
    def test_options(self) -> None:
        """Every option that the documents name exists."""
        known = OTHERS | {name.rstrip("=") for name in ServerOptions().longOpt}
        known |= {key.option for key in KEYS.values()}
        for _, _, level, _ in tap_options.Options.subCommands:
            known |= {row[0] for row in level.rows()}
        known |= set(command_options(cli.build_parser()))
        for parser in ("tests/fake_ollama/__main__.py", "tray/ctllm_tray/main.py"):
            known |= set(re.findall(r'"--([a-z-]+)"', (ROOT / parser).read_text()))
        for page in TEXTS:
            named = set(re.findall(r"(?<![\w-])--([a-z][a-z-]*)", code(page)))
            self.assertEqual(named - known, set(), page.name)

    def test_keys(self) -> None:
        """Every key of the configuration that the documents name exists, in that section."""
        known = {*KEYS, *get_args(AuditEvent)}
        named = 0
        for page in PAGES:
            for name in re.findall(r"`((?:cloud|desktop|proxy)\.[a-z_]+)`", page.read_text()):
                self.assertIn(name, known, page.name)
                named += 1
        self.assertGreater(named, 10)

    def test_commands(self) -> None:
        """Every command and place that the documents name exists."""
        known = set(cli.build_parser().commands)
        known |= {name for name, *_ in tap_options.Options.subCommands}
        for page in TEXTS:
            named = re.findall(r"(?<![\w./-])ctllm(?: --\w+[ =]\S+)* ([a-z]+)\b", code(page))
            self.assertEqual(set(named) - known, set(), page.name)

    def test_targets(self) -> None:
        """Every `make` target that the documents name exists."""
        targets = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.M))
        for page in PAGES:
            named = set(re.findall(r"\bmake ([a-z0-9]+)", code(page)))
            self.assertEqual(named - targets, set(), page.name)

    def test_metrics(self) -> None:
        """The documents name the metrics that there are, all of them."""
        text = Metrics().render_text()[1].decode()
        true = {n for n in re.findall(r"^# TYPE (\w+)", text, re.M) if not n.endswith("_created")}
        page = (ROOT / "docs" / "operations.md").read_text()
        self.assertEqual(set(re.findall(r"^\| `(ctllm_\w+)", page, re.M)), true)

    def test_environment(self) -> None:
        """No page names a folder of the machine that it was written on."""
        for page in TEXTS:
            self.assertNotRegex(page.read_text(), r"/root/|/home/[a-z]")


class LinkTests(TestCase):
    def test_relative_links_resolve(self) -> None:
        """Every link within the repository leads to a file and, with #, to a heading of it."""
        for page in PAGES:
            for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
                path, _, heading = target.partition("#")
                file = (page.parent / path) if path else page
                self.assertTrue(file.exists(), f"{page.name}: {target}")
                if heading:
                    self.assertIn(heading, anchors(file), f"{page.name}: {target}")


def anchors(page: Path) -> set[str]:
    """The names by which headings of a page are linked to."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {
        re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


class Numbers(TestCase):
    """Values that the documents give beside a key are its defaults."""

    UNITS = {"s": 1, "seconds": 1, "minutes": 60, "days": 86400}
    KEY = r"`((?:cloud|proxy|desktop)\.\w+)`"

    def default(self, key: str) -> object:
        section, _, name = key.partition(".")
        (found,) = (k.default for k in KEYS.values() if (k.section, k.name) == (section, name))
        return found

    def test_in_parentheses(self) -> None:
        """As in: within `cloud.x_seconds` (20)."""
        found = [
            each
            for page in PAGES
            for each in re.findall(rf"{self.KEY} \((\d+)\)", page.read_text())
        ]
        self.assertGreater(len(found), 2)
        for key, value in found:
            self.assertEqual(str(self.default(key)), value, key)

    def test_with_their_unit(self) -> None:
        """As in: every 5 s (`desktop.x_seconds`)."""
        pattern = rf"(\d+) (s|seconds|minutes|days)\b[^.;|`()]{{0,30}}\({self.KEY}\)"
        found = [each for page in PAGES for each in re.findall(pattern, page.read_text())]
        self.assertGreater(len(found), 4)
        for value, unit, key in found:
            own = key.rpartition("_")[2]
            default = float(str(self.default(key))) * self.UNITS[own]
            self.assertEqual(default, int(value) * self.UNITS[unit], key)
