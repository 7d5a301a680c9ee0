"""What is taken for granted of a night: told before seen, seen before supposed."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.conditions import Assumption, Conditions, Origin, Wishes, expected
from batchgen.errors import InputError
from batchgen.ledger import Attempted
from batchgen.records import ErrorClass, Expect
from batchgen.simulator import Faults, Latency, Settings

FLASH, PRO = "gemini-3.1-flash-image-preview", "gemini-3-pro-image-preview"


def answer(kind: str | None = None, **values: Any) -> Attempted:
    told = {
        "model": FLASH,
        "expect": Expect.IMAGE,
        "http_status": 200,
        "started_at": 0,
        "latency": 8.0,
        "text_tokens": 300,
        "image_tokens": 1120,
    }
    return Attempted(error_class=kind, **{**told, **values})


def conditions(
    history: list[Attempted], wishes: Wishes | None = None, settings: Settings | None = None
) -> Conditions:
    return expected(wishes or Wishes(), history, [FLASH, PRO], settings=settings, timeout=300.0)


def known(found: Conditions) -> dict[tuple[str, str | None], Assumption]:
    return {(one.name, one.model): one for one in found.assumptions}


def test_latencies_are_those_of_each_model() -> None:
    dice = random.Random(1)
    fast = [answer(latency=dice.lognormvariate(math.log(6), 0.5)) for _ in range(400)]
    slow = [answer(model=PRO, latency=40.0) for _ in range(30)]
    found = conditions(fast + slow).settings.latencies
    assert found[FLASH].median == pytest.approx(6, rel=0.1)
    assert found[FLASH].spread == pytest.approx(0.5, rel=0.15)
    assert (found[PRO].median, found[PRO].spread) == (40.0, 0.0)


def test_a_few_answers_tell_no_spread_and_fewer_nothing() -> None:
    found = conditions([answer(latency=9.0)] * 6 + [answer(model=PRO)] * 4)
    assert found.settings.latencies == {FLASH: Latency(median=9.0), PRO: Latency(median=25.0)}
    assert known(found)["latency", FLASH].origin is Origin.HISTORY
    assert known(found)["latency", PRO].origin is Origin.USUAL
    assert found.settings.faults == Faults()


def test_failures_say_nothing_of_how_long_an_answer_takes() -> None:
    found = conditions([answer()] * 10 + [answer(ErrorClass.TRANSIENT, latency=0.1)] * 20)
    assert found.settings.latencies[FLASH].median == 8.0


@pytest.mark.parametrize(
    ("kind", "values", "fault"),
    [
        (ErrorClass.TRANSIENT, {"http_status": 503}, "overloaded"),
        (ErrorClass.TRANSIENT, {"http_status": 500}, "server_error"),
        (ErrorClass.UNREACHABLE, {"http_status": None}, "reset_before"),
        (ErrorClass.UNCERTAIN, {"latency": 20.0}, "reset_after"),
        (ErrorClass.UNCERTAIN, {"latency": 300.1}, "hang"),
        (ErrorClass.NO_CHANNEL, {}, "no_channel"),
        (ErrorClass.BAD_ANSWER, {}, "bad_json"),
        (ErrorClass.CORRUPT, {}, "corrupt"),
        (ErrorClass.DOWNLOAD, {}, "lost_link"),
        (ErrorClass.BLOCKED, {}, "refusal"),
        (ErrorClass.NO_IMAGE, {}, "no_image"),
        (ErrorClass.RATE, {}, "rate_limited"),
    ],
)
def test_each_failure_is_the_fault_of_the_same_meaning(
    kind: ErrorClass, values: dict[str, Any], fault: str
) -> None:
    found = conditions([answer(kind, **values)] * 4 + [answer()] * 76)
    assert found.settings.faults == Faults(**{fault: 0.05})
    assert known(found)[fault, None] == Assumption(name=fault, value=0.05, origin=Origin.HISTORY)


@pytest.mark.parametrize("kind", [ErrorClass.AUTH, ErrorClass.BAD_REQUEST, ErrorClass.DAILY_QUOTA])
def test_what_is_no_chance_is_no_fault(kind: ErrorClass) -> None:
    assert conditions([answer(kind)] * 4 + [answer()] * 96).settings.faults == Faults()


def quota_met(rpm: int, minutes: int) -> list[Attempted]:
    """A bucket of so many a minute that is asked twice as often."""
    each = 60_000_000 // (2 * rpm)
    kinds = (None, ErrorClass.RATE)
    return [answer(kinds[at % 2], started_at=at * each) for at in range(2 * rpm * minutes)]


@pytest.mark.parametrize("rpm", [10, 60, 300])
def test_a_quota_that_was_met_is_known_by_what_it_let_in(rpm: int) -> None:
    found = conditions(quota_met(rpm, 3))
    assert found.settings.rpm == pytest.approx(rpm, rel=0.05, abs=1)
    assert found.settings.faults.rate_limited == 0
    assert known(found)["quota", None].origin is Origin.HISTORY


def test_what_is_told_goes_before_what_was_seen() -> None:
    wishes = Wishes(quota=42.0, latency=3.0, faults={"overloaded": 0.0, "corrupt": 0.5})
    seen = quota_met(60, 3) + [answer(ErrorClass.TRANSIENT, http_status=503)] * 40
    found = conditions(seen, wishes)
    assert found.settings.rpm == 42.0
    assert {one.median for one in found.settings.latencies.values()} == {3.0}
    assert found.settings.faults == Faults(corrupt=0.5)
    assert known(found)["overloaded", None] == Assumption(name="overloaded", value=0.0, origin=Origin.GIVEN)


def test_the_jobs_own_simulator_needs_no_history() -> None:
    own = Settings(rpm=7.0, latency=0.5, faults=Faults(corrupt=0.25), seed=9)
    found = conditions([answer(ErrorClass.NO_IMAGE)] * 100, settings=own)
    assert (found.settings.rpm, found.settings.seed) == (7.0, 9)
    assert found.settings.faults == own.faults
    assert known(found)["latency", FLASH] == Assumption(
        name="latency", value=6.0, origin=Origin.JOB, model=FLASH
    )
    assert found.settings.latency == 0.5


def test_tokens_are_drawn_from_answers_of_the_same_kind() -> None:
    words = [answer(expect=Expect.TEXT, image_tokens=0, text_tokens=90)] * 25
    found = conditions([answer(text_tokens=at) for at in range(30)] + words + [answer(model=PRO)] * 3)
    assert set(found.tokens) == {(FLASH, Expect.IMAGE), (FLASH, Expect.TEXT)}
    assert found.tokens[FLASH, Expect.TEXT] == ((90, 0),) * 25
    assert found.tokens[FLASH, Expect.IMAGE] == tuple((at, 1120) for at in range(30))


def test_faults_of_more_than_all_requests_are_refused() -> None:
    with pytest.raises(InputError, match="add up to"):
        conditions([answer(ErrorClass.NO_IMAGE)] * 100, Wishes(faults={"corrupt": 0.5}))


@given(
    st.lists(
        st.builds(
            answer,
            st.none() | st.sampled_from([*ErrorClass]),
            model=st.sampled_from([FLASH, PRO, "another"]),
            started_at=st.integers(-(2**62), 2**62),
            latency=st.floats(0, 1e6),
            http_status=st.none() | st.integers(100, 599),
        ),
        max_size=120,
    )
)
def test_any_history_makes_an_endpoint(history: list[Attempted]) -> None:
    found = conditions(history)
    assert found.settings.rpm is None or found.settings.rpm > 0
    assert {FLASH, PRO} == set(found.settings.latencies)
    assert found == conditions(history)
