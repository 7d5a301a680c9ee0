"""What headers say of limits is read in every vendor's way, and nonsense says nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchgen.dialects.quotas import read
from batchgen.records import Quota
from batchgen.simulator.quota import STYLES, Bucket

NOW = 1_800_000_000.0
"""2027-01-15T08:00:00Z."""


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        (
            {
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-remaining-requests": "59",
                "x-ratelimit-reset-requests": "1s",
            },
            [Quota(limit=60, window=60, remaining=59, reset=1)],
        ),
        (
            {"x-ratelimit-limit-requests": "200", "x-ratelimit-reset-requests": "7m12s"},
            [Quota(limit=200, reset=432)],
        ),
        (
            {"x-ratelimit-limit-tokens": "150000", "x-ratelimit-remaining-tokens": "0"},
            [Quota(limit=150_000, remaining=0, of_requests=False)],
        ),
        ({"x-ratelimit-limit-images": "5"}, [Quota(limit=5, window=60)]),
        ({"x-ratelimit-limit-input-images": "5"}, [Quota(limit=5, of_requests=False)]),
        (
            {"x-ratelimit-limit-requests": "5000", "llm_provider-x-ratelimit-limit-requests": "900"},
            [Quota(limit=5000, window=60), Quota(limit=900, window=60)],
        ),
        (
            {"x-ratelimit-api_key-limit-requests": "90", "x-ratelimit-api_key-remaining-requests": "3"},
            [Quota(limit=90, window=60, remaining=3)],
        ),
        (
            {
                "anthropic-ratelimit-requests-limit": "50",
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2027-01-15T08:00:30Z",
            },
            [Quota(limit=50, window=60, remaining=0, reset=30)],
        ),
        (
            {"ratelimit": "limit=100, remaining=50, reset=30", "ratelimit-policy": "100;w=60;comment=x"},
            [Quota(limit=100, remaining=50, reset=30), Quota(limit=100, window=60)],
        ),
        (
            {"ratelimit": '"a";r=50;t=30, "b";r=0;t=5', "ratelimit-policy": '"a";q=100;w=60, "b";q=9;w=1'},
            [
                Quota(remaining=50, reset=30),
                Quota(remaining=0, reset=5),
                Quota(limit=100, window=60),
                Quota(limit=9, window=1),
            ],
        ),
        (
            {"ratelimit-policy": '"p";q=65535;qu="content-bytes";w=10'},
            [Quota(limit=65_535, window=10, of_requests=False)],
        ),
        (
            {"x-ratelimit-limit": "100, 100;window=60, 9000;window=86400", "x-ratelimit-remaining": "98"},
            [
                Quota(limit=100, window=60, remaining=98),
                Quota(limit=100, window=60),
                Quota(limit=9000, window=86_400),
            ],
        ),
        (
            {
                "x-ratelimit-limit": "5000",
                "x-ratelimit-remaining": "0",
                "x-ratelimit-reset": str(int(NOW + 40)),
            },
            [Quota(limit=5000, remaining=0, reset=40)],
        ),
        ({"x-rate-limit-reset": str(int((NOW - 5) * 1000))}, [Quota(reset=0)]),
        ({"x-ratelimit-limit-requests": "1" + "0" * 30}, [Quota(window=60)]),
        (
            {
                "x-ratelimit-limit-requests": "0.5",
                "x-ratelimit-remaining-requests": "-1",
                "x-ratelimit-reset-requests": "soon",
            },
            [Quota(window=60)],
        ),
        ({"content-type": "a", "x-limit": "5", "x-request-id": "ratelimit-limit"}, []),
    ],
)
def test_every_vendor_s_way_of_naming_a_limit_is_read(headers: dict[str, str], said: list[Quota]) -> None:
    assert set(read(headers, now=NOW)) == set(said)


NAMES = st.builds(
    "{}{}limit{}".format,
    st.sampled_from(["", "x-", "anthropic-", "llm_provider-x-", "a-b-"]),
    st.sampled_from(["rate", "rate-"]),
    st.sampled_from(
        ["", "-policy", "-limit", "-remaining-requests", "-requests-reset", "-reset", "-limit-tokens"]
    ),
)
NUMBERS = st.floats() | st.integers()
VALUES = (
    st.text(max_size=30)
    | st.floats().map(str)
    | st.integers().map(str)
    | st.datetimes().map(str)
    | st.builds(
        '"a";{}={};w={}, limit={}'.format, st.sampled_from("qrtw"), *[st.floats() | st.integers()] * 3
    )
    | st.sampled_from(["1e308", "9" * 400, "nan", "-0", "999999999999999h" * 6, "9999-12-31T23:59:59-23:59"])
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(NAMES, VALUES, max_size=6))
def test_whatever_is_said_what_is_read_of_it_is_sensible(headers: dict[str, str]) -> None:
    for quota in read(headers, now=NOW):
        assert quota.limit is None or 1 <= quota.limit <= 1e9
        assert quota.window is None or 1 <= quota.window <= 1e9
        assert quota.remaining is None or 0 <= quota.remaining <= 1e9
        assert quota.reset is None or (quota.reset >= 0 and math.isfinite(quota.reset))


@pytest.mark.parametrize("style", ["openai", "ietf"])
@pytest.mark.parametrize("taken", [0, 1, 90])
def test_what_the_simulator_says_is_read_as_it_is(style: str, taken: int) -> None:
    bucket = Bucket(60, 90)
    bucket.wait(0.0)
    for _ in range(taken):
        bucket.take()
    quotas = read(STYLES[style]({"requests": bucket}), now=NOW)
    assert [(quota.limit, quota.window) for quota in quotas if quota.limit] == [(60, 60)]
    assert [quota.remaining for quota in quotas if quota.remaining is not None] == [90 - taken]
    assert [quota.reset for quota in quotas if quota.reset is not None] == [taken]
