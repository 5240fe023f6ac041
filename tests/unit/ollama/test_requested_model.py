"""The model's name in bodies that are compressed, and in forms."""

from __future__ import annotations

import json
import tracemalloc
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase as TestCase

from ctllm.common.memory_budget import BufferBudget
from ctllm.http.message.content_coding import MAX_DECODED, load_zstd
from ctllm.http.message.form_field_scanner import MAX_VALUE
from ctllm.http.message.head import RequestHead
from ctllm.ollama.requested_model import ModelSniffer, create_model_sniffer

zstd = load_zstd()
ZSTD = (b"Content-Encoding", b"zstd")
BOUNDARY = b"----WebKitFormBoundary7MA4YWxkTrZu0gW"
CHAT = {"messages": [{"role": "user", "content": "lorem ipsum " * 50}], "model": "m:1"}


def finder(
    target: bytes = b"/v1/responses",
    *headers: tuple[bytes, bytes],
    room: BufferBudget | None = None,
) -> ModelSniffer:
    found = create_model_sniffer(
        RequestHead(b"POST", target, headers), room or BufferBudget(1 << 30)
    )
    assert found is not None
    return found


def fed(finder: ModelSniffer, body: bytes, *at: int) -> ModelSniffer:
    edges = [0, *sorted({edge for edge in at if edge < len(body)}), len(body)]
    for start, end in pairwise(edges):
        finder.feed(body[start:end])
    return finder


class ZstdTests(TestCase):
    """Bodies compressed with zstd."""

    @given(st.lists(st.integers(0, 200), max_size=8), st.sampled_from([-5, 1, 3, 19]))
    def test_finds_the_name_however_the_body_is_cut(self, cuts: list[int], level: int) -> None:
        """The name, and whether anything more would change it."""
        body = zstd.compress(json.dumps(CHAT).encode(), level)
        found = fed(finder(b"/v1/chat/completions", ZSTD), body, *cuts)
        self.assertEqual((found.name, found.is_settled), ("m:1", True))

    def test_finds_the_name_byte_by_byte(self) -> None:
        first, rest = b'{"messages": [], "mod', b'el": "m:1"}'
        skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
        body = skippable + zstd.compress(first) + skippable + zstd.compress(rest)
        found = fed(finder(b"/v1/responses", ZSTD), body, *range(len(body)))
        self.assertEqual((found.name, found.is_settled), ("m:1", True))

    def test_an_escape_may_be_cut_where_a_read_decodes_to_nothing(self) -> None:
        """The quote after the backslash ends no string."""
        compressor = zstd.ZstdCompressor()
        first = compressor.compress(b'{"x": "\\', compressor.FLUSH_BLOCK)
        rest = compressor.compress(b'" ", "model": "m:1"}', compressor.FLUSH_FRAME)
        found = fed(finder(b"/v1/responses", ZSTD), first + rest, len(first), len(first) + 2)
        self.assertEqual((found.name, found.is_settled), ("m:1", True))

    def test_reads_uncompressed_json(self) -> None:
        body = json.dumps(CHAT).encode()
        self.assertEqual(fed(finder(b"/v1/responses", ZSTD), body, 1, 7).name, "m:1")
        noise = fed(finder(b"/v1/responses", ZSTD), zstd.compress(body)[:6] + b"\xff" * 100)
        self.assertEqual((noise.name, noise.is_settled), (None, True))
        self.assertIsNone(fed(finder(b"/v1/responses"), zstd.compress(body)).name)

    def test_ignores_other_content_codings(self) -> None:
        found = finder(b"/v1/responses", (b"Content-Encoding", b"gzip"))
        self.assertEqual((fed(found, b"\x1f\x8b\x08").name, found.is_settled), (None, True))

    def test_stops_at_a_decompression_bomb(self) -> None:
        compressor = zstd.ZstdCompressor()
        pieces = [compressor.compress(b'{"messages": "')]
        pieces += [compressor.compress(b"a" * (1 << 20)) for _ in range(256)]
        pieces += [compressor.compress(b'", "model": "m"}'), compressor.flush()]
        body = b"".join(pieces)
        self.assertLess(len(body), 64 * 1024)
        tracemalloc.start()
        found = fed(finder(b"/v1/responses", ZSTD), body)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        self.assertEqual((found.name, found.is_settled), (None, True))
        self.assertLess(peak, 1 << 20)

    def test_decodes_up_to_the_limit(self) -> None:
        for length, name in ((MAX_DECODED - 100, "m"), (MAX_DECODED, None)):
            text = json.dumps({"x": "y" * length, "model": "m"}).encode()
            found = fed(finder(b"/v1/responses", ZSTD), zstd.compress(text))
            self.assertEqual((found.name, found.is_settled), (name, True))

    def test_limits_the_window_of_a_frame(self) -> None:
        option = zstd.CompressionParameter.window_log
        for log, name in ((23, "m:1"), (24, None)):
            compressor = zstd.ZstdCompressor(options={option: log})
            body = compressor.compress(json.dumps(CHAT).encode()) + compressor.flush()
            found = fed(finder(b"/v1/responses", ZSTD), body)
            self.assertEqual((found.name, found.is_settled), (name, True), log)

    def test_limits_the_number_of_frames(self) -> None:
        body = zstd.compress(b"{") + zstd.compress(b" ") * 100 + zstd.compress(b'"model": "m"}')
        found = fed(finder(b"/v1/responses", ZSTD), body)
        self.assertEqual((found.name, found.is_settled), (None, True))

    def test_decoder_counts_in_the_budget(self) -> None:
        room = BufferBudget(1 << 20)
        half = zstd.compress(json.dumps(CHAT).encode())[:20]
        found = fed(finder(b"/v1/responses", ZSTD, room=room), half)
        self.assertGreater(room.reserved, 8 << 20)
        self.assertFalse(found.is_settled)
        other = fed(finder(b"/v1/responses", ZSTD, room=room), half)
        self.assertTrue(other.is_settled)  # there is no room for it
        found.close()
        self.assertEqual((room.reserved, found.is_settled), (0, True))
        whole = fed(finder(b"/v1/responses", ZSTD, room=room), zstd.compress(b'{"model":"m"}'))
        self.assertEqual((room.reserved, whole.name), (0, "m"))


def form(*parts: tuple[bytes, bytes], end: bytes = b"--\r\n") -> bytes:
    """A form of parts: what their Content-Disposition says after form-data, and their content."""
    said = [
        b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (BOUNDARY, *part)
        for part in parts
    ]
    return b"".join(said) + b"--" + BOUNDARY + end


FILE = (b'name="file"; filename="a.wav"', b"RIFF\r\n--" + bytes(range(256)) * 64)
MODEL = (b'name="model"', b"whisper:1")


class FormTests(TestCase):
    """Bodies that are forms."""

    def form_finder(self, target: bytes = b"/v1/audio/transcriptions") -> ModelSniffer:
        kind = b'multipart/form-data; boundary="%b"' % BOUNDARY
        return finder(target, (b"Content-Type", kind))

    @given(st.lists(st.integers(0, 20_000), max_size=8), st.booleans())
    def test_finds_the_name_however_the_body_is_cut(self, cuts: list[int], first: bool) -> None:
        """Before the file or after it."""
        body = form(MODEL, FILE) if first else form(FILE, MODEL)
        for target in (b"/v1/audio/transcriptions", b"/v1/images/edits"):
            found = fed(self.form_finder(target), body, *cuts)
            self.assertEqual((found.name, found.is_settled), ("whisper:1", True))

    def test_settles_at_the_end_of_the_field(self) -> None:
        found = fed(self.form_finder(), form(MODEL, end=b""))
        self.assertEqual((found.name, found.is_settled), (None, False))
        found.feed(b"\r\n")
        self.assertEqual((found.name, found.is_settled), ("whisper:1", True))

    def test_first_value_of_the_field_wins(self) -> None:
        file = (b'name="model"; filename="x"', b"file")
        body = form(file, (b'name="Model"', b"no"), MODEL, (b'name="model"', b"late"))
        self.assertEqual(fed(self.form_finder(), body).name, "whisper:1")

    def test_query_has_precedence(self) -> None:
        found = fed(self.form_finder(b"/v1/audio/transcriptions?model=a%3A1&model=b"), form(MODEL))
        self.assertEqual((found.name, found.is_settled), ("a:1", True))

    def test_invalid_form_names_no_model(self) -> None:
        for body in (
            b"--" + BOUNDARY + b"xy",
            b"x--" + BOUNDARY + b"\r\n",
            form((b'name="model"', b"m" * (MAX_VALUE + 1))),
            form((b'name="model"', b"")),
            form(*[(b'name="x"', b"")] * 2000, MODEL),
            b"--" + BOUNDARY + b"\r\nX: " + b"y" * 100_000,
        ):
            found = fed(self.form_finder(), body)
            self.assertEqual((found.name, found.is_settled), (None, True), body[:80])
        other = form(MODEL).replace(b'"model"', b'"other"')
        self.assertIsNone(fed(self.form_finder(), other).name)

    def test_reads_json_where_forms_are_accepted(self) -> None:
        json_type = (b"Content-Type", b"application/json")
        found = fed(finder(b"/v1/images/edits", json_type), b'{"prompt": "", "model": "m"}')
        self.assertEqual(found.name, "m")
        odd = (b"Content-Type", b"multipart/form-data")
        self.assertIsNone(fed(finder(b"/v1/images/edits", odd), form(MODEL)).name)

    def test_reads_forms_only_where_ollama_does(self) -> None:
        kind = (b"Content-Type", b"multipart/form-data; boundary=x")
        self.assertEqual(fed(finder(b"/api/chat", kind), b'{"model": "m"}').name, "m")

    def test_stores_no_large_file(self) -> None:
        found = self.form_finder()
        found.feed(form(FILE, end=b"")[:-100])
        tracemalloc.start()
        for _ in range(64):
            found.feed(b"\r\n-" * 20_000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        self.assertLess(peak, 1 << 20)


class NoModelTests(TestCase):
    """Requests that name no model."""

    def test_creates_no_sniffer(self) -> None:
        head = RequestHead(b"POST", b"/api/pull", (ZSTD,))
        self.assertIsNone(create_model_sniffer(head, BufferBudget(1)))
