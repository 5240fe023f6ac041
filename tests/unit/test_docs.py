"""The documents agree with the code: the bytes of the tunnel, options, keys, metrics and links."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from twisted.scripts.twistd import ServerOptions  # type: ignore[attr-defined]
from twisted.trial.unittest import SynchronousTestCase as TestCase

from ctllm import cli, errors, tap_options
from ctllm.cli.parser import Parser
from ctllm.cloud.audit import PROXY_EVENTS
from ctllm.cloud.metrics import Metrics
from ctllm.config import KEYS, TABLES
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
    *sorted((ROOT / "docs").rglob("*.md")),
]
TEXTS = [*PAGES, *UNITS]

STREAM_ID = bytes.fromhex("8f3a61c0d27b4e95a1046b8cf0e7d213")
RESPONSE_BODY = b'{"version":"0.12.6"}'

#: Options of other programs that the documents name.
FOREIGN_OPTIONS = {
    "advertise-addr",  # of docker swarm
    "dispatcher-heartbeat",
    "label-add",
    "input-type",  # of Node
    "draft",
    "entrypoint",
    "filter",
    "force",
    "help",
    "home-dir",
    "ignore-missing",
    "include-deps",
    "no-install-recommends",
    "no-deps",
    "now",
    "rm",
    "shell",
    "system",
    "system-site-packages",
    "user",
    "version",
    "with-executables-from",
    "write",
}


def blocks(language: str) -> dict[str, str]:
    """Return the fenced blocks of docs/tunnel.md in a language, by the name after it."""
    found = re.findall(rf"^```{language} (\S+)\n(.*?)^```$", TUNNEL.read_text(), re.M | re.S)
    return dict(found)


def tables(page: Path, columns: int) -> Iterator[list[str]]:
    """Yield the rows, headers included, of the tables of a page with that many columns."""
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == columns:
            yield cells


def code(page: Path) -> str:
    """Return the code of a page, in spans and blocks, or the whole of any other file."""
    text = page.read_text()
    if page.suffix != ".md":
        return text
    fenced = re.findall(r"^```.*?^```$|^ {4}[^\n]*$", text, re.M | re.S)
    spans = re.findall(r"`[^`\n]+`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    return "\n".join([*fenced, *spans])


def accepts_payload(kind: int, size: int) -> bool:
    """Return whether a receiver accepts a frame whose payload has `size` bytes."""
    try:
        list(frames.split_frames(frames.encode_frame(FrameKind(kind), STREAM_ID, bytes(size))))
    except errors.ProtocolViolation:
        return False
    return True


class TunnelPageTests(TestCase):
    def test_the_table_has_every_kind_of_frame_with_its_number_and_largest_payload(self) -> None:
        documented = {
            int(number): (re.sub(r"\[(\w+)\].*", r"\1", name), int(largest))
            for number, name, _, _, largest in tables(TUNNEL, 5)
            if number.isdigit()
        }
        names = {number: name for number, (name, _) in documented.items()}
        self.assertEqual(names, {int(kind): kind.name for kind in FrameKind})
        for number, (name, largest) in documented.items():
            sizes = (largest, largest + 1)
            self.assertEqual([accepts_payload(number, n) for n in sizes], [True, False], name)

    def test_error_codes_have_their_statuses(self) -> None:
        statuses = {
            kind.code: kind.status for kind in vars(errors).values() if isinstance(kind, type)
            and issubclass(kind, errors.CtllmError)
        }  # fmt: skip
        documented = {
            found[1]: int(status)
            for name, status, _ in tables(TUNNEL, 3)
            if (found := re.fullmatch(r"`(\w+)`", name)) and status.isdigit()
        }
        self.assertGreater(len(documented), 8)
        self.assertEqual(documented, {name: statuses[name] for name in documented})

    def test_numbers_in_the_text_are_those_of_the_code(self) -> None:
        text = TUNNEL.read_text()
        for phrase in (
            frames.SUBPROTOCOL,
            f"{frames.MAX_MESSAGE:,} bytes",
            f"1 to {frames.MAX_DATA:,} bytes",
            f"{KEYS['proxy.stream_window_bytes'].default} unless configured",
            f"the last {MAX_CLOSED_IDS})",
        ):
            self.assertIn(phrase, text)

    def test_both_ends_send_the_bytes_of_the_example(self) -> None:
        documented = {name: bytes.fromhex(text) for name, text in blocks("hex").items()}
        sent: dict[str, bytes] = {}
        desktop = Desktop("00112233445566778899aabbccddeeff", "attic")
        initiator = Initiator(262144, 30, 8)
        streams: list[ResponderStream] = []

        def accept(head: RequestHead, stream: ResponderStream) -> RequestSink:
            streams.append(stream)
            return mock.create_autospec(RequestSink, instance=True)

        responder = Responder(
            262144, 30, 8, request_handler=accept, resume_buffer_bytes=0, desktop=desktop
        )

        def send(name: str) -> None:
            sender, receiver = (
                (responder, initiator) if name.startswith("desktop") else (initiator, responder)
            )
            sent[name] = sender.next_message()
            receiver.receive_message(sent[name])

        responder.send_status(Status("up", "0.12.6", ("llama3.2:latest",)))
        responder.connection_made()
        for name in ("desktop-1", "proxy-1", "desktop-2"):
            send(name)
        client = FakeResponseSink()
        with mock.patch("ctllm.tunnel.initiator.secrets.token_bytes", return_value=STREAM_ID):
            request = RequestHead(b"GET", b"/api/version", ((b"Accept", b"*/*"),))
            initiator.start_request(request, client).finish()
        for name in ("proxy-2", "desktop-3"):
            send(name)
        streams[0].write_head(ResponseHead(200, b"OK", ((b"Content-Length", b"20"),)))
        streams[0].write(RESPONSE_BODY)
        streams[0].finish()
        for name in ("desktop-4", "proxy-3"):
            send(name)
        self.assertEqual((bytes(client.body), client.outcome), (RESPONSE_BODY, "end"))
        self.assertEqual((initiator.streams, responder.streams), ({}, {}))
        self.assertEqual({name: documented[name].hex() for name in sent}, hexed(sent))

    def test_frames_that_the_example_does_not_use_are_encoded_as_shown(self) -> None:
        documented = {name: bytes.fromhex(text) for name, text in blocks("hex").items()}
        replaced = Reason("replaced", "A newer connection of this desktop replaces this one.")
        expected = {
            "attach": frames.encode_offset_frame(FrameKind.ATTACH, STREAM_ID, 12),
            "reset": frames.encode_json_frame(
                FrameKind.RESET, STREAM_ID, Reason("cancelled", "The client disconnected.")
            ),
            "bye": frames.encode_json_frame(FrameKind.BYE, CONNECTION_ID, replaced),
        }
        self.assertEqual({name: documented[name].hex() for name in expected}, hexed(expected))

    def test_json_payloads_in_the_text_are_in_the_bytes(self) -> None:
        payloads = b"".join(bytes.fromhex(text) for text in blocks("hex").values())
        shown = re.findall(r'`(\{"\w+":["\d[{].*?\})`', TUNNEL.read_text())
        self.assertGreater(len(shown), 6)
        for text in shown:
            self.assertIn(text.encode(), payloads)


def hexed(messages: dict[str, bytes]) -> dict[str, str]:
    """Return the bytes in hexadecimal, in which differences are readable."""
    return {name: data.hex() for name, data in messages.items()}


def command_options(parser: Parser) -> Iterator[str]:
    """Yield every option of a command and of its subcommands."""
    yield from re.findall(r"--([a-z-]+)", parser.format_help())
    for command in parser.commands.values():
        yield from command_options(command)


class IpcPageTests(TestCase):
    """The page of the IPC agrees with the code."""

    TEXT = (ROOT / "docs" / "ipc.md").read_text()

    def rows(self, columns: int) -> dict[str, list[str]]:
        """Return the rows of its tables with that many columns, by their first cell."""
        return {cells[0]: cells for cells in tables(ROOT / "docs" / "ipc.md", columns)}

    def test_the_table_has_every_command_with_its_fields(self) -> None:
        rows = {name.strip("`"): cells for name, cells in self.rows(3).items() if "`" in name}
        documented = {name: set(re.findall(r"`(\w+)`", cells[1])) for name, cells in rows.items()}
        kinds = {kind.__struct_config__.tag: kind for kind in protocol.Request.__args__}
        expected = {tag: set(kind.__struct_encode_fields__) - {"id"} for tag, kind in kinds.items()}
        events = {"hello", "status", "login", "log", "quitting", "error"}
        self.assertEqual(
            {name: documented[name] for name in documented if name not in events}, expected
        )
        self.assertLessEqual(events, set(documented))

    def test_the_table_has_every_field_of_the_status(self) -> None:
        documented = [name for cell in self.rows(2) for name in re.findall(r"`(\w+)`", cell)]
        self.assertEqual(documented, list(messages.Status.__struct_encode_fields__))
        for kind in (messages.OllamaStatus, messages.DesktopStatus, messages.Traffic):
            for name in kind.__struct_encode_fields__:
                self.assertIn(f"`{name}`", self.TEXT)

    def test_numbers_in_the_text_are_those_of_the_code(self) -> None:
        limits = IpcLimits()
        for phrase in (
            f"A line may have {protocol.MAX_LINE // 2**20} MiB, "
            f"{protocol.MAX_UNAUTHENTICATED_LINE // 1024} KiB",
            f"within {limits.read_timeout:g} seconds",
            f"{limits.max_connections} programs",
            f"{limits.max_unauthenticated} more",
            f"{limits.max_concurrent_commands} commands",
        ):
            self.assertIn(phrase, " ".join(self.TEXT.split()))

    def test_a_proof_computed_as_described_is_valid(self) -> None:
        words = re.findall(r"`(ctllm-ipc-\w+)`", self.TEXT)
        for who, word in zip(("client", "daemon"), words, strict=True):
            by_hand = hmac.new(bytes(32), f"{word} challenge nonce".encode(), "sha256").hexdigest()
            self.assertEqual(protocol.compute_proof("00" * 32, who, "challenge", "nonce"), by_hand)  # type: ignore


class NameTests(TestCase):
    def test_every_named_option_exists(self) -> None:
        known = FOREIGN_OPTIONS | {name.rstrip("=") for name in ServerOptions().longOpt}
        known |= {key.option for key in KEYS.values()}
        for _, _, level, _ in tap_options.Options.subCommands:
            known |= {row[0] for row in level.rows()}
        known |= set(command_options(cli.build_parser()))
        for parser in ("tests/fake_ollama/__main__.py", "tray/ctllm_tray/main.py"):
            known |= set(re.findall(r'"--([a-z-]+)"', (ROOT / parser).read_text()))
        for page in TEXTS:
            named = set(re.findall(r"(?<![\w-])--([a-z][a-z-]*)", code(page)))
            self.assertEqual(named - known, set(), page.name)

    def test_every_named_configuration_key_exists(self) -> None:
        known = {*KEYS, *TABLES, *PROXY_EVENTS}
        named = 0
        for page in PAGES:
            for name in re.findall(r"`((?:cloud|desktop|proxy)\.[a-z_]+)`", page.read_text()):
                self.assertIn(name, known, page.name)
                named += 1
        self.assertGreater(named, 10)

    def test_every_named_command_and_role_exists(self) -> None:
        known = set(cli.build_parser().commands)
        known |= {name for name, *_ in tap_options.Options.subCommands}
        for page in TEXTS:
            named = re.findall(r"(?<![\w./-])ctllm(?: --\w+[ =]\S+)* ([a-z]+)\b", code(page))
            self.assertEqual(set(named) - known, set(), page.name)

    def test_every_named_make_target_exists(self) -> None:
        targets = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.M))
        for page in PAGES:
            named = set(re.findall(r"\bmake ([a-z0-9]+)", code(page)))
            self.assertEqual(named - targets, set(), page.name)

    def test_the_page_of_operations_names_every_metric_and_no_other(self) -> None:
        text = Metrics().render_text()[1].decode()
        expected = {
            n for n in re.findall(r"^# TYPE (\w+)", text, re.M) if not n.endswith("_created")
        }
        page = (ROOT / "docs" / "operations.md").read_text()
        self.assertEqual(set(re.findall(r"^\| `(ctllm_\w+)", page, re.M)), expected)

    def test_no_page_names_a_home_directory(self) -> None:
        """It would be that of the author."""
        for page in TEXTS:
            self.assertNotRegex(page.read_text(), r"/root/|/home/[a-z]")


class LinkTests(TestCase):
    def test_relative_links_lead_to_a_file_and_a_heading(self) -> None:
        for page in PAGES:
            for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
                path, _, heading = target.partition("#")
                file = (page.parent / path) if path else page
                self.assertTrue(file.exists(), f"{page.name}: {target}")
                if heading:
                    self.assertIn(heading, anchors(file), f"{page.name}: {target}")


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {
        re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


class DefaultValueTests(TestCase):
    """Values that the documents give with a key are its default value."""

    UNITS = {"s": 1, "seconds": 1, "minutes": 60, "days": 86400}
    KEY = r"`((?:cloud|proxy|desktop)\.\w+)`"

    def default(self, key: str) -> object:
        section, _, name = key.partition(".")
        (found,) = (k.default for k in KEYS.values() if (k.section, k.name) == (section, name))
        return found

    def test_a_number_after_a_key_is_its_default(self) -> None:
        """As in: within `cloud.x_seconds` (20)."""
        found = [
            each
            for page in PAGES
            for each in re.findall(rf"{self.KEY} \((\d+)\)", page.read_text())
        ]
        self.assertGreater(len(found), 2)
        for key, value in found:
            self.assertEqual(str(self.default(key)), value, key)

    def test_a_number_with_a_unit_before_a_key_is_its_default(self) -> None:
        """As in: every 5 s (`desktop.x_seconds`)."""
        pattern = rf"(\d+) (s|seconds|minutes|days)\b[^.;|`()]{{0,30}}\({self.KEY}\)"
        found = [each for page in PAGES for each in re.findall(pattern, page.read_text())]
        self.assertGreater(len(found), 4)
        for value, unit, key in found:
            own = key.rpartition("_")[2]
            default = float(str(self.default(key))) * self.UNITS[own]
            self.assertEqual(default, int(value) * self.UNITS[unit], key)
