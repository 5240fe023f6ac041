"""Which of several desktops gets a request."""

from __future__ import annotations

from ctllm.errors import DesktopOffline, Forbidden, NotFound, ServiceUnavailable
from ctllm.http.message.head import RequestHead
from ctllm.proxy.desktop_selection import MODEL_CHANGE_TTL
from ctllm.tunnel.frames import Status
from tests.unit.fakes import FakeDesktop, FakeResponseSink
from tests.unit.proxy.registry_case import CHAT, OK, RegistryCase, request_head

COPY = RequestHead(b"POST", b"/api/copy")


class SelectionWithoutModelTests(RegistryCase):
    """Selection of a desktop for a request without a model."""

    def test_raises_desktop_offline_without_a_desktop(self) -> None:
        error = self.assertRaises(
            DesktopOffline, self.registry.start_request, CHAT, FakeResponseSink()
        )
        self.assertEqual(error.retry_after, 5)
        self.assertEqual(self.registry.stream_count, 0)

    def test_selects_the_only_desktop_whatever_its_status(self) -> None:
        desk = self.desk(ollama="down")
        self.open()
        self.assertEqual(desk.heads, [CHAT])

    def test_prefers_ollama_to_demo_to_none_then_the_newest(self) -> None:
        real, demo, down = self.desk("a", "up"), self.desk("b", "demo"), self.desk("c", "down")
        silent = self.desk("d", "")
        self.open()
        self.assertEqual([len(desk.heads) for desk in self.desks], [1, 0, 0, 0])
        newer = self.desk("e", "up")
        self.open()
        self.assertEqual(len(newer.heads), 1)
        for desk in (newer, real):
            desk.tunnel.send_status(Status("down"))
        self.settle()
        self.open()
        self.assertEqual(len(demo.heads), 1)
        self.assertEqual((down.heads, silent.heads), ([], []))

    def test_selects_by_id_or_name(self) -> None:
        _, other = self.desk("home"), self.desk("Büro", "down")
        self.open(request_head(to=other.id))
        self.open(request_head(to="Büro"))
        latin = RequestHead(b"GET", b"/", ((b"ctllm-desktop", "Büro".encode("latin-1")),))
        self.open(latin)  # as a browser's fetch sends it
        self.assertEqual(len(other.heads), 3)

    def test_a_restricted_client_gets_only_desktops_that_enforce_it(self) -> None:
        """An earlier version would ignore the header, and serve every model."""
        current = self.desk("current", "down")
        earlier = self.desk("earlier", "up", capabilities=("resume",))
        own = ((b"Ctllm-Allowed-Models", b"llama*"),)
        self.open(RequestHead(b"GET", b"/", own))
        self.open(RequestHead(b"GET", b"/", own), "m:1")
        self.assertEqual((len(current.heads), len(earlier.heads)), (2, 0))
        self.assertEqual(self.registry.candidates(RequestHead(b"GET", b"/api/tags", own)), [])
        to_earlier = RequestHead(b"GET", b"/", (*own, (b"Ctllm-Desktop", b"earlier")))
        for head, lost in ((to_earlier, None), (RequestHead(b"GET", b"/", own), current)):
            if lost is not None:
                lost.lose(self.clock.seconds())
            error = self.assertRaises(
                Forbidden, self.registry.start_request, head, FakeResponseSink()
            )
            self.assertIn("Update it", error.message)
        self.open()
        self.assertEqual(len(earlier.heads), 1)

    def test_excludes_the_desktop_of_ctllm_exclude_desktop(self) -> None:
        best, other = self.desk("home"), self.desk("attic", "down")
        own = ((b"ctllm-exclude-desktop", best.id.encode()),)
        self.open(RequestHead(b"GET", b"/", own))
        self.assertEqual((len(best.heads), len(other.heads)), (0, 1))
        other.lose(self.clock.seconds())
        alone = self.assertRaises(
            DesktopOffline,
            self.registry.start_request,
            RequestHead(b"GET", b"/", own),
            FakeResponseSink(),
        )
        self.assertIn("None of your other desktops", alone.message)

    def test_states_the_desktop_in_a_response_header(self) -> None:
        self.desk("Büro 100%")
        asking = self.registry.start_request(CHAT, FakeResponseSink())
        told = dict(self.registry.response_headers(asking))
        self.assertEqual(told[b"Ctllm-Desktop"], b"B%C3%BCro 100%25")
        self.assertEqual(told[b"Ctllm-Request-Id"], asking.id.hex().encode())

    def test_raises_not_found_for_an_unknown_name(self) -> None:
        self.desk("home")
        for wanted in ("work", "", "\x00\xff"):
            self.assertRaises(
                NotFound, self.registry.start_request, request_head(to=wanted), FakeResponseSink()
            )

    def test_does_not_select_a_disconnected_desktop(self) -> None:
        desk = self.desk()
        desk.lose(self.clock.seconds())
        self.assertRaises(DesktopOffline, self.registry.start_request, CHAT, FakeResponseSink())
        self.assertRaises(
            NotFound, self.registry.start_request, request_head(to="home"), FakeResponseSink()
        )

    def test_refuses_a_stream_over_the_limit(self) -> None:
        desk = self.desk()
        for _ in range(4):
            self.open()
        self.assertRaises(ServiceUnavailable, self.registry.start_request, CHAT, FakeResponseSink())
        self.assertEqual(self.registry.stream_count, 4)
        desk.sinks[0].write_head(OK)
        desk.sinks[0].finish()
        self.settle()
        self.open()

    def test_candidates_have_ollama_or_demo_best_first(self) -> None:
        down, demo, real, silent = (self.desk(name, name) for name in ("down", "demo", "up", ""))
        newest = self.desk("newest", "up")
        able = [meeting.identity.id for meeting in self.registry.candidates(CHAT)]
        self.assertEqual(able, [newest.id, real.id, demo.id])
        self.assertEqual(self.registry.candidates(request_head(to=down.id)), [])
        newest.lose(self.clock.seconds())
        silent.tunnel.send_status(Status("up"))
        self.settle()
        able = [meeting.identity.id for meeting in self.registry.candidates(CHAT)]
        self.assertEqual(able, [silent.id, real.id, demo.id])


class SelectionByModelTests(RegistryCase):
    """Selection of a desktop for a request with a model."""

    def where(self, model: str, head: RequestHead = CHAT) -> FakeDesktop:
        """The desktop that gets a request for `model`; its answer is given at once."""
        before = [len(desk.heads) for desk in self.desks]
        self.open(head, model)
        (found,) = (d for d, n in zip(self.desks, before, strict=True) if len(d.heads) > n)
        found.sinks[-1].write_head(OK)
        found.sinks[-1].finish()
        self.settle()
        return found

    def test_selects_the_desktop_with_the_model(self) -> None:
        one, two, demo = (
            self.desk("a", "up", "llama3.2:latest", "both:1"),
            self.desk("b", "up", "hf.co/Me/Own:q4", "both:1"),
            self.desk("c", "demo", "demo:echo", "both:1"),
        )
        for model, desk in (
            ("llama3.2", one),
            ("library/LLAMA3.2:latest", one),
            ("HF.co/me/own:Q4", two),
            ("demo:echo", demo),
            ("both:1", two),
        ):
            self.assertIs(self.where(model), desk, model)

    def test_selects_the_best_desktop_if_none_has_the_model(self) -> None:
        self.desk("a", "up", "x:1")
        best = self.desk("b", "up", "y:1")
        self.desk("c", "demo", "demo:echo")
        for model in ("z:1", "x", "x:1:2", ""):
            self.assertIs(self.where(model), best, model)

    def test_prefers_the_fewest_streams_of_equal_rank(self) -> None:
        older, newer = self.desk("a"), self.desk("b")
        self.desk("c", "demo")
        for _ in range(2):
            self.assertIs(self.where("m:1"), newer)
        self.open(CHAT, "m:1")
        self.assertIs(self.where("m:1"), older)
        self.open(CHAT, "m:1")
        self.assertIs(self.where("m:1"), newer)

    def test_uses_a_new_status_at_once(self) -> None:
        one, two = self.desk("a", "up", "x:1"), self.desk("b", "up", "y:1")
        self.assertIs(self.where("x:1"), one)
        one.tunnel.send_status(Status("up", "0.5.1", ("z:1",)))
        self.settle()
        self.assertIs(self.where("x:1"), two)
        self.assertIs(self.where("z:1"), one)

    def test_ignores_the_models_of_a_disconnected_desktop(self) -> None:
        one, two = self.desk("a", "up", "x:1"), self.desk("b", "up", "y:1")
        one.lose(self.clock.seconds())
        self.assertIs(self.where("x:1"), two)

    def test_tries_a_desktop_whose_models_just_changed(self) -> None:
        one, two = self.desk("a", "up", "x:1"), self.desk("b", "up", "y:1")
        self.assertIs(self.where("new"), two)
        self.assertIs(self.where("x:1", COPY), one)
        self.assertIs(self.where("new"), one)
        self.assertIs(self.where("y:1"), two)
        self.clock.advance(MODEL_CHANGE_TTL + 1)
        self.assertIs(self.where("new"), two)

    def test_named_desktop_gets_the_request_without_the_model(self) -> None:
        one = self.desk("a", "up", "x:1")
        self.desk("b", "up", "y:1")
        self.assertIs(self.where("y:1", request_head(to="a")), one)
