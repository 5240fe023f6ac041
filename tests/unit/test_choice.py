"""Which of several desktops gets a request."""

from __future__ import annotations

from ctllm.errors import DesktopOffline, NotFound, ServiceUnavailable
from ctllm.http.message.head import RequestHead
from ctllm.proxy.desktop_selection import MODEL_CHANGE_TTL
from ctllm.tunnel.frames import Status
from tests.unit.fakes import FakeResponseSink
from tests.unit.test_rendezvous import CHAT, OK, Desk, asking
from tests.unit.test_rendezvous import Case as Case

COPY = RequestHead(b"POST", b"/api/copy")


class WithoutModel(Case):
    """Which desktop gets a request."""

    def test_nobody(self) -> None:
        """An offline user hears so, and when to try again."""
        error = self.assertRaises(DesktopOffline, self.here.start_request, CHAT, FakeResponseSink())
        self.assertEqual(error.retry_after, 5)
        self.assertEqual(self.here.stream_count, 0)

    def test_the_one_there_is(self) -> None:
        """Whatever its Ollama: it says for itself what is wrong."""
        desk = self.desk(ollama="down")
        self.open()
        self.assertEqual(desk.heads, [CHAT])

    def test_real_before_demo_before_none_then_the_newest(self) -> None:
        """However they came; and a change of status counts at once."""
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

    def test_by_id_or_name(self) -> None:
        """Ctllm-Desktop decides, in any case and language, though another would be better."""
        _, other = self.desk("home"), self.desk("Büro", "down")
        self.open(asking(to=other.id))
        self.open(asking(to="Büro"))
        latin = RequestHead(b"GET", b"/", ((b"ctllm-desktop", "Büro".encode("latin-1")),))
        self.open(latin)  # as a browser's fetch sends it
        self.assertEqual(len(other.heads), 3)

    def test_one_that_asks_for_itself(self) -> None:
        """It has looked at home already, however good it is."""
        best, other = self.desk("home"), self.desk("attic", "down")
        own = ((b"ctllm-exclude-desktop", best.id.encode()),)
        self.open(RequestHead(b"GET", b"/", own))
        self.assertEqual((len(best.heads), len(other.heads)), (0, 1))
        other.lose(self.clock.seconds())
        alone = self.assertRaises(
            DesktopOffline,
            self.here.start_request,
            RequestHead(b"GET", b"/", own),
            FakeResponseSink(),
        )
        self.assertIn("None of your other desktops", alone.message)

    def test_who_answers_is_told(self) -> None:
        """By a name that fits into a header."""
        self.desk("Büro 100%")
        asking = self.here.start_request(CHAT, FakeResponseSink())
        told = dict(self.here.response_headers(asking))
        self.assertEqual(told[b"Ctllm-Desktop"], b"B%C3%BCro 100%25")
        self.assertEqual(told[b"Ctllm-Request-Id"], asking.id.hex().encode())

    def test_no_such_desktop(self) -> None:
        """It does not go elsewhere instead."""
        self.desk("home")
        for wanted in ("work", "", "\x00\xff"):
            self.assertRaises(
                NotFound, self.here.start_request, asking(to=wanted), FakeResponseSink()
            )

    def test_one_that_left_gets_nothing(self) -> None:
        """Neither by choice nor by name, though it may come back."""
        desk = self.desk()
        desk.lose(self.clock.seconds())
        self.assertRaises(DesktopOffline, self.here.start_request, CHAT, FakeResponseSink())
        self.assertRaises(NotFound, self.here.start_request, asking(to="home"), FakeResponseSink())

    def test_limit(self) -> None:
        """One exchange too many is refused; when one ends there is room again."""
        desk = self.desk()
        for _ in range(4):
            self.open()
        self.assertRaises(ServiceUnavailable, self.here.start_request, CHAT, FakeResponseSink())
        self.assertEqual(self.here.stream_count, 4)
        desk.callers[0].write_head(OK)
        desk.callers[0].finish()
        self.settle()
        self.open()

    def test_who_is_able(self) -> None:
        """Those whose Ollama or demo is there, the best first; a desktop that is named is alone."""
        down, demo, real, silent = (self.desk(name, name) for name in ("down", "demo", "up", ""))
        newest = self.desk("newest", "up")
        able = [meeting.identity.id for meeting in self.here.candidates(CHAT)]
        self.assertEqual(able, [newest.id, real.id, demo.id])
        self.assertEqual(self.here.candidates(asking(to=down.id)), [])
        newest.lose(self.clock.seconds())
        silent.tunnel.send_status(Status("up"))
        self.settle()
        able = [meeting.identity.id for meeting in self.here.candidates(CHAT)]
        self.assertEqual(able, [silent.id, real.id, demo.id])


class ByModel(Case):
    """A request that names a model goes to a desktop that has it."""

    def where(self, model: str, head: RequestHead = CHAT) -> Desk:
        """The desktop that gets a request for `model`; its answer is given at once."""
        before = [len(desk.heads) for desk in self.desks]
        self.open(head, model)
        (found,) = (d for d, n in zip(self.desks, before, strict=True) if len(d.heads) > n)
        found.callers[-1].write_head(OK)
        found.callers[-1].finish()
        self.settle()
        return found

    def test_the_one_that_has_it(self) -> None:
        """Whatever else is better, and by any of the model's names."""
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

    def test_nobody_has_it(self) -> None:
        """Then the best one, whose Ollama says so in its own words."""
        self.desk("a", "up", "x:1")
        best = self.desk("b", "up", "y:1")
        self.desk("c", "demo", "demo:echo")
        for model in ("z:1", "x", "x:1:2", ""):
            self.assertIs(self.where(model), best, model)

    def test_several_have_it(self) -> None:
        """The one with the fewest exchanges under way, of the same merit; then the newest."""
        older, newer = self.desk("a"), self.desk("b")
        self.desk("c", "demo")
        for _ in range(2):
            self.assertIs(self.where("m:1"), newer)
        self.open(CHAT, "m:1")
        self.assertIs(self.where("m:1"), older)
        self.open(CHAT, "m:1")
        self.assertIs(self.where("m:1"), newer)

    def test_what_a_desktop_tells_counts_at_once(self) -> None:
        """Also that it has a model no more."""
        one, two = self.desk("a", "up", "x:1"), self.desk("b", "up", "y:1")
        self.assertIs(self.where("x:1"), one)
        one.tunnel.send_status(Status("up", "0.5.1", ("z:1",)))
        self.settle()
        self.assertIs(self.where("x:1"), two)
        self.assertIs(self.where("z:1"), one)

    def test_one_that_left(self) -> None:
        """It has nothing for anybody."""
        one, two = self.desk("a", "up", "x:1"), self.desk("b", "up", "y:1")
        one.lose(self.clock.seconds())
        self.assertIs(self.where("x:1"), two)

    def test_a_model_that_was_made_this_moment(self) -> None:
        """Until its desktop can have told, that desktop is asked for what nobody has."""
        one, two = self.desk("a", "up", "x:1"), self.desk("b", "up", "y:1")
        self.assertIs(self.where("new"), two)
        self.assertIs(self.where("x:1", COPY), one)
        self.assertIs(self.where("new"), one)
        self.assertIs(self.where("y:1"), two)
        self.clock.advance(MODEL_CHANGE_TTL + 1)
        self.assertIs(self.where("new"), two)

    def test_a_desktop_that_is_named(self) -> None:
        """It gets the request though it does not have the model."""
        one = self.desk("a", "up", "x:1")
        self.desk("b", "up", "y:1")
        self.assertIs(self.where("y:1", asking(to="a")), one)
