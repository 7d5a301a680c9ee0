"""What rows that are left will cost: bounds that hold, that narrow, that are exact where nothing varies."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen import job as jobs
from batchgen import outlook, pricing, providers
from batchgen.forecast import Band, Need, Range, Seen, answer, asking, foretold
from batchgen.records import ZERO, Expect
from batchgen.simulator import Faults, Settings
from tests.nights import Nights

if TYPE_CHECKING:
    from pathlib import Path

    from batchgen.outlook import Cost

WITHIN = Decimal("0.1")
AMOUNTS = st.decimals(min_value="0.0001", max_value="5", places=6)
SEEN = st.lists(AMOUNTS, max_size=40).map(Seen.of)
WAYS = st.lists(st.decimals(min_value=0, max_value=3, places=3), max_size=40).map(Seen.of)


@st.composite
def needs(draw: st.DrawFn) -> Need:
    low, high = sorted([draw(AMOUNTS), draw(AMOUNTS)])
    return Need(
        expect=draw(st.sampled_from(Expect)),
        count=draw(st.integers(0, 10**6)),
        answer=Range(low=low, high=high),
        seen=draw(SEEN),
    )


def width(band: Band | Cost) -> Decimal:
    low, likely, high = (
        (band.low, band.likely, band.high)
        if isinstance(band, Band)
        else (band.low_usd, band.likely_usd, band.high_usd)
    )
    return (high - low) / 2 / likely


@settings(max_examples=50)
@given(st.lists(needs(), max_size=6), WAYS, WAYS)
def test_a_band_is_in_order_and_never_negative(some: list[Need], pictures: Seen, words: Seen) -> None:
    band = foretold(some, {Expect.IMAGE: pictures, Expect.TEXT: words})
    assert 0 <= band.low <= band.likely <= band.high
    assert all(
        type(amount) is Decimal and amount.is_finite() for amount in (band.low, band.likely, band.high)
    )
    if not sum(need.count for need in some):
        assert band == Band(low=ZERO, likely=ZERO, high=ZERO)


@settings(max_examples=50)
@given(needs(), WAYS, st.integers(0, 10**5))
def test_more_rows_never_cost_less(need: Need, ways: Seen, more: int) -> None:
    fewer = foretold([need], {need.expect: ways})
    grown = Need(expect=need.expect, count=need.count + more, answer=need.answer, seen=need.seen)
    band = foretold([grown], {need.expect: ways})
    slack = Decimal("1e-15")
    assert band.low >= fewer.low - slack
    assert band.likely >= fewer.likely
    assert band.high >= fewer.high


@settings(max_examples=50)
@given(AMOUNTS, needs(), st.integers(12, 10_000))
def test_what_always_cost_the_same_is_foretold_exactly(each: Decimal, need: Need, count: int) -> None:
    same = Need(expect=need.expect, count=need.count, answer=need.answer, seen=Seen(count=count, mean=each))
    band = foretold([same], {need.expect: Seen(count=count, mean=Decimal(1))})
    assert band.likely == pytest.approx(each * need.count, rel=Decimal("1e-20"))


@pytest.mark.parametrize("each", ["0.3333333", "0.07", "1"])
def test_many_rows_without_a_failure_make_a_narrow_band(each: str) -> None:
    answers = [Decimal(each)] * 100_000
    need = Need(
        expect=Expect.IMAGE, count=10**6, answer=Range(low=ZERO, high=Decimal(1)), seen=Seen.of(answers)
    )
    widths = [
        width(foretold([need], {Expect.IMAGE: Seen(count=count, mean=Decimal(1))}))
        for count in (10, 1000, 100_000)
    ]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < Decimal("0.0001")


def test_few_rows_are_as_uncertain_as_each_of_them() -> None:
    ways = {Expect.IMAGE: Seen.of([Decimal(1)] * 900 + [Decimal(2)] * 100)}
    wide = [
        width(
            foretold(
                [
                    Need(
                        expect=Expect.IMAGE,
                        count=count,
                        answer=Range(low=Decimal(1), high=Decimal(1)),
                        seen=Seen(count=1000, mean=Decimal(1)),
                    )
                ],
                ways,
            )
        )
        for count in (10, 100_000)
    ]
    assert float(wide[0]) == pytest.approx(1.96 * 0.3 / 10**0.5 / 1.1, rel=0.05)
    assert float(wide[1]) == pytest.approx(1.96 * 0.3 / 1000**0.5 / 1.1, rel=0.05)


def test_a_price_that_was_belied_is_forgotten_soon() -> None:
    half = [Decimal(number) / 1000 for number in (33, 34, 35)]
    need = Need(
        expect=Expect.IMAGE,
        count=100,
        answer=Range(low=Decimal("0.067"), high=Decimal("0.072")),
        seen=Seen.of(half),
    )
    assert foretold([need], {}).likely == pytest.approx(Decimal("3.4"), rel=Decimal("0.02"))


def test_what_failures_waste_is_in_it() -> None:
    need = Need(
        expect=Expect.IMAGE,
        count=1000,
        answer=Range(low=Decimal(1), high=Decimal(1)),
        seen=Seen(count=800, mean=Decimal(1)),
    )
    rows = [ZERO] * 200 + [Decimal(1)] * 700 + [Decimal(2)] * 100
    band = foretold([need], {Expect.IMAGE: Seen.of(rows), Expect.TEXT: Seen.of([Decimal(1)] * 5000)})
    assert band.low < 900 < band.high
    assert width(band) < Decimal("0.06")


@pytest.mark.parametrize("name", ["core-today", "google", "openrouter"])
def test_prices_alone_hold_the_usual_answer_of_every_model_and_size(name: str) -> None:
    for model in providers.find(name).models:
        for size in model.image_tokens:
            for expect in Expect:
                told = answer(model, expect, size if expect is Expect.IMAGE else "", by_quality=False)
                usual = pricing.usual(model, expect, size=size)
                if usual is None:
                    assert told is None
                else:
                    assert told is not None
                    assert told.low < usual < told.high


def test_the_images_api_leaves_the_quality_open_and_prices_both_ends() -> None:
    model = providers.find("openai").models[-1]
    told = answer(model, Expect.IMAGE, "1K", by_quality=True)
    assert told is not None
    low, tall = (Decimal(tokens) * 40 / 10**6 for tokens in (272, 6240))
    assert told.low < low < tall < told.high
    closed = answer(model, Expect.IMAGE, "1K", by_quality=False)
    assert closed is not None
    assert closed.low > told.low


def test_what_is_said_and_shown_costs_between_its_bounds() -> None:
    model = providers.find("core-today").models[0]
    told = asking(model, said=4_000_000, shown=100)
    assert told.low < Decimal("0.5") + 1120 * 100 * Decimal("0.5") / 10**6 < told.high


# Whole nights

FAULTS = Faults(refusal=0.02, no_image=0.03, corrupt=0.01, bad_base64=0.005, bad_json=0.005, overloaded=0.05)


def mixed(count: int, seed: int) -> str:
    dice = random.Random(seed)
    lines = ["id,prompt,model,image_size,expect"]
    for number in range(count):
        model = dice.choice(["gemini-3.1-flash-image", "gemini-3-pro-image"])
        words = dice.random() < 1 / 6
        size = "" if words else dice.choice(["", "1K", "2K", "4K"])
        lines.append(
            f"r{number},{'picture ' * dice.randint(1, 40)}{number},{model},{size},{'text' if words else ''}"
        )
    return "\n".join(lines) + "\n"


def cost(nights: Nights, **given: object) -> Cost:
    job = jobs.resolve(
        str(nights.manifest), {"provider": "simulator", "output": str(nights.directory), **given}
    )
    found = outlook.preview(job).cost
    assert found is not None
    return found


def spoken(nights: Nights) -> int:
    """Tokens that were billed."""
    return sum(model.total_tokens for model in nights.endpoint.account.models.values())


def played(folder: Path, seed: int, *, rest: int) -> tuple[bool, bool, Decimal]:
    """
    Whether the bands before the first row and after 60, about 50 of them pictures, held.

    Then how wide that of a night of hundreds is at this moment.
    """
    nights = Nights(folder, Settings(paint=False, seed=seed, faults=FAULTS))
    nights.write(mixed(400, seed))
    account = nights.endpoint.account
    before = cost(nights, limit=60 + rest)
    nights.run(seed=seed, limit=60, check="quick")
    paid, heard = account.usd, spoken(nights)
    expected = outlook.preview(
        jobs.resolve(
            str(nights.manifest),
            {"provider": "simulator", "output": str(nights.directory), "limit": 60 + rest},
        )
    ).tokens
    after, whole = cost(nights, limit=60 + rest), cost(nights)
    nights.run(seed=seed, limit=60 + rest, check="quick")
    assert expected.low <= expected.likely <= expected.high
    assert 0.9 * expected.low <= spoken(nights) - heard <= 1.1 * expected.high, "not tenths beside it, ever"
    return (
        before.low_usd <= account.usd <= before.high_usd,
        after.low_usd <= account.usd - paid <= after.high_usd,
        width(whole),
    )


def nights_of(folder: Path, seeds: int, *, rest: int) -> tuple[int, int, list[Decimal]]:
    found = []
    for seed in range(seeds):
        (own := folder / str(seed)).mkdir()
        found.append(played(own, seed, rest=rest))
    return sum(one[0] for one in found), sum(one[1] for one in found), sorted(one[2] for one in found)


@pytest.mark.virtual_time
def test_the_bands_hold_what_mixed_nights_with_faults_really_cost(memory: Path) -> None:
    before, after, widths = nights_of(memory, 8, rest=30)
    assert before == 8
    assert after >= 7
    assert widths[-1] <= WITHIN


@pytest.mark.nightly
@pytest.mark.virtual_time
def test_the_band_holds_in_95_of_100_nights_and_is_ten_percent_wide_at_most(memory: Path) -> None:
    before, after, widths = nights_of(memory, 100, rest=240)
    assert before >= 95
    assert after >= 95
    assert widths[-1] <= WITHIN
