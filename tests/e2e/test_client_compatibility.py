"""Each client that installs quickly makes its calls directly and through ctllm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from tests.compatibility.calls import CALLS
from tests.compatibility.clients import CLIENTS, LIGHT, Client
from tests.compatibility.comparison import TEXT, Comparison, compare
from tests.compatibility.driver import Driver, client_calls
from tests.compatibility.raw_comparison import RawComparison
from tests.compatibility.stream_ends import is_complete, streamed_calls
from tests.compatibility.table import NO, NONE, PAGE, YES, client_rows, raw_rows
from tests.e2e.mirrored_requests import MirroredCluster

TITLES = [client.title for client in LIGHT]
#: Streamed calls whose chunks are only text, without a marker of the end.
TEXT_ONLY = {(c, "POST /api/generate streamed") for c in LIGHT if c.package == "langchain-ollama"}


@pytest.fixture(scope="module", params=LIGHT, ids=TITLES)
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    """The process that drives a client."""
    driver = Driver(request.param)
    yield driver
    driver.close()


@ensureDeferred
async def test_every_call_gives_the_same_value_as_directly(
    mirrored: MirroredCluster, driver: Driver
) -> None:
    """Ollama receives the same requests."""
    compared = await compare(mirrored, driver.client, driver)
    assert not [(each.call, each.difference) for each in compared if each.difference]
    assert [each.call for each in compared] == client_calls(driver.client)


@ensureDeferred
async def test_a_complete_stream_has_its_end_marker(
    mirrored: MirroredCluster, driver: Driver
) -> None:
    """test_interrupted_responses checks that an incomplete stream has none."""
    mirrored.fake_ollama.reset()
    calls = [
        call for call in streamed_calls(driver.client) if (driver.client, call) not in TEXT_ONLY
    ]
    jobs = [{"call": call, "text": TEXT} for call in calls]
    outcomes = await deferToThread(
        driver.run_jobs, mirrored.cluster.url, mirrored.cluster.api_key, jobs
    )
    assert outcomes
    for outcome in outcomes:
        assert is_complete(outcome["value"]), outcome
        assert not is_complete(outcome["value"][:-2]), outcome


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.title)
def test_the_documentation_lists_every_call(client: Client) -> None:
    """docs/compatibility.md has a row for each call of a driver, marked as working."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines()]
    head = next(cells for cells in lines if cells[0] == "Call")
    column = head.index(client.title)
    marks = {cells[0].strip("`"): cells[column] for cells in lines if len(cells) == len(head)}
    del marks["Call"], marks["---"]
    assert list(marks) == list(CALLS)
    assert [call for call in CALLS if marks[call] == YES] == sorted(
        client_calls(client), key=CALLS.index
    )


def test_a_difference_marks_its_row_in_the_tables() -> None:
    """A call that was not made is not marked as working."""
    first, second = CLIENTS[:2]
    compared = [Comparison(first, CALLS[0], ""), Comparison(second, CALLS[0], "differs")]
    head, row, *others = client_rows(compared)
    assert row[:4] == [f"`{CALLS[0]}`", YES, NO, NONE]
    assert all(set(each[1:]) == {NONE} for each in others)
    raw = [
        RawComparison("HEAD", "`HEAD /`", 200, ""),
        RawComparison("HEAD", "`HEAD /`", 405, "response: …"),
    ]
    assert raw_rows(raw)[1:] == [["`HEAD /`", "2", "200, 405", NO]]
    assert len(head) == len(CLIENTS) + 1
