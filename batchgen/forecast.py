"""
What will the rows that are left cost, and between which bounds?

Before anything is bought it is told by prices alone, and the bounds are wide. Answers narrow them: what those
of a kind cost, and how many are paid for on the way of one row to its end. At a dollar a token the same tells
tokens.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import TYPE_CHECKING, Self

from batchgen import pricing
from batchgen.records import ZERO, Expect, Usage, Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from batchgen.records import Model

_ONE = Decimal(1)
_Z = 1.96
"""Standard deviations to each side that hold 95 of 100."""
_TAIL = 2.4
"""How much wider few observations make that, times one over their number: Student's t, to the first order."""
_THOUGHT = {Expect.IMAGE: (0, 1500), Expect.TEXT: (50, 3000)}
"""
Text tokens of an answer, on average, at least and at most: what is thought costs as much as what is said. How
much Gemini's image models think is not published; with short prompts hundreds of tokens were seen.
"""
_QUALITY = (Decimal("0.06"), Decimal("1.5"))
"""
The Images API's models choose a quality, from low to high, and tall pictures take half as much more than the
square that is listed: https://platform.openai.com/docs/guides/image-generation#calculating-costs
"""
_BYTES = (6, 2)
"""Bytes of text a token, at most and at least."""
_SHOWN = 258
"""Prompt tokens of a small picture: https://ai.google.dev/gemini-api/docs/image-understanding"""
_FEW = 12
"""Answers of a kind from which on their own spread says enough."""
_WAY = 0.05
"""How far the answers paid for a row may be from one on average, as a deviation, before rows have ended."""
_ROW = 0.1
"""The variance of that from row to row: one row in ten pays for nothing or for two."""
_ROWS = 10
"""As many rows is that assumption worth."""


class Range(Value, frozen=True, kw_only=True):
    """USD, at least and at most."""

    low: Decimal = ZERO
    high: Decimal = ZERO

    @property
    def middle(self) -> Decimal:
        """Half-way."""
        return (self.low + self.high) / 2


class Seen(Value, frozen=True, kw_only=True):
    """Numbers that were observed."""

    count: int = 0
    mean: Decimal = ZERO
    spread: Decimal = ZERO
    """Their standard deviation; 0 of a single one."""

    @classmethod
    def of(cls, numbers: Sequence[Decimal]) -> Self:
        """Sum up."""
        count = len(numbers)
        if not count:
            return cls()
        mean = sum(numbers, ZERO) / count
        squares = sum(((number - mean) ** 2 for number in numbers), ZERO)
        spread = (squares / max(1, count - 1)).sqrt()
        # What all have in common is not to be lost in the division.
        return cls(count=count, mean=numbers[0] if numbers[0] == max(numbers) == min(numbers) else mean,
                   spread=spread)  # fmt: skip


class Need(Value, frozen=True, kw_only=True):
    """Rows of one kind that are to be bought."""

    expect: Expect
    count: int
    answer: Range
    """What one answer costs on average, by price."""
    asking: Range = Range()
    """What all of them say and show."""
    seen: Seen = Seen()
    """What answers of this kind cost so far, what was asked not included."""


class Band(Value, frozen=True, kw_only=True):
    """USD for all that is to be bought, failures on the way included: 95 of 100 times between these."""

    low: Decimal
    likely: Decimal
    high: Decimal


def answer(model: Model, expect: Expect, size: str, *, by_quality: bool) -> Range | None:
    """
    What one answer costs on average, what was asked not included; None without a price.

    :param size: '512', '1K', '2K' or '4K'; empty where no picture can come; words are no hindrance.
    :param by_quality: whether the wire format leaves the picture's quality open, and so its tokens.
    """
    image = pricing.picture_tokens(model, size) if size else 0
    least, most = _QUALITY if by_quality else (_ONE, _ONE)
    scale = (ZERO if expect is Expect.TEXT else least, most)
    low, high = (
        pricing.cost(Usage(text_tokens=text, image_tokens=int(image * share)), model.price)
        for text, share in zip(_THOUGHT[expect], scale, strict=True)
    )
    return None if low is None or high is None else Range(low=low, high=high)


def asking(model: Model, *, said: int, shown: int) -> Range:
    """What it costs to say so many bytes and to show so many pictures; nothing without a price."""
    most = model.reference_tokens or pricing.REFERENCE_TOKENS
    low, high = (
        pricing.cost(Usage(prompt_tokens=said // size + each, input_image_tokens=each), model.price) or ZERO
        for size, each in zip(_BYTES, (shown * min(most, _SHOWN), shown * most), strict=True)
    )
    return Range(low=low, high=high)


def foretold(needs: Iterable[Need], ways: Mapping[Expect, Seen]) -> Band:
    """
    The money for these rows: a predictive interval for its sum.

    Of `n` rows seen with a spread of `s`, the sum of the next `N` is `N` times their mean, with a variance of
    `N * (1 + N / n) * s²`. Two spreads come together: of answers within their kind, and of how many answers a
    row pays for. That is 1 where all goes well, 0 of a refusal, 2 where the first picture came damaged. Room
    is left for failures that were not seen yet, so that only many rows make a narrow band.

    :param ways: for what is expected, how many answers were paid for by each row that has ended.
    """
    wanted = [need for need in needs if need.count > 0]
    likely = apart = together = ZERO
    for expect in Expect:
        some = [(need, *_priced(need)) for need in wanted if need.expect is expect]
        if not some:
            continue
        way, unsure, varies = _travelled(ways.get(expect, Seen()))
        money = sum((need.count * each for need, each, _, _ in some), ZERO)
        likely += way * money + sum((need.asking.middle for need, *_ in some), ZERO)
        apart += money**2 * unsure + varies * sum((need.count * each**2 for need, each, _, _ in some), ZERO)
        for need, _, off, spread in some:
            apart += way**2 * need.count * spread**2
            if need.seen.count:
                apart += (way * need.count * off) ** 2
            else:  # what is wrong with one price is wrong with the next
                together += way * need.count * off + (need.asking.high - need.asking.low) / 2 / _dec(_Z)
    half = _width(sum(seen.count for seen in ways.values())) * (apart.sqrt() + together)
    return Band(low=max(ZERO, likely - half), likely=likely, high=likely + half)


def _priced(need: Need) -> tuple[Decimal, Decimal, Decimal]:
    """What an answer costs on average, the deviation of that, and the spread of the answers."""
    prior, seen = need.answer, need.seen
    breadth = prior.high - prior.low
    if not seen.count:
        return prior.middle, breadth / 2 / _dec(_Z), breadth / 4
    fading = 4 * _dec(max(0.0, 1 - seen.count / _FEW))
    degrees = seen.count - 1 + fading
    varies = seen.spread**2
    if fading:
        varies = ((seen.count - 1) * varies + fading * (breadth / 4) ** 2) / degrees
    # A price that what was paid belies has no weight.
    trust = max((breadth / 2 / _dec(_Z)) ** 2, (seen.mean - prior.middle) ** 2)
    of_mean = varies / seen.count
    weight = trust / (trust + of_mean) if of_mean else _ONE
    each = seen.mean if weight == 1 else weight * seen.mean + (1 - weight) * prior.middle
    return each, (weight * of_mean).sqrt(), varies.sqrt()


def _travelled(seen: Seen) -> tuple[Decimal, Decimal, Decimal]:
    """How many answers a row pays for on average, the variance of that, and the variance from row to row."""
    squares = max(0, seen.count - 1) * seen.spread**2
    varies = (squares + _dec(_ROW * _ROWS)) / (seen.count + _ROWS)
    # What rows that have ended belie has little weight.
    trust = max(_dec(_WAY) ** 2, (2 * (seen.mean - 1)) ** 2 if seen.count else ZERO)
    precision = 1 / trust + seen.count / varies
    return (1 / trust + seen.count * seen.mean / varies) / precision, 1 / precision, varies


def _width(count: int) -> Decimal:
    """How many deviations hold 95 of 100, by so many observations."""
    return _dec(_Z + _TAIL / max(3, count) if count else _Z)


def _dec(number: float) -> Decimal:
    return Decimal(repr(number))


def cents(amount: Decimal) -> Decimal:
    """The amount in whole cents, never less."""
    return Decimal(math.ceil(amount * 100)).scaleb(-2)
