"""The vendors' own SDKs, unmodified, against `batchgen simulate`: what they parse is what the formats say."""

from __future__ import annotations

import base64
import io
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import openai
import pydantic
import pytest
from google import genai
from google.genai import errors, types
from openai.types.chat import ChatCompletionMessageFunctionToolCall
from PIL import Image

from batchgen.simulator.paint import prompt_key, prompt_mark
from tests.test_end_to_end import account, simulator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openai.types import CompletionUsage
    from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

MODEL = "gemini-3.1-flash-image-preview"
KEY = "cdt_any"
PROMPT = "a paper boat on a lake, 종이배"
_DATA_URL = re.compile(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)")


class Recipe(pydantic.BaseModel):
    """What a row may want to be filled in."""

    title: str
    minutes: int
    steps: list[str]


class Tokens(NamedTuple):
    """What the endpoint has booked, or an SDK has parsed."""

    prompt: int
    completion: int
    image: int
    total: int


def to_openai(url: str, *, key: str = KEY) -> openai.OpenAI:
    """A client that asks once: a second request of its own would be a second bill."""
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def to_google(url: str, *, key: str = KEY) -> genai.Client:
    return genai.Client(api_key=key, http_options=types.HttpOptions(base_url=url))


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with simulator("--seed", "5", "--key", KEY) as url:
        yield url


@pytest.fixture(scope="module")
def client(endpoint: str) -> Iterator[openai.OpenAI]:
    with to_openai(endpoint) as one:
        yield one


@pytest.fixture(scope="module")
def google(endpoint: str) -> Iterator[genai.Client]:
    with to_google(endpoint) as one:
        yield one


@contextmanager
def booked(url: str, *, requests: int = 1) -> Iterator[dict[str, int]]:
    """What these requests add to the endpoint's account, known at the end."""
    names = ("requests", "prompt_tokens", "text_tokens", "image_tokens", "total_tokens")
    before = account(url)["models"].get(MODEL, {})
    added: dict[str, int] = {}
    yield added
    after = account(url)["models"][MODEL]
    added.update({name: after[name] - before.get(name, 0) for name in names})
    assert added["requests"] == requests


def of_account(added: dict[str, int]) -> Tokens:
    completion = added["text_tokens"] + added["image_tokens"]
    return Tokens(added["prompt_tokens"], completion, added["image_tokens"], added["total_tokens"])


def of_chat(usage: CompletionUsage | None) -> Tokens:
    assert usage is not None
    details = usage.completion_tokens_details
    assert details is not None
    image = (details.model_extra or {}).get("image_tokens", 0)
    return Tokens(usage.prompt_tokens, usage.completion_tokens, image, usage.total_tokens)


def of_google(usage: types.GenerateContentResponseUsageMetadata | None) -> Tokens:
    assert usage is not None
    image = sum(
        part.token_count or 0
        for part in usage.candidates_tokens_details or ()
        if part.modality is types.MediaModality.IMAGE
    )
    completion = (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)
    return Tokens(usage.prompt_token_count or 0, completion, image, usage.total_token_count or 0)


def pictures_in(content: str | None) -> list[bytes]:
    return [base64.b64decode(found) for found in _DATA_URL.findall(content or "")]


def shape(picture: bytes) -> tuple[int, int]:
    image = Image.open(io.BytesIO(picture))
    image.load()
    return image.size


def red(kind: str = "PNG", side: int = 40) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (side, side), (200, 30, 30)).save(written, kind)
    return written.getvalue()


def user(text: str) -> ChatCompletionMessageParam:
    return {"role": "user", "content": text}


def showing(picture: bytes, text: str) -> ChatCompletionMessageParam:
    url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    return {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": text},
        ],
    }


def test_openai_s_sdk_gets_a_picture_and_its_tokens(endpoint: str, client: openai.OpenAI) -> None:
    with booked(endpoint) as added:
        answer = client.chat.completions.create(
            model=MODEL, messages=[user(PROMPT)], temperature=1, top_p=0.9
        )
    (choice,) = answer.choices
    (picture,) = pictures_in(choice.message.content)
    assert prompt_mark(picture) == prompt_key(PROMPT)
    assert shape(picture) == (1024, 1024)
    assert choice.finish_reason == "stop"
    assert of_chat(answer.usage) == of_account(added)


def test_openai_s_sdk_streams_a_picture_and_its_tokens(endpoint: str, client: openai.OpenAI) -> None:
    with booked(endpoint) as added:
        stream = client.chat.completions.create(
            model=MODEL, messages=[user(PROMPT)], stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
    deltas = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    (picture,) = pictures_in("".join(deltas))
    assert prompt_mark(picture) == prompt_key(PROMPT)
    assert shape(picture) == (1024, 1024)
    ends = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert ends == ["stop"]
    assert of_chat(chunks[-1].usage) == of_account(added)


def test_openai_s_sdk_says_shape_and_size_and_gets_them(endpoint: str, client: openai.OpenAI) -> None:
    told = {"google": {"image_config": {"aspect_ratio": "16:9", "image_size": "2K"}}}
    with booked(endpoint) as added:
        answer = client.chat.completions.create(
            model=MODEL, messages=[user(PROMPT)], extra_body={"extra_body": told}
        )
    (picture,) = pictures_in(answer.choices[0].message.content)
    assert shape(picture) == (2752, 1536)
    assert of_chat(answer.usage) == of_account(added)
    assert added["image_tokens"] == 1680


def test_openai_s_sdk_brings_a_picture_along_and_pays_for_it(endpoint: str, client: openai.OpenAI) -> None:
    with booked(endpoint) as without:
        client.chat.completions.create(model=MODEL, messages=[user("make it night")])
    with booked(endpoint) as added:
        answer = client.chat.completions.create(model=MODEL, messages=[showing(red(), "make it night")])
    (picture,) = pictures_in(answer.choices[0].message.content)
    assert prompt_mark(picture) == prompt_key("make it night")
    assert of_chat(answer.usage) == of_account(added)
    assert added["prompt_tokens"] > without["prompt_tokens"] + 250


def test_a_picture_that_is_not_what_it_is_declared_to_be_is_refused_for_nothing(
    endpoint: str, client: openai.OpenAI
) -> None:
    before = account(endpoint)["usd"]
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=[showing(red("JPEG"), "make it night")])
    assert account(endpoint)["usd"] == before


def test_openai_s_sdk_holds_a_conversation_with_a_system_prompt(endpoint: str, client: openai.OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "You draw in ink, nothing else."},
        user("a heron"),
        {"role": "assistant", "content": "Here is your heron."},
        user("now with a fish"),
    ]
    with booked(endpoint) as added:
        answer = client.chat.completions.create(model=MODEL, messages=messages)
    assert len(pictures_in(answer.choices[0].message.content)) == 1
    assert of_chat(answer.usage) == of_account(added)
    assert added["prompt_tokens"] >= sum(len(str(message.get("content"))) for message in messages) // 4


TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "tag",
        "description": "Label a picture.",
        "parameters": {
            "type": "object",
            "properties": {"label": {"type": "string"}, "score": {"type": "integer"}},
            "required": ["label", "score"],
        },
    },
}


def test_openai_s_sdk_parses_a_tool_call(endpoint: str, client: openai.OpenAI) -> None:
    with booked(endpoint) as added:
        answer = client.chat.completions.create(
            model=MODEL,
            messages=[user("label this")],
            tools=[TOOL],
            tool_choice={"type": "function", "function": {"name": "tag"}},
        )
    (choice,) = answer.choices
    (call,) = choice.message.tool_calls or []
    assert choice.finish_reason == "tool_calls"
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert call.function.name == "tag"
    arguments = pydantic.TypeAdapter(dict[str, Any]).validate_json(call.function.arguments)
    assert {name: type(value) for name, value in arguments.items()} == {"label": str, "score": int}
    assert of_chat(answer.usage) == of_account(added)
    assert added["image_tokens"] == 0


def test_openai_s_sdk_parses_json_of_a_schema(endpoint: str, client: openai.OpenAI) -> None:
    with booked(endpoint) as added:
        answer = client.chat.completions.parse(
            model=MODEL, messages=[user("noodles for two")], response_format=Recipe
        )
    assert isinstance(answer.choices[0].message.parsed, Recipe)
    assert of_chat(answer.usage) == of_account(added)
    assert added["image_tokens"] == 0


def test_openai_s_sdk_parses_json_of_any_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=[user("noodles")], response_format={"type": "json_object"}
    )
    content = answer.choices[0].message.content
    assert content is not None
    assert pydantic.TypeAdapter(dict[str, Any]).validate_json(content)


def test_openai_s_sdk_lists_the_models(client: openai.OpenAI) -> None:
    assert MODEL in {model.id for model in client.models.list()}
    assert client.models.retrieve(MODEL).id == MODEL


def test_openai_s_sdk_draws_through_the_images_api(endpoint: str, client: openai.OpenAI) -> None:
    with booked(endpoint) as added:
        answer = client.images.generate(model=MODEL, prompt=PROMPT, size="1536x1024")
    (entry,) = answer.data or []
    picture = base64.b64decode(entry.b64_json or "")
    assert prompt_mark(picture) == prompt_key(PROMPT)
    width, height = shape(picture)
    assert width / height == pytest.approx(1.5, abs=0.02)
    usage = answer.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (
        added["prompt_tokens"],
        added["text_tokens"] + added["image_tokens"],
        added["total_tokens"],
    )


def test_openai_s_sdk_edits_pictures_through_the_images_api(endpoint: str, client: openai.OpenAI) -> None:
    along = [("a.png", red(), "image/png"), ("b.jpg", red("JPEG", 60), "image/jpeg")]
    with booked(endpoint) as added:
        answer = client.images.edit(model=MODEL, image=along, prompt="put both on a shelf")
    (entry,) = answer.data or []
    assert prompt_mark(base64.b64decode(entry.b64_json or "")) == prompt_key("put both on a shelf")
    assert answer.usage is not None
    assert answer.usage.input_tokens == added["prompt_tokens"]
    assert answer.usage.input_tokens_details.image_tokens > 2 * 250


def test_openai_s_sdk_maps_the_endpoint_s_errors(endpoint: str, client: openai.OpenAI) -> None:
    with to_openai(endpoint, key="another") as stranger, pytest.raises(openai.APIStatusError) as refused:
        stranger.chat.completions.create(model=MODEL, messages=[user(PROMPT)])
    assert refused.value.status_code in {400, 401}
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gemini-9", messages=[user(PROMPT)])
    # Google's path puts errors into a list, of which the SDK makes no message.
    assert "gemini-9" in missing.value.response.text
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=[user(PROMPT)], temperature=3)


def test_openai_s_sdk_takes_a_full_quota_for_a_rate_limit() -> None:
    with simulator("--fault", "rate_limited=1", "--no-paint") as url:
        with to_openai(url) as one, pytest.raises(openai.RateLimitError):
            one.chat.completions.create(model=MODEL, messages=[user(PROMPT)])
        with to_google(url) as other, pytest.raises(errors.ClientError) as told:
            other.models.generate_content(model=MODEL, contents=PROMPT)
        assert (told.value.code, told.value.status) == (429, "RESOURCE_EXHAUSTED")
        assert account(url)["usd"] == "0"


def test_both_sdks_are_told_why_there_is_no_picture() -> None:
    with simulator("--fault", "refusal=1", "--no-paint") as url:
        with to_openai(url) as one:
            answer = one.chat.completions.create(model=MODEL, messages=[user(PROMPT)])
        with to_google(url) as other:
            native = other.models.generate_content(model=MODEL, contents=PROMPT)
        assert account(url)["models"][MODEL]["image_tokens"] == 0
    assert answer.choices[0].finish_reason == "content_filter"
    assert not native.candidates
    assert native.prompt_feedback is not None
    assert native.prompt_feedback.block_reason is not None


def parts_of(answer: types.GenerateContentResponse) -> list[types.Part]:
    return [
        part
        for candidate in answer.candidates or ()
        for part in (candidate.content.parts if candidate.content else None) or ()
    ]


def blobs_of(answer: types.GenerateContentResponse) -> list[bytes]:
    """The final pictures: what is marked as a thought is none."""
    return [
        part.inline_data.data or b""
        for part in parts_of(answer)
        if part.inline_data is not None and not part.thought
    ]


def test_google_s_sdk_gets_a_picture_and_its_tokens(endpoint: str, google: genai.Client) -> None:
    with booked(endpoint) as added:
        answer = google.models.generate_content(
            model=MODEL,
            contents=PROMPT,
            config=types.GenerateContentConfig(
                response_modalities=["TEXT", "IMAGE"],
                image_config=types.ImageConfig(aspect_ratio="9:16", image_size="1K"),
                temperature=1.0,
                seed=7,
                system_instruction="You draw in ink, nothing else.",
            ),
        )
    (picture,) = blobs_of(answer)
    assert prompt_mark(picture) == prompt_key(PROMPT)
    assert shape(picture) == (768, 1376)
    assert (answer.candidates or [])[0].finish_reason is types.FinishReason.STOP
    assert of_google(answer.usage_metadata) == of_account(added)


def test_google_s_sdk_streams_a_picture_and_its_tokens(endpoint: str, google: genai.Client) -> None:
    with booked(endpoint) as added:
        chunks = list(google.models.generate_content_stream(model=MODEL, contents=PROMPT))
    (picture,) = [blob for chunk in chunks for blob in blobs_of(chunk)]
    assert prompt_mark(picture) == prompt_key(PROMPT)
    assert of_google(chunks[-1].usage_metadata) == of_account(added)


def test_google_s_sdk_brings_a_picture_along_and_pays_for_it(endpoint: str, google: genai.Client) -> None:
    along = types.Part.from_bytes(data=red(), mime_type="image/png")
    said = types.Content(role="user", parts=[along, types.Part(text="make it night")])
    with booked(endpoint) as added:
        answer = google.models.generate_content(model=MODEL, contents=said)
    (picture,) = blobs_of(answer)
    assert prompt_mark(picture) == prompt_key("make it night")
    assert of_google(answer.usage_metadata) == of_account(added)
    assert added["prompt_tokens"] > 250


def test_google_s_sdk_hands_back_a_chat_with_its_picture_in_it(endpoint: str, google: genai.Client) -> None:
    chat = google.chats.create(model=MODEL)
    with booked(endpoint, requests=2) as added:
        first = chat.send_message("a heron")
        second = chat.send_message("now with a fish")
    assert len(blobs_of(first)) == len(blobs_of(second)) == 1
    both = zip(of_google(first.usage_metadata), of_google(second.usage_metadata), strict=True)
    assert Tokens(*(one + other for one, other in both)) == of_account(added)


def test_google_s_sdk_parses_a_function_call(endpoint: str, google: genai.Client) -> None:
    schema = types.Schema(
        type=types.Type.OBJECT,
        properties={
            "label": types.Schema(type=types.Type.STRING),
            "score": types.Schema(type=types.Type.INTEGER),
        },
        required=["label", "score"],
    )
    tool = types.Tool(function_declarations=[types.FunctionDeclaration(name="tag", parameters=schema)])
    with booked(endpoint) as added:
        answer = google.models.generate_content(
            model=MODEL, contents="label this", config=types.GenerateContentConfig(tools=[tool])
        )
    (call,) = answer.function_calls or []
    assert call.name == "tag"
    arguments = call.args or {}
    assert {name: type(value) for name, value in arguments.items()} == {"label": str, "score": int}
    assert of_google(answer.usage_metadata) == of_account(added)


def test_google_s_sdk_parses_json_of_a_schema(endpoint: str, google: genai.Client) -> None:
    with booked(endpoint) as added:
        answer = google.models.generate_content(
            model=MODEL,
            contents="noodles for two",
            config=types.GenerateContentConfig(response_mime_type="application/json", response_schema=Recipe),
        )
    assert isinstance(answer.parsed, Recipe)
    assert of_google(answer.usage_metadata) == of_account(added)
    assert added["image_tokens"] == 0


def test_google_s_sdk_lists_the_models(google: genai.Client) -> None:
    assert f"models/{MODEL}" in {model.name for model in google.models.list()}
    assert google.models.get(model=MODEL).name == f"models/{MODEL}"


def test_google_s_sdk_maps_the_endpoint_s_errors(endpoint: str, google: genai.Client) -> None:
    with pytest.raises(errors.ClientError) as missing:
        google.models.generate_content(model="gemini-9", contents=PROMPT)
    assert missing.value.code == 404
    with to_google(endpoint, key="another") as stranger, pytest.raises(errors.ClientError) as refused:
        stranger.models.generate_content(model=MODEL, contents=PROMPT)
    assert (refused.value.code, refused.value.status) == (400, "INVALID_ARGUMENT")
