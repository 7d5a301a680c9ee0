"""Tokens are split by what they cost, and the money is exact."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.pricing import REFERENCE_TOKENS, asking, bucket, careful, cost, split, usual
from batchgen.providers import find, find_model
from batchgen.records import (
    Expect,
    Model,
    Params,
    Price,
    Reference,
    ReportedUsage,
    Task,
    Turn,
    Usage,
    UsageQuality,
)

FLASH = {"512": 747, "1K": 1120, "2K": 1680, "4K": 2520}
PRO = {"1K": 1120, "2K": 1120, "4K": 2000}
OLD = {"1K": 1290}
TABLES = [FLASH, PRO, OLD, {}]
ONE = [(1024, 1024)]
SEED_FLASH = Price(input=Decimal("0.5"), text=Decimal(3), image=Decimal(60))
GPT = Price(input=Decimal(5), image_input=Decimal(10), text=Decimal(40), image=Decimal(40))
SEED_PRO = Price(input=Decimal(4), text=Decimal(24), image=Decimal(240))


def said(
    prompt: int | None = None,
    completion: int | None = None,
    total: int | None = None,
    image: int | None = None,
    shown: int | None = None,
) -> ReportedUsage:
    return ReportedUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=total,
        image_tokens=image,
        input_image_tokens=shown,
    )


def parts(usage: Usage) -> tuple[int, int, int, int, UsageQuality]:
    return usage.prompt_tokens, usage.text_tokens, usage.image_tokens, usage.total_tokens, usage.quality


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (512, 512, "512"),
        (192, 1536, "512"),
        (768, 781, "512"),
        (1024, 1024, "1K"),
        (1376, 768, "1K"),
        (848, 1264, "1K"),
        (1584, 672, "1K"),
        (512, 2048, "1K"),
        (384, 3072, "1K"),
        (2048, 2048, "2K"),
        (2752, 1536, "2K"),
        (4096, 4096, "4K"),
        (5504, 3072, "4K"),
        (1, 1, "512"),
    ],
)
def test_the_pixels_decide_the_size_whatever_the_aspect_ratio(width: int, height: int, size: str) -> None:
    assert bucket(width, height) == size


@pytest.mark.parametrize(
    ("reported", "sizes", "table", "expected"),
    [
        # A gateway that reports the sum only: 1290 for the picture, 17 words.
        (said(16, 1307, 1323), ONE, OLD, (16, 17, 1290, 1323, UsageQuality.SPLIT_ESTIMATED)),
        # A gateway that splits: 225 tokens of thinking are text.
        (said(20, 1345, 1365, 1120), ONE, PRO, (20, 225, 1120, 1365, UsageQuality.DETAILED)),
        # Image tokens of 0 beside a picture say nothing.
        (said(20, 1345, 1365, 0), ONE, PRO, (20, 225, 1120, 1365, UsageQuality.SPLIT_ESTIMATED)),
        # More image tokens than output: the details are wrong, the table decides.
        (said(20, 1345, 1365, 9999), ONE, PRO, (20, 225, 1120, 1365, UsageQuality.SPLIT_ESTIMATED)),
        # Details are believed over the table.
        (said(20, 2000, None, 1999), ONE, PRO, (20, 1, 1999, 2020, UsageQuality.DETAILED)),
        # Only words were counted, or nothing: the picture is added by the table.
        (said(20, 12, 32), ONE, FLASH, (20, 0, 1120, 1140, UsageQuality.ESTIMATED)),
        (said(20), ONE, FLASH, (20, 0, 1120, 1140, UsageQuality.ESTIMATED)),
        (said(image=1120), ONE, FLASH, (0, 0, 1120, 1120, UsageQuality.ESTIMATED)),
        (None, [(4096, 4096)], FLASH, (0, 0, 2520, 2520, UsageQuality.ESTIMATED)),
        # Nothing but a total: all of it is taken for output, the dearer kind.
        (said(None, None, 1363), ONE, FLASH, (0, 243, 1120, 1363, UsageQuality.SPLIT_ESTIMATED)),
        (said(None, None, 60), [], FLASH, (0, 60, 0, 60, UsageQuality.SPLIT_ESTIMATED)),
        # What is missing follows from the total.
        (said(20, None, 1150), ONE, FLASH, (20, 10, 1120, 1150, UsageQuality.SPLIT_ESTIMATED)),
        (said(None, 1130, 1150), ONE, FLASH, (20, 10, 1120, 1150, UsageQuality.SPLIT_ESTIMATED)),
        # A total that covers more than its parts covers thinking too; one that covers less is mended.
        (said(20, 1120, 2000), ONE, FLASH, (20, 860, 1120, 2000, UsageQuality.SPLIT_ESTIMATED)),
        (said(20, 1120, 2000, 1120), ONE, FLASH, (20, 860, 1120, 2000, UsageQuality.DETAILED)),
        (said(21, 0, 81), [], FLASH, (21, 60, 0, 81, UsageQuality.SPLIT_ESTIMATED)),
        (said(20, 1120, 5), ONE, FLASH, (20, 0, 1120, 1140, UsageQuality.SPLIT_ESTIMATED)),
        # Two pictures: both, or a free draft and the picture.
        (said(20, 2240), ONE * 2, FLASH, (20, 0, 2240, 2260, UsageQuality.SPLIT_ESTIMATED)),
        (said(20, 2239), ONE * 2, FLASH, (20, 1119, 1120, 2259, UsageQuality.SPLIT_ESTIMATED)),
        (said(2, 2600), [ONE[0], (4096, 4096)], FLASH, (2, 80, 2520, 2602, UsageQuality.SPLIT_ESTIMATED)),
        # A size the table lacks: the next larger one, else the largest.
        (said(20, 1200), [(512, 512)], PRO, (20, 80, 1120, 1220, UsageQuality.SPLIT_ESTIMATED)),
        (said(20, 1300), [(4096, 4096)], OLD, (20, 10, 1290, 1320, UsageQuality.SPLIT_ESTIMATED)),
        # No table: all output counts as picture, the dearer kind.
        (said(20, 1345), ONE, {}, (20, 0, 1345, 1365, UsageQuality.SPLIT_ESTIMATED)),
        (said(20), ONE, {}, (20, 0, 1120, 1140, UsageQuality.ESTIMATED)),
        (said(20, 0), ONE, {}, (20, 0, 1120, 1140, UsageQuality.ESTIMATED)),
        # No picture: all output is text, unless the endpoint says otherwise.
        (said(20, 30, 50), [], FLASH, (20, 30, 0, 50, UsageQuality.SPLIT_ESTIMATED)),
        (said(20, 30, 50, 0), [], FLASH, (20, 30, 0, 50, UsageQuality.DETAILED)),
        (said(20, 1130, 1150, 1120), [], FLASH, (20, 10, 1120, 1150, UsageQuality.DETAILED)),
        (said(20), [], FLASH, (20, 0, 0, 20, UsageQuality.ESTIMATED)),
        (None, [], FLASH, (0, 0, 0, 0, UsageQuality.NONE)),
        (said(), [], {}, (0, 0, 0, 0, UsageQuality.NONE)),
    ],
)  # fmt: skip
def test_a_reported_sum_is_split_by_what_is_known(
    reported: ReportedUsage | None,
    sizes: list[tuple[int, int]],
    table: dict[str, int],
    expected: tuple[int, int, int, int, UsageQuality],
) -> None:
    assert parts(split(reported, sizes, table)) == expected


def test_a_named_bill_is_the_best_account_and_a_bill_of_nothing_is_none() -> None:
    billed = ReportedUsage(prompt_tokens=10, completion_tokens=1290, cost_usd=Decimal("0.0387"))
    assert split(billed, ONE, OLD).quality is UsageQuality.BILLED
    free = ReportedUsage(prompt_tokens=10, completion_tokens=1290, cost_usd=Decimal(0))
    assert split(free, ONE, OLD).quality is UsageQuality.SPLIT_ESTIMATED


counts = st.none() | st.integers(0, 10**9)
sizes = st.lists(st.tuples(st.integers(1, 9000), st.integers(1, 9000)), max_size=4)
usages = st.builds(
    Usage,
    prompt_tokens=st.integers(10**6, 10**9),
    input_image_tokens=st.integers(0, 10**6),
    text_tokens=st.integers(0, 10**9),
    image_tokens=st.integers(0, 10**9),
    total_tokens=st.integers(0, 10**9),
    quality=st.sampled_from(UsageQuality),
)


@given(st.builds(said, counts, counts, counts, counts), sizes, st.sampled_from(TABLES))
def test_no_token_is_lost_or_negative(
    reported: ReportedUsage, pictures: list[tuple[int, int]], table: dict[str, int]
) -> None:
    usage = split(reported, pictures, table)
    output = usage.text_tokens + usage.image_tokens
    assert min(parts(usage)[:4]) >= 0
    assert usage.total_tokens >= usage.prompt_tokens + output
    assert (usage.image_tokens > 0) >= bool(pictures)
    prompt, completion, total = reported.prompt_tokens, reported.completion_tokens, reported.total_tokens
    assert usage.total_tokens == usage.prompt_tokens + output
    rest = (total or 0) - (prompt or 0)
    stated = max(completion or 0, 0 if prompt is None and completion is not None else rest)
    assert output >= stated
    assert output == stated or usage.quality is UsageQuality.ESTIMATED


@given(st.builds(said, counts, counts, counts, counts), sizes)
def test_not_knowing_the_table_never_makes_an_answer_cheaper_than_its_words(
    reported: ReportedUsage, pictures: list[tuple[int, int]]
) -> None:
    usage = split(reported, pictures, {})
    if pictures and reported.completion_tokens and not reported.image_tokens:
        assert usage.image_tokens >= reported.completion_tokens
        assert usage.text_tokens == 0


@pytest.mark.parametrize(
    ("usage", "price", "usd"),
    [
        (Usage(image_tokens=1120), SEED_FLASH, "0.0672"),
        (Usage(image_tokens=1680), SEED_FLASH, "0.1008"),
        (Usage(image_tokens=2520), SEED_FLASH, "0.1512"),
        (Usage(image_tokens=747), SEED_FLASH, "0.04482"),
        (Usage(image_tokens=1120), SEED_PRO, "0.2688"),
        (Usage(image_tokens=2000), SEED_PRO, "0.48"),
        (Usage(prompt_tokens=20, text_tokens=225, image_tokens=1120), SEED_PRO, "0.27428"),
        (Usage(prompt_tokens=16, text_tokens=17, image_tokens=1290), SEED_FLASH, "0.077459"),
        (Usage(prompt_tokens=1_000_000), SEED_FLASH, "0.5"),
        (Usage(), SEED_FLASH, "0"),
    ],
)
def test_money_is_exact_at_the_published_prices(usage: Usage, price: Price, usd: str) -> None:
    assert cost(usage, price) == Decimal(usd)


def test_the_seed_models_cost_what_their_documents_say() -> None:
    provider = find("core-today")
    for name, price in (
        ("gemini-3.1-flash-image-preview", SEED_FLASH),
        ("gemini-3-pro-image-preview", SEED_PRO),
    ):
        model = find_model(provider, name)
        assert model is not None
        assert model.price == price
        picture = split(said(0, 1120), ONE, model.image_tokens)
        assert cost(picture, model.price) == 1120 * price.image / 1_000_000


def test_money_is_rounded_half_to_even_at_the_billionth() -> None:
    def at(image: str) -> Decimal | None:
        return cost(Usage(image_tokens=1), Price(input=Decimal(0), text=Decimal(0), image=Decimal(image)))

    assert at("0.0005") == Decimal("0E-9")
    assert at("0.0015") == Decimal("2E-9")
    assert at("0.0025") == Decimal("2E-9")
    assert str(at("1")) == "0.000001000"


def test_without_a_price_there_is_no_cost() -> None:
    assert cost(Usage(image_tokens=1120), None) is None


@given(usages, usages, st.sampled_from([SEED_FLASH, GPT]))
def test_the_cost_of_a_sum_is_the_sum_of_their_costs(a: Usage, b: Usage, price: Price) -> None:
    first, second = cost(a, price), cost(b, price)
    both = Usage(
        prompt_tokens=a.prompt_tokens + b.prompt_tokens,
        input_image_tokens=a.input_image_tokens + b.input_image_tokens,
        text_tokens=a.text_tokens + b.text_tokens,
        image_tokens=a.image_tokens + b.image_tokens,
    )
    assert first is not None
    assert second is not None
    assert cost(both, price) == first + second


def test_pictures_that_went_along_cost_what_they_cost_and_words_where_there_is_no_price_for_them() -> None:
    usage = Usage(prompt_tokens=1_000_000, input_image_tokens=400_000)
    assert cost(usage, GPT) == Decimal("0.6") * 5 + Decimal("0.4") * 10
    assert cost(usage, msgspec.structs.replace(GPT, image_input=Decimal(0))) == Decimal("0.6") * 5
    assert cost(usage, SEED_FLASH) == Decimal("0.5")


@pytest.mark.parametrize(
    ("reported", "shown"),
    [(said(350, shown=323), 323), (said(350), 0), (said(350, shown=351), 350), (said(shown=7), 0)],
)
def test_pictures_that_went_along_are_a_part_of_the_prompt(reported: ReportedUsage, shown: int) -> None:
    usage = split(reported, ONE, FLASH)
    assert usage.input_image_tokens == shown
    assert usage.prompt_tokens == (reported.prompt_tokens or 0)


@pytest.mark.parametrize("model", find("core-today").models, ids=lambda model: model.id)
def test_the_careful_guess_is_above_the_dearest_picture_and_the_usual_one_near_the_listed_price(
    model: Model,
) -> None:
    assert model.price is not None
    dearest = cost(Usage(image_tokens=max(model.image_tokens.values()), text_tokens=3000), model.price)
    listed = cost(Usage(image_tokens=model.image_tokens["1K"]), model.price)
    guess, common = careful(model), usual(model)
    assert guess is not None
    assert common is not None
    assert dearest is not None
    assert listed is not None
    assert guess > dearest
    assert listed < common < listed * Decimal("1.05")


def test_without_a_price_there_is_no_guess() -> None:
    assert careful(Model(id="x")) is None
    assert usual(Model(id="x")) is None
    assert asking(TASK, Model(id="x")) is None


def test_the_usual_price_is_that_of_the_size_and_of_words_without_a_picture() -> None:
    price = Price(input=Decimal(0), text=Decimal(0), image=Decimal(100))
    model = Model(id="x", price=price, image_tokens={"512": 10, "4K": 40})
    assert [usual(model, size=size) for size in ("512", "4K")] == [Decimal("0.001"), Decimal("0.004")]
    assert usual(model) == usual(model, size="1K") == usual(model, size="9K") == Decimal("0.112")
    assert usual(model, Expect.TEXT, size="4K") == 0


TASK = Task(key="k", id="a", variant=1, name="a", model="x", prompt="")


@given(st.text(max_size=200), st.none() | st.text(max_size=50))
def test_what_a_task_s_words_may_cost_covers_a_token_a_byte(prompt: str, system: str | None) -> None:
    task = msgspec.structs.replace(TASK, prompt=prompt, system=system)
    most = asking(task, Model(id="x", price=SEED_FLASH))
    assert most is not None
    tokens = len(prompt.encode()) + len((system or "").encode())
    assert most >= tokens * SEED_FLASH.input / 1_000_000


PRICED = Model(id="x", price=SEED_FLASH, image_tokens=FLASH)


def tokens_of(task: Task) -> int:
    """The prompt tokens that are held back for."""
    most = asking(task, PRICED)
    assert most is not None
    return int(most * 1_000_000 / SEED_FLASH.input)


BARE = tokens_of(TASK)


def test_each_picture_that_goes_along_is_held_back_for() -> None:
    reference = Reference(source="a.png", sha256="0" * 64, mime="image/png", bytes=7_000_000)
    for count in (1, 3, 14):
        task = msgspec.structs.replace(TASK, references=(reference,) * count)
        assert tokens_of(task) == BARE + count * REFERENCE_TOKENS


@given(st.lists(st.text(max_size=50), max_size=5), st.text(max_size=50))
def test_all_that_was_said_on_the_way_is_held_back_for(said: list[str], prompt: str) -> None:
    turns = tuple(Turn(role="user", text=text) for text in said)
    task = msgspec.structs.replace(TASK, prompt=prompt, history=turns)
    assert tokens_of(task) == BARE + sum(len(text.encode()) for text in [*said, prompt])


@given(st.text(max_size=50), st.integers(0, 3), st.integers(0, 200_000))
def test_a_picture_in_a_message_counts_as_one_and_the_words_around_it_in_full(
    words: str, pictures: int, size: int
) -> None:
    url = "data:image/png;base64," + "A" * (size // 4 * 4)
    parts: list[object] = [{"image_url": {"url": url}, "type": "image_url"}] * pictures
    parts.append({"text": words, "type": "text"})
    messages = msgspec.json.encode([{"content": parts, "role": "user"}]).decode()
    held = tokens_of(msgspec.structs.replace(TASK, prompt="the last of it", messages=messages)) - BARE
    least = len(msgspec.json.encode(words)) + pictures * REFERENCE_TOKENS
    assert least <= held <= least + 150 + pictures * 80


def test_who_speaks_of_a_picture_s_data_pays_for_the_words() -> None:
    words = '"url":"data:image/png;base64,' + "A" * 4000 + '"'
    messages = msgspec.json.encode([{"content": words, "role": "user"}]).decode()
    assert tokens_of(msgspec.structs.replace(TASK, messages=messages)) - BARE >= 4000


def test_a_schema_and_tools_are_read_by_the_model_too() -> None:
    for name in ("response_format", "tools", "extra"):
        params = msgspec.convert({name: "x" * 1000}, Params)
        assert tokens_of(msgspec.structs.replace(TASK, params=params)) == BARE + 1000


def test_an_answer_in_words_usually_costs_no_picture() -> None:
    in_words, picture = usual(PRICED, Expect.TEXT), usual(PRICED)
    assert in_words is not None
    assert picture is not None
    assert in_words > 0
    assert picture - in_words == cost(Usage(image_tokens=1120), SEED_FLASH)


def test_what_references_may_cost_is_their_own_price_times_their_tokens_at_most() -> None:
    picture = Reference(source="a.png", sha256="", mime="image/png")
    two = msgspec.structs.replace(TASK, references=(picture, picture))

    def of_references(model: Model) -> Decimal:
        with_, without = asking(two, model), asking(TASK, model)
        assert with_ is not None
        assert without is not None
        return with_ - without

    assert of_references(Model(id="x", price=SEED_FLASH)) == 2 * 1120 * SEED_FLASH.input / 1_000_000
    assert of_references(Model(id="x", price=GPT)) == 2 * 1120 * Decimal(10) / 1_000_000
    assert (
        of_references(Model(id="x", price=GPT, reference_tokens=6563)) == 2 * 6563 * Decimal(10) / 1_000_000
    )
