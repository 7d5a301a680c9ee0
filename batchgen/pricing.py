"""
How many tokens of which kind, and what do they cost?

A picture's tokens cost ten to twenty times a word's, and many endpoints report only their sum. It is then
split by the table that Google publishes (https://ai.google.dev/gemini-api/docs/pricing).
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING

from batchgen.records import ZERO, Expect, ReportedUsage, Usage, UsageQuality

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchgen.records import Model, Price, Task

_SIZES = (("512", 600_000), ("1K", 2_500_000), ("2K", 9_000_000))
_USUAL = {"512": 747, "1K": 1120, "2K": 1680, "4K": 2520}
_MILLION = 1_000_000
CAREFUL_TOKENS = 4096
"""Tokens of a large picture, or of much thinking, where nothing is known yet."""
_AROUND = 64
"""Tokens that an endpoint may put around a prompt: roles, turns, a line of its own."""
REFERENCE_TOKENS = 1120
"""Prompt tokens of a picture that goes along, at most: https://ai.google.dev/gemini-api/docs/pricing."""
_PICTURE = '"image_url":'
# In a string of JSON each quote would have a backslash before it: this is never what somebody says.
_PICTURE_DATA = re.compile(r'"url":"data:image/[a-z0-9.+-]+;base64,[A-Za-z0-9+/=]*"')
_NANO = Decimal("1e-9")
_SILENT = ReportedUsage()


def bucket(width: int, height: int) -> str:
    """The size under which a picture of these pixels is billed: '512', '1K', '2K' or '4K'."""
    pixels = width * height
    return next((size for size, limit in _SIZES if pixels < limit), "4K")


def split(
    reported: ReportedUsage | None, sizes: Sequence[tuple[int, int]], image_tokens: Mapping[str, int]
) -> Usage:
    """
    The tokens of one answer by kind.

    :param reported: What the answer says; a claim. An image count of 0 beside a picture, or one above the
        whole completion, counts as not said.
    :param sizes: Width and height of its distinct pictures without the marked drafts, in order; the last is
        the picture. Earlier ones are drafts too if the completion is too small to pay for all: interim
        pictures are not billed.
    :param image_tokens: The model's tokens a picture by size. Without it the whole completion counts as image
        tokens, the dearer kind, so that a budget errs on the safe side; where the completion is silent too,
        a picture counts as much as one of Gemini 3.1 Flash Image.
    """
    said = reported or _SILENT
    prompt, completion = _sums(said)
    stated = _stated(said, completion, pictures=bool(sizes))
    image = stated if stated is not None else _by_table(completion, sizes, image_tokens)
    short = completion is None or completion < image
    text = 0 if completion is None or short else completion - image
    parts = prompt + text + image
    return Usage(
        prompt_tokens=prompt,
        input_image_tokens=min(said.input_image_tokens or 0, prompt),
        text_tokens=text,
        image_tokens=image,
        total_tokens=max(said.total_tokens or 0, parts),
        quality=_quality(said, short=short, stated=stated is not None, pictures=bool(sizes)),
    )


def cost(usage: Usage, price: Price | None) -> Decimal | None:
    """USD to the billionth, rounded half to even; None when there is no price."""
    if price is None:
        return None
    shown = usage.input_image_tokens
    each = (
        (usage.prompt_tokens - shown) * price.input,
        shown * (price.input if price.image_input is None else price.image_input),
        usage.text_tokens * price.text,
        usage.image_tokens * price.image,
    )
    return (sum(each, ZERO) / _MILLION).quantize(_NANO, rounding=ROUND_HALF_EVEN)


def careful(model: Model) -> Decimal | None:
    """USD for a large picture with much thinking, what was asked not included; None without a price."""
    largest = max(model.image_tokens.values(), default=CAREFUL_TOKENS)
    return cost(Usage(text_tokens=CAREFUL_TOKENS, image_tokens=largest), model.price)


def asking(task: Task, model: Model) -> Decimal | None:
    """
    USD for what a task says and shows, at most; None without a price.

    No tokenizer makes more tokens of words than they have bytes; a picture has its own, however many bytes
    it is.
    """
    params, pictures = task.params, len(task.references)
    said = [task.system, params.response_format, params.tools, params.extra]
    said += [turn.text for turn in task.history]
    if task.messages is None:
        said.append(task.prompt)
    else:
        said.append(_PICTURE_DATA.sub("", task.messages))
        pictures += task.messages.count(_PICTURE)
    shown = pictures * (model.reference_tokens or REFERENCE_TOKENS)
    tokens = sum(len(text.encode()) for text in said if text) + _AROUND + shown
    return cost(Usage(prompt_tokens=tokens, input_image_tokens=shown), model.price)


def picture_tokens(model: Model, size: str) -> int:
    """Output tokens of one picture of a size, by the model's table or else by Gemini 3.1 Flash Image's."""
    return model.image_tokens.get(size, _USUAL.get(size, _USUAL["1K"]))


def usual(model: Model, expect: Expect = Expect.IMAGE, *, size: str = "1K") -> Decimal | None:
    """USD for one picture of a size, or for an answer in words, with some thinking; None without a price."""
    image = 0 if expect is Expect.TEXT else picture_tokens(model, size)
    return cost(Usage(prompt_tokens=50, text_tokens=250, image_tokens=image), model.price)


def _sums(said: ReportedUsage) -> tuple[int, int | None]:
    """
    Prompt and completion; the one that is missing or too small, from the total.

    What gateways leave out of Gemini's completion is thinking, and it is billed as output:
    https://github.com/router-for-me/CLIProxyAPI/issues/5733, https://github.com/mozilla-ai/any-llm/issues/1290
    """
    prompt, completion, total = said.prompt_tokens, said.completion_tokens, said.total_tokens
    if total is not None and prompt is not None:
        completion = max(completion or 0, total - prompt)
    if prompt is None and completion is None:  # which of the two it is, is not known: the dearer one
        return 0, total
    if total is not None and completion is not None and prompt is None:
        prompt = max(0, total - completion)
    return prompt or 0, completion


def _stated(said: ReportedUsage, completion: int | None, *, pictures: bool) -> int | None:
    """The reported image tokens, if they can be meant."""
    stated = said.image_tokens
    if stated is None or (stated == 0 and pictures) or (completion is not None and stated > completion):
        return None
    return stated


def _by_table(
    completion: int | None, sizes: Sequence[tuple[int, int]], image_tokens: Mapping[str, int]
) -> int:
    if not sizes:
        return 0
    if not image_tokens and completion:
        return completion
    each = [_tokens(bucket(*size), image_tokens or _USUAL) for size in sizes]
    return sum(each) if completion is not None and completion >= sum(each) else each[-1]


def _tokens(size: str, image_tokens: Mapping[str, int]) -> int:
    """The table's tokens for a size; where it has none, for the next larger one, else for the largest."""
    order = list(_USUAL)
    larger = [name for name in order[order.index(size) :] if name in image_tokens]
    smaller = [name for name in order if name in image_tokens]
    return image_tokens[larger[0] if larger else smaller[-1]]


def _quality(said: ReportedUsage, *, short: bool, stated: bool, pictures: bool) -> UsageQuality:
    if said.cost_usd:
        return UsageQuality.BILLED
    if said == _SILENT and not pictures:
        return UsageQuality.NONE
    if short:
        return UsageQuality.ESTIMATED
    return UsageQuality.DETAILED if stated else UsageQuality.SPLIT_ESTIMATED
