"""
What does an error answer mean?

The order of trust: the HTTP status, then structured codes, then words. Words are matched as words: "generate"
is no rate. The sources are the error pages of the vendors, such as
https://ai.google.dev/gemini-api/docs/troubleshooting and
https://openrouter.ai/docs/api/reference/errors-and-debugging, and the gateways' own code.
"""

from __future__ import annotations

import http
import re
import urllib.parse
from typing import TYPE_CHECKING

from batchgen.dialects import waits
from batchgen.dialects.facts import Facts, decoded, dissect
from batchgen.dialects.lenient import string
from batchgen.records import ErrorClass, Failure
from batchgen.redaction import without_likely_keys

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_MESSAGE = 500

_LONGEST_TEXT = 20_000
# Where a body names no number: the status that its code stands for.
_STATUS_OF_CODE = {
    "resource_exhausted": 429,
    "rate_limited": 429,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    "unauthenticated": 401,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "permission_denied": 403,
    "permission_error": 403,
    "insufficient_user_quota": 403,
    "pre_consume_token_quota_failed": 403,
    "not_found": 404,
    "not_found_error": 404,
    "model_not_found": 404,
    "invalid_argument": 400,
    "failed_precondition": 400,
    "invalid_request_error": 400,
    "prompt_blocked": 400,
    "sensitive_words_detected": 400,
    "content_policy_violation": 400,
    "unavailable": 503,
    "overloaded_error": 503,
    "internal": 500,
    "server_error": 500,
    "api_error": 500,
    "empty_response": 500,
    "deadline_exceeded": 504,
}
_CREDIT_CODES = {
    "insufficient_quota",
    "insufficient_user_quota",
    "pre_consume_token_quota_failed",
    "billing_hard_limit_reached",
}
_QUOTING = {400, 404, 413, 422}
"""Rejections of the request itself, whose messages may quote it."""
_RATE_CODES = {"resource_exhausted", "rate_limit_exceeded", "rate_limited", "rate_limit_error"}
_BLOCK_CODES = {
    "prompt_blocked",
    "sensitive_words_detected",
    "content_policy_violation",
    "content_filter",
    "moderation_blocked",
}

_INCAPABLE = re.compile(
    r"unhandled generated data mime type|not yet supported on the chat\.completions endpoint"
    r"|does not support the requested response modalit"
)
_CREDITS = re.compile(
    r"\binsufficient (?:funds|balance|credits?|user quota)\b|\bcredit balance\b"
    r"|\bbalance is (?:too low|not enough)|\buser quota is not enough"
    r"|\bnot enough credits?\b|\bout of credits?\b|\bno credits\b"
    r"|额度不足|额度已用尽|余额不足|欠费|크레딧|잔액"
)
_CREDIT_WORDS = re.compile(r"\bcredits?\b|\bbalance\b|额度|余额")
_BLOCKED = re.compile(
    r"request blocked by gemini api|\binput was flagged\b|\brequires moderation\b|prohibited_content"
    r"|\brejected (?:by the|as a result of our) safety system\b"
)
# At the start of a message only: a 400 may quote the prompt, and one row's words must not stop the run.
_BAD_KEY = re.compile(
    r"^\w*: (?:api[_ ]key[_ ](?:not valid|invalid|expired)\b|invalid api key\b)", re.MULTILINE
)
_LOCATION = re.compile(
    r"^\w*: (?:user location is not supported\b|billing (?:is )?(?:not enabled|disabled)\b)", re.MULTILINE
)
_NO_CHANNEL = re.compile(r"\bno available channel\b|无可用渠道")
_NO_MODEL = re.compile(r"^\w*: \S+ is not a valid model\b", re.MULTILINE)
_MODEL_NAMED = re.compile(r"\bmodels?\b|not_found")
_PER_DAY = re.compile(r"per[-_ ]?day|\bdaily\b|entitlement_daily_limit_exceeded")
_NO_FREE = re.compile(r"\b(?:limit|quotavalue|quota_limit_value): ?0(?![.\d])")
_FREE_TIER = re.compile(r"free[-_ ]?tier")
_OVERLOADED = re.compile(r"\boverloaded\b|\bhigh demand\b|\btemporarily unavailable\b")

_TAG = re.compile(r"<(script|style)\b.*?(?:</\1\s*>|$)|</?[a-zA-Z!][^<>]*>", re.DOTALL | re.IGNORECASE)
_REQUEST_ID = re.compile(r"\brequest[ _-]?id:?\s*([\w.-]{5,79}\w)", re.IGNORECASE)
_ADVICE = {
    ErrorClass.ENDPOINT_INCAPABLE: "this endpoint generates pictures but cannot return them on chat"
    " completions; another base URL or provider is needed",
    ErrorClass.MODEL: "check the base URL and the model",
}


def classify(status: int, headers: Mapping[str, str], body: object, *, now: float) -> Failure:
    """
    Read an error answer of any shape.

    :param status: HTTP status; a 2xx is overruled by the code in the body.
    :param headers: Names in lower case.
    :param body: The decoded JSON, or the text or bytes when it is none.
    :param now: Seconds since 1970.
    """
    value = decoded(body)
    said = dissect(value)
    meant = status if status >= 300 else said.status or _status_of_codes(said.codes)
    kind = _kind(meant, said)
    stated = waits.reset_after if kind is ErrorClass.DAILY_QUOTA else waits.retry_after
    return Failure(
        kind=kind,
        message=_message(status, headers, kind, said),
        http_status=status,
        retry_after=stated(meant, headers, said.words, now=now),
        request_id=request_id(headers, value, said.message),
    )


def plain(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """One printable line for people: no tags, no control characters, no keys."""
    text = _TAG.sub(" ", text[:_LONGEST_TEXT])
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    line = without_likely_keys(line)
    return line if len(line) <= longest else line[: longest - 1] + "…"


def request_id(headers: Mapping[str, str], body: object, message: str = "") -> str | None:
    """The id under which the endpoint knows the request."""
    named = [headers.get(name, "") for name in ("x-request-id", "request-id")]
    quoted = _REQUEST_ID.search(message)
    named.append(quoted[1] if quoted is not None else "")
    if isinstance(body, dict):
        named += [string(body.get(key)) for key in ("id", "responseId", "request_id")]
    named.append(headers.get("cf-ray", ""))
    return next(filter(None, (plain(name, 200) for name in named)), None)


def _status_of_codes(codes: frozenset[str]) -> int:
    return next((status for code, status in _STATUS_OF_CODE.items() if code in codes), 0)


def _kind(status: int, facts: Facts) -> ErrorClass:
    telling = _telling(status, facts)
    if telling is not None:
        return telling
    if 300 <= status < 400:
        kind = ErrorClass.BAD_REQUEST
    elif status == 429 or (facts.codes & _RATE_CODES and status not in {401, 403, 404}):
        kind = _kind_of_429(facts)
    elif status in {401, 403}:
        kind = _kind_of_denial(status, facts)
    elif status in {408, 409, 425} or status >= 500:
        kind = _kind_of_outage(facts)
    elif status >= 400:
        kind = _kind_of_rejection(status, facts)
    else:
        kind = _kind_by_words(facts)
    return kind


def _telling(status: int, facts: Facts) -> ErrorClass | None:
    """Recognise what gateways send under several statuses and what means one thing under all of them."""
    if status not in {401, 403, 429} and _INCAPABLE.search(facts.words):
        return ErrorClass.ENDPOINT_INCAPABLE
    if status == 402 or facts.codes & _CREDIT_CODES:
        return ErrorClass.CREDITS
    if status not in _QUOTING and _CREDITS.search(facts.words):
        return ErrorClass.CREDITS
    return ErrorClass.BLOCKED if facts.codes & _BLOCK_CODES else None


def _kind_of_429(facts: Facts) -> ErrorClass:
    if "model_capacity_exhausted" in facts.words:
        return ErrorClass.TRANSIENT
    if _NO_FREE.search(facts.words) and _FREE_TIER.search(facts.words):
        return ErrorClass.ACCOUNT
    # A daily violation still carries a retry delay of seconds. Quotas that are named are believed over prose.
    if _PER_DAY.search(facts.quotas if "per" in facts.quotas else facts.words):
        return ErrorClass.DAILY_QUOTA
    return ErrorClass.RATE


def _kind_of_denial(status: int, facts: Facts) -> ErrorClass:
    if status == 403 and _BLOCKED.search(facts.words):
        return ErrorClass.BLOCKED
    if status == 403 and _CREDIT_WORDS.search(facts.words):
        return ErrorClass.CREDITS
    return ErrorClass.AUTH


def _kind_of_outage(facts: Facts) -> ErrorClass:
    if "empty_response" in facts.codes:
        return ErrorClass.NO_IMAGE
    if "model_not_found" in facts.codes or _NO_CHANNEL.search(facts.words):
        return ErrorClass.NO_CHANNEL
    return ErrorClass.TRANSIENT


def _kind_of_rejection(status: int, facts: Facts) -> ErrorClass:
    if _BLOCKED.search(facts.words):
        return ErrorClass.BLOCKED
    if "api_key_invalid" in facts.codes or _BAD_KEY.search(facts.words):
        return ErrorClass.AUTH
    if "failed_precondition" in facts.codes or _LOCATION.search(facts.words):
        return ErrorClass.ACCOUNT
    if status == 404 or "model_not_found" in facts.codes or _NO_MODEL.search(facts.words):
        return ErrorClass.MODEL
    return ErrorClass.BAD_REQUEST


def _kind_by_words(facts: Facts) -> ErrorClass:
    """Judge a 2xx that holds an error without any code."""
    if _BLOCKED.search(facts.words):
        return ErrorClass.BLOCKED
    if _BAD_KEY.search(facts.words):
        return ErrorClass.AUTH
    if _NO_CHANNEL.search(facts.words):
        return ErrorClass.NO_CHANNEL
    return ErrorClass.TRANSIENT if _OVERLOADED.search(facts.words) else ErrorClass.BAD_ANSWER


def _message(status: int, headers: Mapping[str, str], kind: ErrorClass, facts: Facts) -> str:
    advice = _ADVICE.get(kind, "")
    if kind is ErrorClass.MODEL and _MODEL_NAMED.search(facts.words):
        advice = ""
    if 300 <= status < 400:
        advice = f"redirected to {_host(headers.get('location', ''))}; use that base URL if it is right"
    tail = f"; {advice}" if advice else ""
    return (
        plain(facts.message, LONGEST_MESSAGE - len(tail)) or plain(_phrase(status, facts.codes), 200)
    ) + tail


def _phrase(status: int, codes: frozenset[str]) -> str:
    known = [http.HTTPStatus(status).phrase] if status in set(http.HTTPStatus) else []
    named = sorted(code for code in codes if not code.isdecimal())
    return " ".join(["HTTP", str(status), *known, *(f"({code})" for code in named if code)])


def _host(location: str) -> str:
    try:
        return plain(urllib.parse.urlsplit(location).hostname or "another path", 200)
    except ValueError:
        return "an unreadable address"
