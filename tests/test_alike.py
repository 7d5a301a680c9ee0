"""Of many pictures, each is held against those that look like none before them, and no pair is missed."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.alike import WITHIN, Alike

HASHES = st.integers(0, 2**64 - 1)


def told(hashes: list[int], *, most: int) -> list[str | None]:
    alike = Alike(most)
    return [alike.first(phash, f"é{n}") for n, phash in enumerate(hashes)]


def by_force(hashes: list[int]) -> list[str | None]:
    """The same, by holding each against all."""
    kept: list[tuple[int, str]] = []
    found: list[str | None] = []
    for n, phash in enumerate(hashes):
        first = next((name for other, name in kept if (other ^ phash).bit_count() <= WITHIN), None)
        found.append(first)
        if first is None:
            kept.append((phash, f"é{n}"))
    return found


@st.composite
def clusters(draw: st.DrawFn) -> list[int]:
    """Hashes around a few, at any distance from 0 to 7; often of hardly any bits, as of pictures on white."""
    centres = draw(st.lists(st.one_of(HASHES, st.sampled_from([0, 2**64 - 1])), min_size=1, max_size=4))
    dice = random.Random(draw(st.integers()))
    return [
        dice.choice(centres) ^ sum(1 << bit for bit in dice.sample(range(64), dice.randrange(8)))
        for _ in range(draw(st.integers(1, 60)))
    ]


@settings(max_examples=40, deadline=None)
@given(clusters(), st.sampled_from([0, 60, 2**14]))
def test_whatever_is_near_is_found_and_nothing_else(hashes: list[int], most: int) -> None:
    assert told(hashes, most=most) == by_force(hashes)


def test_three_bits_in_any_places_are_near_and_four_are_not() -> None:
    dice = random.Random(1)
    for count in (1, 2, 3, 4) * 50:
        phash = dice.getrandbits(64)
        other = phash ^ sum(1 << bit for bit in dice.sample(range(64), count))
        assert told([phash, other], most=2)[1] == ("é0" if count <= WITHIN else None)


def test_once_those_that_look_like_another_are_gone_none_of_the_rest_do() -> None:
    # A chain of pictures, each two bits further: with its neighbour in common, but not with the one after.
    chain = [(1 << 2 * n) - 1 for n in range(6)]
    found = told(chain, most=10)
    assert found == [None, "é0", None, "é2", None, "é4"]
