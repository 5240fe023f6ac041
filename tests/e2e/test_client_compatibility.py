"""The clients that are quick to install, asked directly and through ctllm, each by its driver."""

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
#: What gives nothing but text.
TEXT_ONLY = {(c, "POST /api/generate streamed") for c in LIGHT if c.package == "langchain-ollama"}


@pytest.fixture(scope="module", params=LIGHT, ids=TITLES)
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    """A client at work."""
    made = Driver(request.param)
    yield made
    made.close()


@ensureDeferred
async def test_every_call_of_a_client(mirrored: MirroredCluster, driver: Driver) -> None:
    """It gives the same value as directly, and Ollama got the same requests."""
    compared = await compare(mirrored, driver.client, driver)
    assert not [(each.call, each.difference) for each in compared if each.difference]
    assert [each.call for each in compared] == client_calls(driver.client)


@ensureDeferred
async def test_the_end_of_a_stream_is_told(mirrored: MirroredCluster, driver: Driver) -> None:
    """A whole answer says that it is; test_broken_off is about those that are not."""
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
def test_the_page_has_every_call(client: Client) -> None:
    """What a driver calls has a row, and docs/compatibility.md says that it works."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines()]
    head = next(cells for cells in lines if cells[0] == "Call")
    column = head.index(client.title)
    marks = {cells[0].strip("`"): cells[column] for cells in lines if len(cells) == len(head)}
    del marks["Call"], marks["---"]
    assert list(marks) == list(CALLS)
    assert [call for call in CALLS if marks[call] == YES] == sorted(
        client_calls(client), key=CALLS.index
    )


def test_the_tables_tell_what_is_wrong() -> None:
    """One difference marks its row, and a call that was not made is no success."""
    first, second = CLIENTS[:2]
    compared = [Comparison(first, CALLS[0], ""), Comparison(second, CALLS[0], "differs")]
    head, row, *others = client_rows(compared)
    assert row[:4] == [f"`{CALLS[0]}`", YES, NO, NONE]
    assert all(set(each[1:]) == {NONE} for each in others)
    asked = [
        RawComparison("HEAD", "`HEAD /`", 200, ""),
        RawComparison("HEAD", "`HEAD /`", 405, "answer: …"),
    ]
    assert raw_rows(asked)[1:] == [["`HEAD /`", "2", "200, 405", NO]]
    assert len(head) == len(CLIENTS) + 1
