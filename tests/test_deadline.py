"""When a night must be done, how long it takes, and what would make it in time."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.deadline import MOST_HANDS, Bottleneck, Faster, Load, Pace, faster, lasts, parse
from batchgen.errors import InputError

SEOUL, BERLIN = ZoneInfo("Asia/Seoul"), ZoneInfo("Europe/Berlin")
EVENING = datetime(2026, 11, 21, 22, 30, 15, tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("text", "zone", "meant"),
    [
        ("07:00", BERLIN, datetime(2026, 11, 22, 7, tzinfo=BERLIN)),
        ("7:00", BERLIN, datetime(2026, 11, 22, 7, tzinfo=BERLIN)),
        ("23:00", BERLIN, datetime(2026, 11, 21, 23, tzinfo=BERLIN)),
        ("22:30", BERLIN, datetime(2026, 11, 22, 22, 30, tzinfo=BERLIN)),
        ("07:00", SEOUL, datetime(2026, 11, 22, 7, tzinfo=SEOUL)),
        ("2026-11-22T07:00", BERLIN, datetime(2026, 11, 22, 7, tzinfo=BERLIN)),
        ("2026-11-22 07:00", BERLIN, datetime(2026, 11, 22, 7, tzinfo=BERLIN)),
        ("2026-11-22T07:00Z", BERLIN, datetime(2026, 11, 22, 7, tzinfo=UTC)),
        ("2026-11-22T07:00:30+09:00", BERLIN, datetime(2026, 11, 22, 7, 0, 30, tzinfo=SEOUL)),
    ],
)
def test_a_deadline_is_the_next_time_of_day_or_a_moment(text: str, zone: ZoneInfo, meant: datetime) -> None:
    found = parse(text, EVENING, zone)
    assert found == meant
    assert found.tzinfo is not None


def test_a_time_of_day_minds_summer_time() -> None:
    before = datetime(2026, 10, 24, 23, tzinfo=BERLIN)
    assert parse("07:00", before, BERLIN).astimezone(UTC) - before.astimezone(UTC) == timedelta(hours=9)


@pytest.mark.parametrize(
    "text",
    [
        *("", "7", "24:00", "7:61", "0700", "٠٧:٠٠", "07:00\n07:00"),
        *("tomorrow", "2026-11-22", "2026-13-01T07:00", "9999-12-31T23:59-23:59"),
    ],
)
def test_what_is_no_time_is_told_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match=r"^--deadline: .* is no time; give one such as 07:00"):
        parse(text, EVENING, BERLIN)


def test_a_deadline_that_has_passed_is_told() -> None:
    with pytest.raises(InputError, match=r"^--deadline: '2026-11-21T22:30' has passed"):
        parse("2026-11-21T22:30", EVENING, BERLIN)


@given(st.text(max_size=30))
def test_any_text_is_a_moment_to_come_or_told(text: str) -> None:
    with suppress(InputError):
        assert parse(text, EVENING, BERLIN) > EVENING


def load(requests: float = 1000, *, latency: float = 12, chain: float = 12, tokens: float = 1400) -> Load:
    return Load(
        requests=requests,
        busy_s=requests * latency,
        tokens=requests * tokens,
        latency_s=latency,
        chain_s=chain,
    )


def test_what_is_slowest_is_the_bottleneck() -> None:
    assert lasts(load(), Pace(concurrency=8))[1] is Bottleneck.CONCURRENCY
    assert lasts(load(), Pace(concurrency=8))[0] == pytest.approx(1500, rel=0.02)
    assert lasts(load(), Pace(concurrency=8, starts=20))[1] is Bottleneck.RATE
    assert lasts(load(), Pace(concurrency=8, starts=20))[0] == pytest.approx(3030, rel=0.01)
    assert lasts(load(), Pace(concurrency=8, tokens=14_000))[1] is Bottleneck.TOKENS
    assert lasts(load(chain=5000), Pace(concurrency=8)) == (5000, Bottleneck.CHAIN)
    assert lasts(load(0), Pace(concurrency=8, starts=1)) == (0, Bottleneck.CONCURRENCY)
    assert lasts(load(1), Pace(concurrency=8))[0] == 12


def test_what_would_meet_a_deadline_is_named() -> None:
    assert faster(load(), Pace(concurrency=8), 600) == Faster(concurrency=21)
    assert faster(load(), Pace(concurrency=200, starts=60), 600) == Faster(starts=105)
    both = faster(load(), Pace(concurrency=8, starts=60, tokens=10_000), 600)
    assert both is not None
    assert None not in {both.concurrency, both.starts, both.tokens}
    assert faster(load(chain=700), Pace(concurrency=8), 600) is None
    assert faster(load(), Pace(concurrency=8), 10) is None


@settings(max_examples=50)
@given(
    st.integers(1, 10**6),
    st.integers(1, MOST_HANDS),
    st.none() | st.floats(1, 1e5),
    st.none() | st.floats(1e3, 1e9),
    st.floats(1, 1e6),
)
def test_what_is_named_meets_it(
    requests: int, hands: int, starts: float | None, tokens: float | None, seconds: float
) -> None:
    pace = Pace(concurrency=hands, starts=starts, tokens=tokens)
    way = faster(load(requests), pace, seconds)
    if way is not None:
        better = Pace(
            concurrency=way.concurrency or hands, starts=way.starts or starts, tokens=way.tokens or tokens
        )
        assert lasts(load(requests), better)[0] <= seconds * (1 + 1e-9)
