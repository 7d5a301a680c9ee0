"""A key is hidden however it is written, and nothing else is."""

from __future__ import annotations

import base64
import html
import json
import time
import urllib.parse
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.redaction import Redactor, without_likely_keys

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "correct/horse+battery\"staple\\7'<&>%="

KEYS = [
    "sk-abcdef123456",
    "sk-or-v1-abcdef123456",
    "cdt_a1b2c3d4",
    "AIzaSyA1234567890abcdef",
    "AQ.Ab8RN6abcdefghij",
]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "form", ["{}", "Incorrect API key provided: {}.", "TokenStatusExhausted[{}]", '"{}"', "({})"]
)
def test_what_looks_like_a_key_is_hidden(key: str, form: str) -> None:
    assert without_likely_keys(form.format(key)) == form.format("[key]").replace(
        "[key].", "[key]" if key[:3] == "sk-" else "[key]."
    )


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer [key]"),
        ("GET /v1?key=abc123def&alt=json", "GET /v1?key=[key]&alt=json"),
        ("api_key=abc123def", "api_key=[key]"),
        ("x-goog-api-key: abc123def", "x-goog-api-key: [key]"),
        ('{"api_key": "abc123def"}', '{"api_key": "[key]"}'),
    ],
)
def test_a_key_is_hidden_where_a_key_stands(text: str, hidden: str) -> None:
    assert without_likely_keys(text) == hidden


@pytest.mark.parametrize(
    "text", ["a task-oriented-monkey", "max_tokens=4096", "disk-based-storage", "key = value"]
)
def test_ordinary_words_stay(text: str) -> None:
    assert without_likely_keys(text) == text
    assert Redactor([KEY, "key-of-another"])(text) == text
    assert Redactor([])(text) == text


FORMS: list[Callable[[str], str]] = [
    str,
    repr,
    json.dumps,
    lambda key: json.dumps(json.dumps(key)),
    lambda key: json.dumps(key).replace("/", r"\/"),
    lambda key: urllib.parse.quote(key, safe=""),
    lambda key: urllib.parse.quote(key, safe="").lower(),
    lambda key: urllib.parse.quote(urllib.parse.quote(key, safe=""), safe=""),
    html.escape,
    lambda key: "".join(f"\\u{ord(sign):04x}" for sign in key),
    lambda key: "".join(f"\\x{ord(sign):02X}" for sign in key),
    lambda key: "".join(f"&#{ord(sign)};" for sign in key),
    lambda key: "".join(f"&#x{ord(sign):x};" for sign in key),
]


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=60))
def test_a_key_is_hidden_in_every_notation(key: str) -> None:
    redact = Redactor([key])
    for form in FORMS:
        written = form(key)
        quotes = '"\\'
        assert redact(f"« {written} »").strip("« »" + quotes + "'") == "[key]", written


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=12, max_size=60),
    st.binary(max_size=7),
    st.binary(max_size=7),
)
def test_a_key_within_base64_is_hidden_but_for_its_edges(key: str, before: bytes, after: bytes) -> None:
    whole = before + key.encode() + after
    for code in (base64.b64encode(whole), base64.urlsafe_b64encode(whole)):
        start, hidden, end = Redactor([key])(code.decode()).partition("[key]")
        assert hidden, code
        kept = (len(start) + len(end)) * 6 // 8
        assert kept <= len(before) + len(after) + 4, (start, end)


def test_a_key_that_was_cut_is_hidden_from_its_eighth_character_on() -> None:
    for length in range(8, len(KEY)):
        assert Redactor([KEY])(f"provided: {KEY[:length]}… (host)") == "provided: [key]… (host)"
    assert Redactor([KEY])(KEY[:7]) == KEY[:7], "a word that many texts have"


def test_of_several_keys_the_longest_is_hidden_whole() -> None:
    assert Redactor(["abcdefgh", "abcdefgh-ijkl", ""])("abcdefgh-ijkl abcdefgh") == "[key] [key]"


def test_a_placeholder_is_hidden_as_a_word_and_spoils_no_other() -> None:
    assert Redactor(["any"])("any key, in many places: any.") == "[key] key, in many places: [key]."


@pytest.mark.parametrize(
    "text", ["\\" * 65536, "%25" * 20000, "&#x" + "0" * 60000, "sk-proj" * 9000, KEY[:7] * 9000]
)
def test_a_text_made_to_take_long_does_not(text: str) -> None:
    redact = Redactor([KEY, "sk-proj-" + "0a-" * 50])
    began = time.process_time()
    redact(text)
    assert time.process_time() - began < 10
