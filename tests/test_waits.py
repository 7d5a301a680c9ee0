"""The wait an endpoint asks for is found wherever it is told, in any unit, and has an upper bound."""

from __future__ import annotations

import math
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.dialects.waits import LONGEST, reset_after, retry_after

NOW = 1_800_000_000.0


def told(headers: dict[str, str], text: str = "", *, status: int = 429) -> float | None:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return retry_after(status, names, text, now=NOW)


def wait(text: str = "", *, status: int = 429, **headers: str) -> float | None:
    return retry_after(
        status, {name.replace("_", "-"): value for name, value in headers.items()}, text, now=NOW
    )


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, 7),
        ({"retry_after": " 1.5 "}, 1.5),
        ({"retry_after": formatdate(NOW + 90, usegmt=True)}, 90),
        ({"retry_after": formatdate(NOW + 90)}, 90),
        ({"retry_after": formatdate(NOW - 90, usegmt=True)}, 0),
        ({"retry_after_ms": "250"}, 0.25),
        ({"x_retry_after_ms": "250"}, 0.25),
        ({"retry_after": "1", "retry_after_ms": "2500"}, 2.5),
        ({"x_ratelimit_reset": "30"}, 30),
        ({"x_ratelimit_reset_requests": "6m0s"}, 360),
        ({"x_ratelimit_reset_tokens": "1.5s"}, 1.5),
        ({"x_ratelimit_reset_tokens": "250ms"}, 0.25),
        ({"x_ratelimit_reset": str(NOW + 40)}, 40),
        ({"x_ratelimit_reset": str(int((NOW + 40) * 1000))}, 40),
        ({"x_ratelimit_reset": "2027-01-15T08:00:50Z"}, 50),
        ({"x_ratelimit_reset": "2027-01-15T08:00:50"}, 50),
        ({"ratelimit_reset": "12"}, 12),
        ({"x_ratelimit_reset": "30", "x_ratelimit_remaining": "0"}, 30),
    ],
)
def test_headers_tell_the_wait_in_their_several_ways(headers: dict[str, str], seconds: float) -> None:
    assert told(headers) == pytest.approx(seconds)


@pytest.mark.parametrize("name", ["retry-after", "x-ratelimit-reset"])
def test_a_gateway_passes_on_the_wait_of_the_endpoint_behind_it(name: str) -> None:
    assert retry_after(429, {f"llm_provider-{name}": "7"}, "", now=NOW) == 7


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"retry_after": ""},
        {"retry_after": "soon"},
        {"retry_after": "-5"},
        {"retry_after": "nan"},
        {"retry_after": "Wed, 99 Xyz 2026 99:99:99 GMT"},
        {"x_ratelimit_reset": "30", "x_ratelimit_remaining": "5"},
        {"x_ratelimit_reset_tokens": "30", "x_ratelimit_remaining_tokens": "5"},
        {"x_ratelimit_reset": "never"},
        {"x_ratelimit_reset": ""},
    ],
)
def test_what_says_nothing_is_no_wait(headers: dict[str, str]) -> None:
    assert told(headers) is None


def test_reset_headers_count_on_a_429_only() -> None:
    assert wait(status=503, x_ratelimit_reset="30") is None
    assert wait(status=503, retry_after="30") == 30


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("retryDelay: 22s", 22),
        ('"retryDelay": "600.5s"', 600.5),
        (r"{\"retryDelay\": \"22s\"}", 22),
        ("retrydelay: 45.837906927s", 45.837906927),
        ("quotaResetDelay: 373.8ms", 0.3738),
        ("quotaResetDelay: 1m30s", 90),
        ("Please retry in 38.6s.", 38.6),
        ("Please retry in 250ms", 0.25),
        ("Please retry in 250 milliseconds", 0.25),
        ("please try again after 51.84 seconds", 51.84),
        ("Try again in 2 minutes", 120),
        ("Please try again in 6m0s.", 360),
        ("Please try again in 1h", 900),
        ("try again in 20", 20),
        ("retry in 5s; retry after 9 sec", 9),
        ("retry after 2 hours", 900),
    ],
)
def test_bodies_tell_the_wait_in_their_several_ways(text: str, seconds: float) -> None:
    assert wait(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "retry later", "retried in 5s flat", "retryDelay: soon", "in 5 seconds"]
)
def test_other_words_tell_no_wait(text: str) -> None:
    assert wait(text) is None


def test_the_longest_wait_counts_up_to_a_quarter_of_an_hour() -> None:
    assert wait("retryDelay: 22s", retry_after="5") == 22
    assert wait("retryDelay: 22s", retry_after="50") == 50
    assert wait("retryDelay: 86400s") == LONGEST == 900


@given(
    st.integers(100, 599),
    st.dictionaries(
        st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset", "x-ratelimit-remaining"]),
        st.text(max_size=20) | st.floats().map(str) | st.integers().map(str) | st.datetimes().map(str),
    ),
    st.text(max_size=40) | st.from_regex(r"retryDelay: [0-9.]{1,30}(s|ms|h)"),
)
def test_a_wait_is_always_sensible(status: int, headers: dict[str, str], text: str) -> None:
    seconds = retry_after(status, headers, text, now=NOW)
    assert seconds is None or (math.isfinite(seconds) and 0 <= seconds <= LONGEST)


@pytest.mark.parametrize(
    ("text", "headers", "seconds"),
    [
        ("retryDelay: 38s", {}, None),
        ("Please retry in 6h12m", {}, 6.2 * 3600),
        ("retryDelay: 38s; retryDelay: 45000s", {}, 45_000),
        ("", {"retry-after": "7200"}, 7200),
        ("", {"retry-after": "900"}, None),
        ("", {"x-ratelimit-reset": str((NOW + 30_000) * 1000), "x-ratelimit-remaining": "0"}, 30_000),
        ("retryDelay: 90000s", {}, 90_000),
        ("retryDelay: 90001s", {}, None),
        ("retry in 3 days", {}, None),
    ],
)
def test_only_a_plausible_end_of_a_day_s_quota_is_believed(
    text: str, headers: dict[str, str], seconds: float | None
) -> None:
    found = reset_after(429, headers, text, now=NOW)
    assert found == (None if seconds is None else pytest.approx(seconds))
