"""Every error body a gateway is known to send means one thing, and its message is fit for people."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.dialects.failures import classify, plain
from batchgen.records import ErrorClass, Failure

NOW = 1_800_000_000.0
QUOTA = "You exceeded your current quota, please check your plan and billing details."


def failure(status: int, body: object = b"", **headers: str) -> Failure:
    return classify(status, {name.replace("_", "-"): value for name, value in headers.items()}, body, now=NOW)


def openai(message: str, code: object = None, kind: str = "new_api_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": "", "code": code}}


def google(code: int, message: str, status: str, *details: object) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


def quota(*ids: str, delay: str = "22s", **more: str) -> list[dict[str, Any]]:
    violations = [{"quotaId": name, "quotaDimensions": {"model": "gemini"}, **more} for name in ids]
    return [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": violations},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay},
    ]


def litellm(quoted: object, error: str = "BadRequestError: GeminiException", *, route: bool = True) -> object:
    """What LiteLLM's proxy (1.106) makes of an upstream's error, in text or JSON."""
    said = quoted if isinstance(quoted, str) else json.dumps(quoted)
    tail = "\n\nLiteLLM: model group 'm' failed with the error above. No fallback was attempted."
    return openai(f"litellm.{error} - {said}{tail if route else ''}", "400", "invalid_request_error")


DAY = "GenerateRequestsPerDayPerProjectPerModel"
MINUTE = "GenerateRequestsPerMinutePerProjectPerModel"

CASES: list[tuple[int, object, ErrorClass]] = [
    # The endpoint cannot return pictures.
    (400, openai("Unhandled generated data mime type: image/jpeg"), ErrorClass.ENDPOINT_INCAPABLE),
    (
        400,
        [
            google(
                400,
                "Image generation is not yet supported on the chat.completions endpoint",
                "INVALID_ARGUMENT",
            )
        ],
        ErrorClass.ENDPOINT_INCAPABLE,
    ),
    (
        400,
        openai("Model does not support the requested response modalities: image"),
        ErrorClass.ENDPOINT_INCAPABLE,
    ),
    (500, openai("Unhandled generated data mime type: image/png"), ErrorClass.ENDPOINT_INCAPABLE),
    # Keys.
    (401, openai("Invalid token"), ErrorClass.AUTH),
    (401, b"", ErrorClass.AUTH),
    (403, google(403, "Permission denied on resource", "PERMISSION_DENIED"), ErrorClass.AUTH),
    (
        400,
        [google(400, "API key not valid. Please pass a valid API key.", "INVALID_ARGUMENT")],
        ErrorClass.AUTH,
    ),
    (400, google(400, "Bad.", "INVALID_ARGUMENT", {"reason": "API_KEY_INVALID"}), ErrorClass.AUTH),
    (
        400,
        google(400, "API key expired.", "INVALID_ARGUMENT", {"reason": "API_KEY_INVALID"}),
        ErrorClass.AUTH,
    ),
    # Accounts.
    (
        400,
        google(400, "User location is not supported for the API use.", "FAILED_PRECONDITION"),
        ErrorClass.ACCOUNT,
    ),
    (
        429,
        google(
            429,
            f"{QUOTA} * Quota exceeded for metric: generate_content_free_tier_requests, limit: 0, model: x",
            "RESOURCE_EXHAUSTED",
            *quota(f"{DAY}-FreeTier"),
        ),
        ErrorClass.ACCOUNT,
    ),
    (
        429,
        google(429, QUOTA, "RESOURCE_EXHAUSTED", *quota(f"{MINUTE}-FreeTier", quotaValue="0")),
        ErrorClass.ACCOUNT,
    ),
    # Money.
    (402, b"", ErrorClass.CREDITS),
    (402, {"error": "Insufficient funds"}, ErrorClass.CREDITS),
    (
        403,
        openai("User quota is not enough (request id: 20251211)", "insufficient_user_quota"),
        ErrorClass.CREDITS,
    ),
    (403, openai("x", "pre_consume_token_quota_failed"), ErrorClass.CREDITS),
    (403, openai("用户额度不足, 剩余额度: 0"), ErrorClass.CREDITS),
    (403, openai("크레딧이 부족합니다"), ErrorClass.CREDITS),
    (403, openai("Your credits are used up"), ErrorClass.CREDITS),
    (429, openai(QUOTA, "insufficient_quota", "insufficient_quota"), ErrorClass.CREDITS),
    (500, openai("Your credit balance is too low"), ErrorClass.CREDITS),
    (401, openai("该令牌额度已用尽"), ErrorClass.CREDITS),
    # Rates and quotas: a minute's, a day's, the endpoint's own capacity.
    (429, b"", ErrorClass.RATE),
    (429, b"<html>429 Too Many Requests</html>", ErrorClass.RATE),
    (429, google(429, QUOTA, "RESOURCE_EXHAUSTED"), ErrorClass.RATE),
    (429, google(429, QUOTA, "RESOURCE_EXHAUSTED", *quota(MINUTE)), ErrorClass.RATE),
    (
        429,
        google(429, "Quota exceeded for metric x, limit: 10, free_tier", "RESOURCE_EXHAUSTED"),
        ErrorClass.RATE,
    ),
    (429, google(429, "limit: 0.5 free_tier", "RESOURCE_EXHAUSTED"), ErrorClass.RATE),
    (429, google(429, QUOTA, "RESOURCE_EXHAUSTED", *quota(f"{DAY}-FreeTier")), ErrorClass.DAILY_QUOTA),
    (429, google(429, QUOTA, "RESOURCE_EXHAUSTED", *quota(MINUTE, DAY)), ErrorClass.DAILY_QUOTA),
    (
        429,
        google(429, QUOTA + " See your daily usage.", "RESOURCE_EXHAUSTED", *quota(MINUTE)),
        ErrorClass.RATE,
    ),
    (
        429,
        {
            "error": {
                "message": QUOTA,
                "details": [
                    {
                        "reason": "RATE_LIMIT_EXCEEDED",
                        "metadata": {"quota_limit": "GenerateContentRequestsPerDayPerProject"},
                    }
                ],
            }
        },
        ErrorClass.DAILY_QUOTA,
    ),
    (429, openai("limit", "entitlement_daily_limit_exceeded"), ErrorClass.DAILY_QUOTA),
    (429, openai("Rate limit exceeded: free-models-per-day"), ErrorClass.DAILY_QUOTA),
    (429, openai(json.dumps(google(429, QUOTA, "RESOURCE_EXHAUSTED", *quota(DAY)))), ErrorClass.DAILY_QUOTA),
    (
        429,
        google(429, "No capacity", "RESOURCE_EXHAUSTED", {"reason": "MODEL_CAPACITY_EXHAUSTED"}),
        ErrorClass.TRANSIENT,
    ),
    (
        503,
        google(503, "No capacity", "UNAVAILABLE", {"reason": "MODEL_CAPACITY_EXHAUSTED"}),
        ErrorClass.TRANSIENT,
    ),
    (500, google(429, QUOTA, "RESOURCE_EXHAUSTED", *quota(DAY)), ErrorClass.DAILY_QUOTA),
    (400, openai("slow down", None, "rate_limit_error"), ErrorClass.RATE),
    # Models and channels.
    (404, google(404, "models/x is not found for API version v1beta", "NOT_FOUND"), ErrorClass.MODEL),
    (404, b"<html><h1>404 Not Found</h1></html>", ErrorClass.MODEL),
    (404, b"", ErrorClass.MODEL),
    (400, openai("gemini-9 is not a valid model ID"), ErrorClass.MODEL),
    (400, openai("The model `x` does not exist", "model_not_found"), ErrorClass.MODEL),
    (
        503,
        openai("No available channel for model x under group default (distributor)", "model_not_found"),
        ErrorClass.NO_CHANNEL,
    ),
    (503, openai("No available channel for model x"), ErrorClass.NO_CHANNEL),
    (503, openai("当前分组 default 下对于模型 x 无可用渠道"), ErrorClass.NO_CHANNEL),
    # Refusals.
    (400, openai("request blocked by Gemini API: PROHIBITED_CONTENT", "prompt_blocked"), ErrorClass.BLOCKED),
    (400, openai("x", "sensitive_words_detected"), ErrorClass.BLOCKED),
    (500, openai("sensitive words detected", "sensitive_words_detected"), ErrorClass.BLOCKED),
    (
        403,
        {
            "error": {
                "code": 403,
                "message": 'x requires moderation on y. Your input was flagged for "violence"',
                "metadata": {"reasons": ["violence"], "flagged_input": "…"},
            }
        },
        ErrorClass.BLOCKED,
    ),
    # Requests.
    (400, openai("request blocked by Gemini API: SAFETY"), ErrorClass.BLOCKED),
    (400, openai("Invalid value"), ErrorClass.BAD_REQUEST),
    (400, b"", ErrorClass.BAD_REQUEST),
    (400, openai("Failed to generate a moderate image; separate the parts"), ErrorClass.BAD_REQUEST),
    (405, b"", ErrorClass.BAD_REQUEST),
    (413, b"<html>413 Request Entity Too Large</html>", ErrorClass.BAD_REQUEST),
    (418, b"", ErrorClass.BAD_REQUEST),
    (422, {"detail": [{"loc": ["body"], "msg": "field required"}]}, ErrorClass.BAD_REQUEST),
    (302, b"", ErrorClass.BAD_REQUEST),
    # Outages.
    *(
        (status, b"", ErrorClass.TRANSIENT)
        for status in (408, 409, 425, 500, 502, 503, 504, 529, *range(520, 527), 599)
    ),
    (502, b"<html><title>502 Bad Gateway</title></html>", ErrorClass.TRANSIENT),
    (503, google(503, "The model is overloaded.", "UNAVAILABLE"), ErrorClass.TRANSIENT),
    (500, openai("empty response from Gemini API", "empty_response"), ErrorClass.NO_IMAGE),
    # What LiteLLM's proxy quotes of the endpoint behind it.
    (400, litellm("API key not valid. Please pass a valid API key."), ErrorClass.AUTH),
    (
        400,
        litellm(google(400, "Bad.", "INVALID_ARGUMENT", {"reason": "API_KEY_INVALID"})),
        ErrorClass.AUTH,
    ),
    (
        400,
        litellm(google(400, "User location is not supported for the API use.", "FAILED_PRECONDITION")),
        ErrorClass.ACCOUNT,
    ),
    (
        429,
        litellm(
            google(429, QUOTA, "RESOURCE_EXHAUSTED", *quota(DAY)),
            "RateLimitError: litellm.RateLimitError: GeminiException",
        ),
        ErrorClass.DAILY_QUOTA,
    ),
    (
        429,
        litellm(
            f"Error code: 429 - {[google(429, QUOTA, 'RESOURCE_EXHAUSTED', *quota(DAY))]}",
            "RateLimitError: RateLimitError: OpenAIException",
        ),
        ErrorClass.DAILY_QUOTA,
    ),
    (400, litellm("Unhandled generated data mime type: image/jpeg"), ErrorClass.ENDPOINT_INCAPABLE),
    (400, litellm('no: "API key not valid"'), ErrorClass.BAD_REQUEST),
    (
        500,
        litellm("Invalid response object", "InternalServerError: InternalServerError: OpenAIException"),
        ErrorClass.BAD_ANSWER,
    ),
    (
        500,
        litellm(
            "litellm.APIError: LiteLLM: provider returned 'choices' that is not a list (NoneType).",
            "InternalServerError: InternalServerError: OpenAIException",
            route=False,
        ),
        ErrorClass.BAD_ANSWER,
    ),
    (
        422,
        litellm("Error converting to valid response block='parts'. File an issue if litellm error"),
        ErrorClass.BAD_ANSWER,
    ),
    (500, openai("could not draw: invalid response object"), ErrorClass.TRANSIENT),
    # Errors inside a 200: the code in the body, then its name, then its words.
    (
        200,
        {
            "error": {
                "code": 502,
                "message": "Provider returned error",
                "metadata": {"raw": '{"error":{"code":503,"status":"UNAVAILABLE"}}'},
            }
        },
        ErrorClass.TRANSIENT,
    ),
    (200, {"error": {"code": "429", "message": "x"}}, ErrorClass.RATE),
    (200, {"error": {"message": "x", "metadata": {"raw": '{"error":{"code":429}}'}}}, ErrorClass.RATE),
    (200, {"error": {"message": "x", "status": "RESOURCE_EXHAUSTED"}}, ErrorClass.RATE),
    (200, {"error": {"message": "x", "status": "UNAVAILABLE"}}, ErrorClass.TRANSIENT),
    (200, {"error": {"message": "x", "type": "authentication_error"}}, ErrorClass.AUTH),
    (200, {"error": {"message": "x", "code": "model_not_found"}}, ErrorClass.MODEL),
    (200, {"error": {"message": "Your input was flagged"}}, ErrorClass.BLOCKED),
    (200, {"error": {"message": "Invalid API key"}}, ErrorClass.AUTH),
    (200, {"error": {"message": "no available channel"}}, ErrorClass.NO_CHANNEL),
    (200, {"error": {"message": "high demand, come back"}}, ErrorClass.TRANSIENT),
    (200, {"error": {"message": "something"}}, ErrorClass.BAD_ANSWER),
    (200, {"error": {"code": 200, "message": "something"}}, ErrorClass.BAD_ANSWER),
]


IDS = [f"{status}-{kind}-{number}" for number, (status, _, kind) in enumerate(CASES)]


@pytest.mark.parametrize(("status", "body", "kind"), CASES, ids=IDS)
def test_an_error_is_classified_by_status_then_code_then_words(
    status: int, body: object, kind: ErrorClass
) -> None:
    result = failure(status, body)
    assert result.kind is kind, result
    assert result.http_status == status
    assert 0 < len(result.message) <= 500
    if isinstance(body, dict | list):
        assert failure(status, json.dumps(body).encode()).kind is kind
        assert failure(status, json.dumps(body)).kind is kind


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize(
    "prompt",
    [
        "a poster: your credit balance is too low",
        "a sign that says API key not valid",
        "a fashion model not found anywhere",
        "a map, user location is not supported",
        "잔액",
        "requests per day, daily limit: 0, free tier",
    ],
)
def test_the_words_of_one_row_that_a_rejection_quotes_do_not_stop_the_run(status: int, prompt: str) -> None:
    assert failure(status, openai(f"Invalid prompt: {prompt!r}")).kind is ErrorClass.BAD_REQUEST


def test_a_daily_quota_is_believed_when_it_names_hours() -> None:
    daily = google(429, QUOTA, "RESOURCE_EXHAUSTED", *quota(DAY))
    assert failure(429, daily, retry_after="20000").retry_after == 20_000


def test_a_daily_quota_names_no_delay_and_a_minutes_quota_does() -> None:
    assert (
        failure(429, google(429, QUOTA, "RESOURCE_EXHAUSTED", *quota(DAY)), retry_after="5").retry_after
        is None
    )
    assert (
        failure(429, google(429, QUOTA, "RESOURCE_EXHAUSTED", *quota(MINUTE)), retry_after="5").retry_after
        == 22
    )
    assert failure(503, b"", retry_after="7").retry_after == 7


def test_an_exhausted_model_names_its_delay() -> None:
    detail = {"reason": "MODEL_CAPACITY_EXHAUSTED", "metadata": {"quotaResetDelay": "373.8ms"}}
    result = failure(429, google(429, "No capacity", "RESOURCE_EXHAUSTED", detail))
    assert result.kind is ErrorClass.TRANSIENT
    assert result.retry_after == pytest.approx(0.3738)


# Messages


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (openai("Bad size (request id: 2025abc)"), "Bad size (request id: 2025abc)"),
        ({"error": "Bad size"}, "Bad size"),
        ({"message": "Bad size"}, "Bad size"),
        ({"detail": "Bad size"}, "Bad size"),
        ({"detail": [{"loc": ["body", 0], "msg": "Bad size"}]}, "Bad size"),
        ({"code": 400, "msg": "Bad size"}, "Bad size"),
        ([google(400, "Bad size", "INVALID_ARGUMENT")], "Bad size"),
        (openai('upstream said: {"error": {"message": "Bad size", "code": 400}}'), "upstream said: Bad size"),
        (
            {
                "error": {
                    "message": "Provider returned error",
                    "metadata": {"raw": '[{"error":{"message":"Bad size"}}]'},
                }
            },
            "Provider returned error: Bad size",
        ),
        (b"<html><head><style>p {color: red}</style></head><p>Bad&nbsp;size</p></html>", "Bad&nbsp;size"),
        (openai("Bad\x1b[31m \u202esize\n\tnow\x00"), "Bad [31m size now"),
        (openai("a < b and c > d"), "a < b and c > d"),
        (b"", "HTTP 400 Bad Request"),
        ({"error": {"code": "bad_size"}}, "HTTP 400 Bad Request (bad_size)"),
    ],
)
def test_the_message_is_what_the_body_says_to_people(body: object, message: str) -> None:
    assert failure(400, body).message == message


def test_a_message_quoted_by_litellm_is_told_without_its_wrapping() -> None:
    quoted = google(400, "User location is not supported for the API use.", "FAILED_PRECONDITION")
    assert failure(400, litellm(quoted)).message == "User location is not supported for the API use."
    assert failure(400, litellm("Invalid value"), x_litellm_call_id="call-1").request_id == "call-1"


def test_a_long_message_is_cut_and_keeps_its_request_id() -> None:
    result = failure(400, openai("word " * 1000 + "(request id: 20251211abc)"))
    assert 490 < len(result.message) <= 500
    assert result.message.endswith("…")
    assert result.request_id == "20251211abc"


def test_an_incapable_endpoint_is_told_with_advice_that_is_never_cut() -> None:
    result = failure(400, openai("Unhandled generated data mime type: image/jpeg " + "x " * 500))
    assert result.message.endswith("; --dialect gemini asks in Gemini's own")
    assert len(result.message) <= 500


def test_a_404_that_names_no_model_points_to_the_base_url_too() -> None:
    assert failure(404, b"<h1>nginx</h1>").message == "nginx; check the base URL and the model"
    assert failure(404, google(404, "models/x is not found", "NOT_FOUND")).message == "models/x is not found"


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("https://www.example.com/login?key=secret", "www.example.com"),
        ("/login", "another path"),
        ("https://[", "an unreadable address"),
        ("", "another path"),
    ],
)
def test_a_redirect_names_its_host_and_no_more(location: str, told: str) -> None:
    message = failure(301, b"", location=location).message
    assert f"redirected to {told};" in message
    assert "secret" not in message


def test_an_unknown_status_is_told_by_its_number() -> None:
    assert failure(599).message == "HTTP 599"


# Keys


def test_what_looks_like_a_key_is_hidden_before_a_message_is_cut() -> None:
    for form in ("Incorrect API key provided: {}.", "x" * 490 + " {}"):
        text = form.format("sk-abcdef1234567890")
        for told in (plain(text), failure(401, openai(text)).message):
            assert "abcdef" not in told


@given(st.text(max_size=300), st.integers(1, 50))
def test_a_plain_line_is_printable_and_short(text: str, longest: int) -> None:
    line = plain(text, longest)
    assert len(line) <= longest
    assert line.isprintable()


def test_error_bodies_that_nest_without_end_are_read() -> None:
    nested: Any = "deep"
    for _ in range(200):
        nested = {"error": [nested]}
    assert failure(400, nested).kind is ErrorClass.BAD_REQUEST
    quoted = "deep"
    for _ in range(8):
        quoted = json.dumps({"message": quoted})
    assert failure(400, quoted).kind is ErrorClass.BAD_REQUEST
    assert failure(400, {"error": {"message": ["x"] * 100_000}}).message == "x"
