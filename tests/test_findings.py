"""What follows from what a probe found: one rule each."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.findings import Advice, Findings, advice
from batchgen.job import Job, resolve
from batchgen.records import ErrorClass, Expect, ImageOptions, UsageQuality
from batchgen.retry import RULES

GOOD: dict[str, Any] = {
    "provider": "core-today",
    "title": "Core.Today",
    "url": "https://api.example/v1beta/openai/chat/completions",
    "base_url": "https://api.example/v1beta/openai",
    "given_url": False,
    "dialect": "chat",
    "ways": ("gemini",),
    "image_options": ImageOptions.GOOGLE,
    "timeout": 300.0,
    "model": "gemini-3.1-flash-image-preview",
    "priced": True,
    "listing": "HTTP 200",
    "listed": True,
    "status": 200,
    "mime": "image/jpeg",
    "declared": "image/jpeg",
    "width": 512,
    "height": 512,
    "bytes": 100_000,
    "image_size": "512",
    "own_size": True,
    "size_ok": True,
    "quality": UsageQuality.DETAILED,
    "total_tokens": 1000,
    "cost_usd": Decimal("0.0456"),
    "latency": 0.5,
}
FAILED: dict[str, Any] = {
    "mime": None, "declared": None, "size_ok": None, "quality": UsageQuality.NONE, "total_tokens": 0,
}  # fmt: skip


def found(**changed: Any) -> Findings:
    return Findings(**{**GOOD, **changed})


def failed(kind: ErrorClass, **changed: Any) -> Findings:
    return found(**{**FAILED, "kind": kind, "status": 400, **changed})


def settings(findings: Findings) -> dict[str, object]:
    return {name: value for one in advice(findings) for name, value in one.settings.items()}


def words(findings: Findings) -> str:
    return " ".join(one.text for one in advice(findings))


def test_nothing_follows_where_all_is_as_it_should_be() -> None:
    assert advice(found()) == ()


@pytest.mark.parametrize("kind", list(ErrorClass))
def test_every_failure_has_advice_and_none_but_its_own_remedy(kind: ErrorClass) -> None:
    told = words(failed(kind, dialect="gemini"))
    assert RULES[kind].remedy in told


def test_an_endpoint_that_cannot_send_pictures_is_asked_in_gemini_s_own_format() -> None:
    incapable = failed(ErrorClass.ENDPOINT_INCAPABLE)
    assert settings(incapable) == {"dialect": "gemini"}
    assert "base URL" not in words(incapable), "the provider knows where"


def test_at_a_base_url_of_one_s_own_that_is_one_level_up() -> None:
    given_url = failed(ErrorClass.ENDPOINT_INCAPABLE, given_url=True, ways=())
    assert settings(given_url) == {"dialect": "gemini", "base_url": "https://api.example/v1beta"}
    elsewhere = failed(
        ErrorClass.ENDPOINT_INCAPABLE, given_url=True, ways=(), base_url="https://x.example/v1"
    )
    assert settings(elsewhere) == {"dialect": "gemini"}
    assert "Its base URL is most likely another one" in words(elsewhere)


def test_an_ignored_size_is_asked_for_in_another_way_than_the_one_that_failed() -> None:
    for way in ImageOptions:
        ignored = found(size_ok=False, image_options=way, width=1024, height=1024)
        assert settings(ignored)["image_options"] in set(ImageOptions) - {way}
        assert "512 was asked for and 1024 × 1024 came" in words(ignored)


def test_it_matters_only_to_those_who_ask_for_sizes() -> None:
    assert "matters only" in words(found(size_ok=False))
    assert "matters only" not in words(found(size_ok=False, own_size=False))
    assert "matters only" not in words(found(size_ok=False, aspect_ratio="16:9"))


def test_a_dialect_with_one_way_of_asking_has_no_other() -> None:
    ignored = found(size_ok=False, dialect="gemini", aspect_ratio="16:9")
    assert settings(ignored) == {}
    assert "16:9 512" in words(ignored)


@pytest.mark.parametrize(("declared", "told"), [("image/png", True), ("image/jpg", False), (None, False)])
def test_a_wrong_type_is_told_and_harmless(declared: str | None, told: bool) -> None:
    assert ("is said to be image/png and is image/jpeg" in words(found(declared=declared))) is told


@pytest.mark.parametrize(
    ("quality", "told"),
    [
        (UsageQuality.NONE, "estimates"),
        (UsageQuality.ESTIMATED, "estimates"),
        (UsageQuality.SPLIT_ESTIMATED, "one sum"),
    ],
)
def test_what_is_not_counted_will_be_estimated(quality: UsageQuality, told: str) -> None:
    assert told in words(found(quality=quality))


def test_a_failure_without_a_usage_says_nothing_of_accounts() -> None:
    assert "estimates" not in words(failed(ErrorClass.AUTH, status=401, priced=False))


def test_a_bill_apart_from_the_price_list_is_told() -> None:
    assert "billed $0.0912" in words(found(billed_usd=Decimal("0.0912")))
    assert "billed" not in words(found(billed_usd=Decimal("0.0460"))), "within a tenth"


def test_a_model_without_a_price_is_given_one_in_a_job_file() -> None:
    told = words(found(priced=False, cost_usd=None))
    assert '[models."gemini-3.1-flash-image-preview"] price = {' in told


def test_words_only_are_met_with_modalities_that_do_not_lose_what_was_asked() -> None:
    silent = failed(ErrorClass.NO_IMAGE, status=200)
    assert settings(silent) == {"image_options": "modalities"}
    assert settings(failed(ErrorClass.NO_IMAGE, status=200, aspect_ratio="16:9")) == {
        "image_options": "openrouter"
    }
    for way in (ImageOptions.MODALITIES, ImageOptions.OPENROUTER):
        assert settings(failed(ErrorClass.NO_IMAGE, status=200, image_options=way)) == {}


def test_a_rejected_request_may_be_so_for_how_it_asks_for_sizes() -> None:
    assert settings(failed(ErrorClass.BAD_REQUEST)) == {"image_options": "none"}
    assert settings(failed(ErrorClass.BAD_REQUEST, own_size=False)) == {"image_options": "openrouter"}
    assert settings(failed(ErrorClass.BAD_REQUEST, image_size=None)) == {}
    assert settings(failed(ErrorClass.BAD_REQUEST, status=307)) == {}, "a redirect is not about sizes"


@pytest.mark.parametrize("status", [504, 522, 524])
def test_a_proxy_that_gave_up_is_met_with_a_stream(status: int) -> None:
    assert settings(failed(ErrorClass.TRANSIENT, status=status)) == {"stream": True}
    assert settings(failed(ErrorClass.TRANSIENT, status=status, stream=True)) == {}


def test_a_timeout_of_ours_is_doubled_within_what_a_job_takes() -> None:
    late = {"status": None, "latency": 400.0, "timeout": 400.0}
    assert settings(failed(ErrorClass.UNCERTAIN, **late)) == {"timeout": 800.0}
    assert settings(failed(ErrorClass.UNCERTAIN, **{**late, "latency": 1.0})) == {}, "it was cut, not late"
    assert settings(failed(ErrorClass.UNCERTAIN, **{**late, "timeout": 86_400.0, "latency": 86_400.0})) == {
        "timeout": 86_400.0
    }


def test_a_wait_that_the_endpoint_names_is_told() -> None:
    assert "wait 22 s" in words(failed(ErrorClass.RATE, status=429, retry_after=21.7))


def test_a_named_limit_becomes_a_pace() -> None:
    assert "--rpm 60 " in words(found(headers={"x-ratelimit-limit-requests": "60"}))
    assert "--rpm" not in words(found(headers={"x-ratelimit-limit-requests": "60/min"}))
    assert "--rpm" not in words(found(headers={"x-ratelimit-limit-requests": "0"}))


def test_a_slow_answer_says_how_many_fit_into_a_minute_and_when_to_stream() -> None:
    assert "--concurrency 8 makes about 40 a minute" in words(found(latency=12.0, concurrency=8))
    assert settings(found(latency=120.0)) == {"stream": True}
    assert settings(found(latency=120.0, stream=True, streamed=True)) == {}
    assert settings(found(latency=50.0, timeout=60.0)) == {"timeout": 120.0}


def test_a_model_that_is_not_listed_or_goes_by_another_name_is_told() -> None:
    assert "is not in the endpoint's list of models, but it answers" in words(found(listed=False))
    assert "so check --model" in words(failed(ErrorClass.TRANSIENT, listed=False))
    assert "another-model" in words(found(echoed="another-model"))
    assert advice(found(echoed="models/Gemini-3.1-flash-image-preview")) == ()


def test_links_drafts_and_an_ignored_stream_are_told() -> None:
    assert "as links" in words(found(link="https://cdn.example/x.png"))
    assert "drafts/" in words(found(drafts=1))
    assert "ignored" in words(found(stream=True))
    assert "ignored" in words(failed(ErrorClass.NO_IMAGE, status=200, stream=True))


@pytest.mark.parametrize("kind", [ErrorClass.UNCERTAIN, ErrorClass.BAD_ANSWER])
def test_of_an_answer_that_was_not_read_nobody_knows_whether_it_was_a_stream(kind: ErrorClass) -> None:
    assert "ignored" not in words(failed(kind, status=200, stream=True))


def test_words_alone_are_no_sum_with_a_picture() -> None:
    counted = failed(ErrorClass.BLOCKED, status=200, quality=UsageQuality.SPLIT_ESTIMATED, total_tokens=17)
    assert "one sum" not in words(counted)


def test_words_that_were_expected_need_no_picture() -> None:
    assert advice(found(**FAILED | {"quality": UsageQuality.DETAILED, "expect": Expect.TEXT})) == ()


@given(
    st.builds(
        found,
        kind=st.none() | st.sampled_from(ErrorClass),
        image_options=st.sampled_from(ImageOptions),
        dialect=st.sampled_from(["chat", "gemini", "images"]),
        given_url=st.booleans(),
        size_ok=st.none() | st.booleans(),
        quality=st.sampled_from(UsageQuality),
        status=st.none() | st.sampled_from([200, 400, 429, 524]),
        latency=st.floats(0, 90_000),
        timeout=st.floats(0.001, 86_400),
        aspect_ratio=st.none() | st.just("16:9"),
        own_size=st.booleans(),
        stream=st.booleans(),
    )
)
def test_whatever_is_advised_a_job_takes(findings: Findings) -> None:
    for one in advice(findings):
        assert isinstance(one, Advice)
        if "dialect" not in one.settings:
            assert isinstance(resolve("prompts.csv", one.settings), Job)
        assert one.text.endswith((".", "}"))
