"""Everything the simulated endpoint can be asked, in each of its formats: answers, limits, one account."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from batchgen import pricing
from batchgen.dialects import DIALECTS
from batchgen.dialects import chat as dialect
from batchgen.providers import find, find_model
from batchgen.records import Attached, ImageOptions, Params, Task
from batchgen.simulator import Endpoint, Faults, Reply, Settings, images, sizes, words
from batchgen.simulator.paint import prompt_key, prompt_mark, reference_marks
from tests.test_end_to_end import simulator
from tests.test_simulator import served_simulator

if TYPE_CHECKING:
    from collections.abc import Iterator

FLASH, PRO = "gemini-3.1-flash-image-preview", "gemini-3-pro-image-preview"
KEY = {"authorization": "Bearer k"}
CHAT, GENERATE, EDIT = "/v1/chat/completions", "/v1/images/generations", "/v1/images/edits"
NATIVE = f"/v1beta/models/{FLASH}:generateContent"
PNG = b"\x89PNG\r\n\x1a\n"
MAGIC = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/webp": b"RIFF\0\0\0\0WEBP",
    "image/heic": b"\0\0\0\x18ftypheic",
    "image/heif": b"\0\0\0\x18ftypmif1",
}
FORMATS = ["chat", "native", "images"]


def _endpoint(**given: object) -> Endpoint:
    values = {"latency": 0.0, "paint": False, **given}
    return Endpoint(msgspec.convert(values, Settings), clock=lambda: 0.0)


def _png(colour: str = "red", side: int = 32) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(encoded, "PNG")
    return encoded.getvalue()


def _url(data: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _messages(prompt: str, *pictures: str) -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}]


def _chat(prompt: str = "a cat", *pictures: str, **more: object) -> dict[str, Any]:
    return {"model": FLASH, "messages": _messages(prompt, *pictures), **more}


def _native(prompt: str = "a cat", *pictures: bytes, **config: object) -> dict[str, Any]:
    blobs = [
        {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(data).decode()}}
        for data in pictures
    ]
    return {"contents": [{"parts": [*blobs, {"text": prompt}]}], "generationConfig": config}


def _ask(endpoint: Endpoint, path: str, body: object, **headers: str) -> Reply:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return endpoint.answer("POST", path, {**KEY, **headers}, content)


def _json(reply: Reply) -> Any:
    return json.loads(reply.body if isinstance(reply.body, bytes) else reply.body())


def _picture(answer: Any) -> bytes:
    """The last picture of an answer, wherever it stands."""
    text = json.dumps(answer)
    found = text[text.rindex('"/9j/') + 1 if '"/9j/' in text else text.rindex("/9j/") :]
    return base64.b64decode(found.split('"')[0].rstrip(")\\"))


def _pixels(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as image:
        return image.size


def _asked(kind: str, endpoint: Endpoint, prompt: str = "a cat") -> Reply:
    """The same request in one of the formats."""
    if kind == "chat":
        return _ask(endpoint, CHAT, _chat(prompt))
    if kind == "native":
        return _ask(endpoint, NATIVE, _native(prompt))
    return _ask(endpoint, GENERATE, {"model": FLASH, "prompt": prompt})


@pytest.fixture(scope="module")
def served() -> Iterator[httpx.Client]:
    with served_simulator() as url, httpx.Client(base_url=url, headers=KEY) as client:
        yield client


def _bill(client: httpx.Client) -> Any:
    return client.get("/account").json()["models"].get(FLASH, {"total_tokens": 0})


@pytest.mark.parametrize(
    "path",
    ["/v1beta/models", "/llm/gemini/v1beta/models", "/models"],
)
def test_on_the_wire_google_s_format_is_spoken_under_every_prefix(served: httpx.Client, path: str) -> None:
    before = _bill(served)["total_tokens"]
    answer = served.post(f"{path}/{FLASH}:generateContent", json=_native("a fox", _png())).json()
    thought, text, made = answer["candidates"][0]["content"]["parts"]
    assert thought["thought"] is True
    assert "fox" in text["text"]
    data = base64.b64decode(made["inlineData"]["data"])
    assert (prompt_mark(data), reference_marks(data)) == (prompt_key("a fox"), (_hash(_png())[:16],))
    usage = answer["usageMetadata"]
    parts = (usage["promptTokenCount"], usage["candidatesTokenCount"], usage["thoughtsTokenCount"])
    assert sum(parts) == usage["totalTokenCount"] == _bill(served)["total_tokens"] - before
    assert usage["promptTokensDetails"][1] == {"modality": "IMAGE", "tokenCount": 560}
    assert usage["candidatesTokensDetails"] == [{"modality": "IMAGE", "tokenCount": 1120}]


def test_on_the_wire_an_edit_comes_as_a_form_and_its_pictures_are_counted(served: httpx.Client) -> None:
    before = _bill(served)["total_tokens"]
    pictures = [_png("red"), _png("blue")]
    files = [("image[]", (f"{n}.png", data, "image/png")) for n, data in enumerate(pictures)]
    form = {"model": FLASH, "prompt": "밤으로\r\n바꿔", "n": "1", "quality": "high"}
    answer = served.post(EDIT, data=form, files=files).json()
    data = base64.b64decode(answer["data"][0]["b64_json"])
    assert prompt_mark(data) == prompt_key(form["prompt"])
    assert reference_marks(data) == tuple(_hash(one)[:16] for one in pictures)
    assert answer["usage"]["input_tokens_details"]["image_tokens"] == 1120
    assert answer["usage"]["total_tokens"] == _bill(served)["total_tokens"] - before


def test_on_the_wire_models_are_listed_as_openai_and_as_google_do(served: httpx.Client) -> None:
    ids = [model["id"] for model in served.get("/v1beta/openai/models").json()["data"]]
    assert {FLASH, PRO} <= set(ids)
    assert served.get(f"/v1/models/{FLASH}").json()["id"] == FLASH
    names = [model["name"] for model in served.get("/v1beta/models").json()["models"]]
    assert f"models/{PRO}" in names
    assert served.get(f"/v1beta/models/{PRO}").json()["name"] == f"models/{PRO}"
    assert (
        served.get("/models", headers={"x-goog-api-key": "k"})
        .json()["models"][0]["name"]
        .startswith("models/")
    )
    assert served.get("/v1/models/none").status_code == served.get("/v1beta/models/none").status_code == 404


@pytest.mark.parametrize("kind", FORMATS)
def test_a_link_that_is_wanted_or_lost_is_one_in_every_format(kind: str) -> None:
    endpoint = _endpoint(faults=Faults(lost_link=1.0))
    text = json.dumps(_json(_asked(kind, endpoint)))
    link = httpx.URL("http://" + text.split("http://")[1].split('"')[0].rstrip(")"))
    assert endpoint.answer("GET", link.path, {}, b"").status == 404


def test_an_images_request_for_a_url_gets_one_that_leads_to_its_picture() -> None:
    endpoint = _endpoint()
    body = {"model": FLASH, "prompt": "a cat", "response_format": "url"}
    link = httpx.URL(_json(_ask(endpoint, GENERATE, body))["data"][0]["url"])
    found = endpoint.answer("GET", link.path, {}, b"").body
    assert callable(found)
    assert prompt_mark(found()) == prompt_key("a cat")


# Sizes


@pytest.mark.parametrize("size", ["512", "1K", "2K"])
@pytest.mark.parametrize(
    ("ratio", "width", "height"),
    [
        ("1:1", 1024, 1024),
        ("2:3", 848, 1264),
        ("3:2", 1264, 848),
        ("3:4", 896, 1200),
        ("4:3", 1200, 896),
        ("4:5", 928, 1152),
        ("5:4", 1152, 928),
        ("9:16", 768, 1376),
        ("16:9", 1376, 768),
        ("21:9", 1584, 672),
        ("1:4", 512, 2048),
        ("8:1", 3072, 384),
    ],
)
def test_every_shape_has_the_pixels_of_the_vendor_s_table(
    ratio: str, width: int, height: int, size: str
) -> None:
    config = {"aspectRatio": ratio, "imageSize": size}
    answer = _json(_ask(_endpoint(), NATIVE, _native(imageConfig=config)))
    times = {"512": 0.5, "1K": 1, "2K": 2}[size]
    assert _pixels(_picture(answer)) == (width * times, height * times)
    tokens = {"512": 747, "1K": 1120, "2K": 1680}[size]
    assert answer["usageMetadata"]["candidatesTokensDetails"][0]["tokenCount"] == tokens


@pytest.mark.parametrize(
    ("options", "pixels"),
    [
        (ImageOptions.NONE, (64, 64)),
        (ImageOptions.GOOGLE, (1696, 2528)),
        (ImageOptions.OPENROUTER, (1696, 2528)),
        (ImageOptions.MODALITIES, (64, 64)),
        (ImageOptions.FLAT, (1696, 2528)),
        (ImageOptions.SUFFIX, (2048, 2048)),
    ],
)
def test_shape_and_size_are_understood_in_every_way_batchgen_tells_them(
    options: ImageOptions, pixels: tuple[int, int]
) -> None:
    params = Params(aspect_ratio="2:3", image_size="2K")
    task = Task(key="k", id="1", variant=1, name="n", model=FLASH, prompt="a cat", params=params)
    request = dialect.request(task, [], options=options, stream=False)
    answer = _json(_ask(_endpoint(), CHAT, b"".join(request.body)))
    assert _pixels(_picture(answer)) == pixels


@pytest.mark.parametrize(
    ("size", "pixels"),
    [("1024x1024", (1024, 1024)), ("1536x1024", (1264, 848)), ("1024x1536", (848, 1264)), ("auto", (64, 64))],
)
def test_the_images_api_s_pixels_become_the_nearest_shape_of_a_model_that_knows_shapes(
    size: str, pixels: tuple[int, int]
) -> None:
    body = {"model": FLASH, "prompt": "a cat", "size": size}
    assert _pixels(_picture(_json(_ask(_endpoint(), GENERATE, body)))) == pixels


@pytest.mark.parametrize(
    ("model", "size", "status"),
    [
        ("gpt-image-1", "1024x1024", 200),
        ("gpt-image-1", "1536x1024", 200),
        ("gpt-image-1", "auto", 200),
        ("gpt-image-1", "2048x2048", 400),
        ("gpt-image-1", "1824x1024", 400),
        ("gpt-image-1", "1025x1024", 400),
        ("gpt-image-2", "1824x1024", 200),
        ("gpt-image-2", "2048x2048", 200),
    ],
)
def test_a_model_that_knows_pixels_makes_them_exactly_or_says_it_cannot(
    model: str, size: str, status: int
) -> None:
    reply = _ask(_endpoint(), GENERATE, {"model": model, "prompt": "a cat", "size": size})
    assert reply.status == status
    if status == 200 and size != "auto":
        assert "x".join(map(str, _pixels(_picture(_json(reply))))) == size


def test_an_images_model_answers_no_chat() -> None:
    assert _ask(_endpoint(), CHAT, {**_chat(), "model": "gpt-image-1"}).status == 404


@pytest.mark.parametrize("model", ["gpt-image-1", FLASH])
def test_a_bill_with_pictures_that_went_along_is_what_batchgen_reads_from_its_answer(model: str) -> None:
    endpoint, attached = _endpoint(), [Attached(mime="image/png", base64=base64.b64encode(_png()))]
    task = Task(key="k", id="1", variant=1, name="n", model=model, prompt="a cat")
    request = DIALECTS["images"].request(task, attached, options=ImageOptions.NONE, stream=False)
    reply = _ask(endpoint, EDIT, b"".join(request.body), **{"content-type": request.content_type})
    read = DIALECTS["images"].read(200, {}, json.dumps(_json(reply)).encode(), now=0.0)
    assert read.usage is not None
    known = next(one for one in (find_model(find(name), model) for name in ("core-today", "openai")) if one)
    used = pricing.split(read.usage, [(1024, 1024)], known.image_tokens)
    assert pricing.cost(used, known.price) == endpoint.account.usd > 0


@settings(max_examples=40)
@given(st.integers(10, 9999), st.integers(10, 9999))
def test_any_pixels_have_a_nearest_shape(width: int, height: int) -> None:
    endpoint = _endpoint()
    assert _ask(endpoint, GENERATE, {"model": PRO, "prompt": "a", "size": f"{width}x{height}"}).status == 200


def test_a_gateway_that_ignores_sizes_delivers_and_bills_its_own() -> None:
    endpoint = _endpoint(ignores_size=True, paint=True)
    body = _native(imageConfig={"aspectRatio": "8:1", "imageSize": "4K"})
    assert _pixels(_picture(_json(_ask(endpoint, NATIVE, body)))) == (1024, 1024)
    assert endpoint.account.models[FLASH].image_tokens == 1120


GOOGLE = "extra_body.google"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (_chat(extra_body={"google": {"imageConfig": {"aspectRatio": "1:1"}}}), f"use {GOOGLE}.image_config"),
        (_chat(extra_body={"google": {"image_config": {"aspectRatio": "1:1"}}}), "image_config.aspect_ratio"),
        (_chat(extra_body={"google": {"image_config": {"image_size": "2k"}}}), "2k"),
        (_chat(extra_body={"google": {"image_config": "2K"}}), "object"),
        (_chat(aspect_ratio="1:3"), "1:3"),
        (_chat(aspect_ratio=""), "aspect_ratio"),
        (_chat(image_size="1024x1024"), "1024x1024"),
        (_chat(image_config={"image_size": "8K"}), "8K"),
        ({**_chat(image_size="512"), "model": PRO}, "512"),
        ({**_chat(aspect_ratio="1:8"), "model": PRO}, "1:8"),
        (_chat(modalities=["IMAGE"]), "modalities"),
    ],
)
def test_a_shape_that_no_model_has_is_a_400_and_free(body: dict[str, Any], told: str) -> None:
    endpoint = _endpoint()
    reply = _ask(endpoint, CHAT, body)
    assert (reply.status, endpoint.account.billed) == (400, 0)
    assert told in _json(reply)[0]["error"]["message"]


@pytest.mark.parametrize(
    "config",
    [
        {"imageConfig": {"imageSize": "2k"}},
        {"imageConfig": {"size": "2K"}},
        {"responseModalities": ["AUDIO"]},
        {"candidateCount": 2},
        {"seed": 2**31},
        {"maxOutputTokens": 0},
    ],
)
def test_google_s_format_refuses_what_it_does_not_know_as_google_does(config: dict[str, Any]) -> None:
    reply = _ask(_endpoint(), NATIVE, _native(**config))
    assert (reply.status, _json(reply)["error"]["status"]) == (400, "INVALID_ARGUMENT")


# Pictures that go along


@pytest.mark.parametrize("mime", MAGIC)
def test_pictures_of_every_type_are_taken_by_their_first_bytes(mime: str) -> None:
    assert _ask(_endpoint(), CHAT, _chat("a", _url(MAGIC[mime], mime))).status == 200


@pytest.mark.parametrize(
    "url",
    [
        _url(PNG, "image/jpeg"),
        _url(MAGIC["image/jpeg"], "image/png"),
        _url(b"GIF89a", "image/gif"),
        _url(b"", "image/png"),
        "data:image/png;base64,a",
        "data:image/png;base64,####",
        "data:image/png,abc",
        "https://example.org/a.png",
        "file:///etc/passwd",
        "",
    ],
)
def test_a_picture_that_is_not_what_it_is_said_to_be_is_a_400_and_free(url: str) -> None:
    endpoint = _endpoint()
    reply = _ask(endpoint, CHAT, _chat("a", url))
    assert (reply.status, endpoint.account.billed) == (400, 0)
    assert _json(reply)[0]["error"]["status"] == "INVALID_ARGUMENT"


def test_links_are_taken_where_they_are_wanted_and_known_by_their_text() -> None:
    endpoint, url = _endpoint(reference_urls=True), "https://example.org/a.png"
    assert _ask(endpoint, CHAT, _chat("a", url)).status == 200
    native = {"contents": [{"parts": [{"text": "a"}, {"file_data": {"file_uri": url}}]}]}
    assert _ask(endpoint, NATIVE, native).status == 200
    assert endpoint.account.bought("a", FLASH, [_hash(url.encode())]) == 2
    assert _ask(endpoint, CHAT, _chat("a", "http://example.org/a.png")).status == 400


@pytest.mark.parametrize(
    ("pictures", "status"),
    [
        ([PNG] * 14, 200),
        ([PNG] * 15, 400),
        ([PNG + bytes(7_000_000 - len(PNG))], 200),
        ([PNG + bytes(7_000_000)], 400),
        ([PNG + bytes(4_000_000)] * 4, 400),
    ],
)
@pytest.mark.parametrize("kind", ["chat", "native"])
def test_the_vendor_s_limits_hold(kind: str, pictures: list[bytes], status: int) -> None:
    body = _chat("a", *map(_url, pictures)) if kind == "chat" else _native("a", *pictures)
    assert _ask(_endpoint(), CHAT if kind == "chat" else NATIVE, body).status == status


def test_which_pictures_went_along_decides_what_was_bought_and_what_is_painted() -> None:
    endpoint, (red, blue) = _endpoint(), (_png("red"), _png("blue"))
    marks = set()
    for pictures in ([], [red], [blue], [red, blue], [blue, red]):
        data = _picture(_json(_ask(endpoint, CHAT, _chat("a cat", *map(_url, pictures)))))
        assert prompt_mark(data) == prompt_key("a cat")
        assert reference_marks(data) == tuple(_hash(one)[:16] for one in pictures)
        assert endpoint.account.bought("a cat", FLASH, [*map(_hash, pictures)]) == 1
        marks.add(data)
    assert len(marks) == 5


@pytest.mark.parametrize("kind", ["chat", "native", "images"])
def test_a_picture_means_the_same_in_every_format(kind: str) -> None:
    endpoint, data = _endpoint(), _png()
    if kind == "chat":
        _ask(endpoint, CHAT, _chat("a", _url(data)))
    elif kind == "native":
        _ask(endpoint, NATIVE, _native("a", data))
    else:
        files = {"image": ("a.png", data, "image/png")}
        form = httpx.Request("POST", "http://s", data={"model": FLASH, "prompt": "a"}, files=files)
        _ask(endpoint, EDIT, form.read(), **dict(form.headers))
    assert endpoint.account.bought("a", FLASH, [_hash(data)]) == 1


def test_the_requests_batchgen_writes_are_read_with_their_pictures() -> None:
    endpoint, pictures = _endpoint(), [_png("red"), _png("blue")]
    task = Task(key="k", id="1", variant=1, name="n", model=FLASH, prompt="a cat")
    attached = [Attached(mime="image/png", base64=base64.b64encode(data)) for data in pictures]
    request = dialect.request(task, attached, options=ImageOptions.NONE, stream=False)
    assert _ask(endpoint, CHAT, b"".join(request.body)).status == 200
    assert endpoint.account.bought("a cat", FLASH, [*map(_hash, pictures)]) == 1


@settings(max_examples=40)
@given(
    st.lists(st.binary(max_size=60).map(lambda tail: PNG + tail), min_size=1, max_size=3),
    st.text(max_size=40),
)
def test_any_bytes_and_any_words_come_through_a_form(pictures: list[bytes], prompt: str) -> None:
    prompt = prompt.encode("utf-8", "replace").decode()
    files = [("image[]", ("a.png", data, "image/png")) for data in pictures]
    form = httpx.Request("POST", "http://s", data={"model": FLASH, "prompt": prompt}, files=files)
    asked = images.read(form.read(), content_type=form.headers["content-type"])
    assert (asked.prompt, [one.data for one in asked.pictures]) == (prompt, pictures)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {"content-type": "multipart/form-data; boundary=x"}),
        (b"--x\r\n\r\n--x--", {"content-type": "multipart/form-data"}),
        (b'{"model":"m"}', {}),
        (b"[" * 100_000, {}),
        (json.dumps({"model": FLASH, "prompt": "a", "n": 2}).encode(), {}),
        (json.dumps({"model": FLASH, "prompt": "a", "size": "big"}).encode(), {}),
    ],
)
def test_an_images_request_it_cannot_read_is_a_400_in_openai_s_words(
    body: bytes, headers: dict[str, str]
) -> None:
    reply = _ask(_endpoint(), EDIT, body, **headers)
    assert (reply.status, _json(reply)["error"]["type"]) == (400, "invalid_argument")


# Words, conversations, tools, JSON


@pytest.mark.parametrize("paint", [True, False])
def test_a_picture_is_marked_with_what_was_said_last_and_the_whole_conversation_is_bought(
    paint: bool,
) -> None:
    conversation = [
        {"role": "system", "content": "Draw flat."},
        {"role": "user", "content": "a house"},
        {"role": "assistant", "content": "Here it is."},
        {"role": "user", "content": "make it night"},
    ]
    endpoint = _endpoint(paint=paint)
    data = _picture(_json(_ask(endpoint, CHAT, {"model": FLASH, "messages": conversation})))
    assert prompt_mark(data) == prompt_key("make it night")
    native = {
        "system_instruction": {"parts": [{"text": "Draw flat."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "a house"}]},
            {"role": "model", "parts": [{"text": "Here it is."}]},
            {"role": "user", "parts": [{"text": "make it night"}]},
        ],
    }
    assert prompt_mark(_picture(_json(_ask(endpoint, NATIVE, native)))) == prompt_key("make it night")
    assert endpoint.account.bought("a house\nmake it night", FLASH) == 2


@pytest.mark.parametrize("kind", ["chat", "native"])
def test_words_alone_come_where_no_picture_is_wanted(kind: str) -> None:
    endpoint, data = _endpoint(), _png()
    if kind == "chat":
        answer = _json(_ask(endpoint, CHAT, _chat("describe it", _url(data), modalities=["text"])))
        text = answer["choices"][0]["message"]["content"]
    else:
        body = _native("describe it", data, responseModalities=["Text"])
        answer = _json(_ask(endpoint, NATIVE, body))
        text = answer["candidates"][0]["content"]["parts"][-1]["text"]
    assert "describe it" in text
    assert _hash(data)[:16] in text
    assert endpoint.account.models[FLASH].image_tokens == 0


def test_a_picture_alone_comes_where_no_words_are_wanted() -> None:
    parts = _json(_ask(_endpoint(), NATIVE, _native(responseModalities=["IMAGE"])))
    assert [set(part) for part in parts["candidates"][0]["content"]["parts"][1:]] == [
        {"inlineData", "thoughtSignature"}
    ]


@pytest.mark.parametrize("stop", ["picture", ["nowhere", "picture", "your"]])
def test_a_stop_sequence_ends_the_words(stop: object) -> None:
    content = _json(_ask(_endpoint(), CHAT, _chat("a cat", stop=stop)))["choices"][0]["message"]["content"]
    assert content.split("\n")[0] in {"Here is your ", "Here is "}


def test_the_same_seed_and_content_are_the_same_picture() -> None:
    endpoint = _endpoint(paint=True)
    one, other = (_picture(_json(_ask(endpoint, CHAT, _chat("a cat", seed=7)))) for _ in range(2))
    assert one == other
    assert _picture(_json(_ask(endpoint, NATIVE, _native("a cat", seed=7)))) == one
    assert _picture(_json(_ask(endpoint, CHAT, _chat("a cat", seed=8)))) != one
    assert _picture(_json(_ask(endpoint, CHAT, _chat("a cat")))) != _picture(
        _json(_ask(endpoint, CHAT, _chat("a cat")))
    )


SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "mood": {"enum": ["calm", "wild"]},
        "count": {"type": "integer", "minimum": 3},
        "share": {"type": "number"},
        "good": {"type": "boolean"},
        "kind": {"const": "cat"},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/Tag"}},
        "either": {"anyOf": [{"type": "null"}, {"type": "string"}]},
        "maybe": {"type": ["string", "null"]},
    },
    "$defs": {"Tag": {"properties": {"name": {"type": "string"}}}},
}
FILLED = {
    "title": "a cat",
    "mood": "calm",
    "count": 3,
    "share": 0.5,
    "good": True,
    "kind": "cat",
    "tags": [{"name": "a cat"}],
    "either": None,
    "maybe": "a cat",
}


def _upper(value: Any) -> Any:
    """A schema as Google spells it."""
    if isinstance(value, dict):
        return {
            name: item.upper() if name == "type" and isinstance(item, str) else _upper(item)
            for name, item in value.items()
        }
    return value


def test_json_is_an_object_of_the_schema() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}}
    answer = _json(_ask(_endpoint(), CHAT, _chat(response_format=wanted)))
    assert json.loads(answer["choices"][0]["message"]["content"]) == FILLED
    config = {"responseMimeType": "application/json", "response_schema": _upper(SCHEMA)}
    parts = _json(_ask(_endpoint(), NATIVE, _native(**config)))["candidates"][0]["content"]["parts"]
    assert json.loads(parts[-1]["text"]) == FILLED
    free = _json(_ask(_endpoint(), CHAT, _chat(response_format={"type": "json_object"})))
    assert json.loads(free["choices"][0]["message"]["content"]) == {"prompt": "a cat"}


def test_a_schema_that_refers_to_itself_has_an_end() -> None:
    endless = {"properties": {name: {"$ref": "#"} for name in "abcdefgh"}}
    assert len(json.dumps(words.filled(endless, "p"))) < 100_000


@settings(max_examples=60)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: (
            st.dictionaries(
                st.sampled_from(["type", "properties", "items", "enum", "anyOf", "$ref", "const", "minimum"]),
                inner,
            )
            | st.lists(inner)
        ),
    )
)
def test_no_schema_makes_it_raise(schema: Any) -> None:
    msgspec.json.encode(words.filled({"properties": {"a": schema}}, "p"))


def _tools(*names: str) -> list[dict[str, Any]]:
    return [
        {"type": "function", "function": {"name": name, "description": "", "parameters": SCHEMA}}
        for name in names
    ]


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        (None, "first"),
        ("auto", "first"),
        ("required", "first"),
        ({"type": "function", "function": {"name": "second"}}, "second"),
        ("none", None),
    ],
)
def test_a_tool_is_called_with_arguments_of_its_schema(choice: object, called: str | None) -> None:
    body = _chat(tools=_tools("first", "second"), tool_choice=choice)
    reading = _json(_ask(_endpoint(), CHAT, body))["choices"][0]
    assert reading["finish_reason"] == ("tool_calls" if called else "stop")
    if called:
        (call,) = reading["message"]["tool_calls"]
        assert call["function"]["name"] == called
        assert json.loads(call["function"]["arguments"]) == FILLED


@pytest.mark.parametrize(
    ("config", "called"),
    [
        ({}, "first"),
        ({"mode": "ANY", "allowed_function_names": ["second"]}, "second"),
        ({"mode": "NONE"}, None),
    ],
)
def test_a_function_is_called_in_google_s_format(config: dict[str, Any], called: str | None) -> None:
    declared = [{"name": name, "parameters": _upper(SCHEMA)} for name in ("first", "second")]
    body = {
        **_native(),
        "tools": [{"googleSearch": {}}, {"function_declarations": declared}],
        "toolConfig": {"functionCallingConfig": config},
    }
    last = _json(_ask(_endpoint(), NATIVE, body))["candidates"][0]["content"]["parts"][-1]
    assert last.get("functionCall") == (called and {"name": called, "args": FILLED})


def test_after_a_tool_s_answer_the_model_draws() -> None:
    called = {"id": "c", "type": "function", "function": {"name": "first", "arguments": "{}"}}
    messages = [
        *_messages("a cat"),
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c", "content": "4"},
    ]
    answer = _json(_ask(_endpoint(), CHAT, {"model": FLASH, "messages": messages, "tools": _tools("first")}))
    assert prompt_mark(_picture(answer)) == prompt_key("a cat")
    native = _native("a cat")
    native["contents"] += [
        {"role": "model", "parts": [{"functionCall": {"name": "first", "args": {}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "first", "response": {"a_b": 4}}}]},
    ]
    native["tools"] = [{"functionDeclarations": [{"name": "first"}]}]
    assert prompt_mark(_picture(_json(_ask(_endpoint(), NATIVE, native)))) == prompt_key("a cat")


@pytest.mark.parametrize(
    "more",
    [
        {"tools": _tools("a"), "tool_choice": {"type": "function", "function": {"name": "b"}}},
        {"tools": [{"type": "code"}]},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "xml"}},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "judge", "content": "a"}]},
        {"seed": "a"},
        {"stop": [1]},
        {"n": 2},
    ],
)
def test_a_chat_request_that_makes_no_sense_is_a_400(more: dict[str, Any]) -> None:
    assert _ask(_endpoint(), CHAT, {**_chat(), **more}).status == 400


def test_unknown_fields_are_let_pass_as_gateways_do() -> None:
    assert _ask(_endpoint(), CHAT, _chat(user="me", reasoning_effort="high", logprobs=True)).status == 200


# One account, one set of faults, keys


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("fault", [name for name in Faults.__struct_fields__ if name != "reset_before"])
def test_each_fault_is_played_in_each_format_and_what_is_told_is_what_is_billed(
    kind: str, fault: str
) -> None:
    endpoint = _endpoint(faults=Faults(**{fault: 1.0}))
    reply = _asked(kind, endpoint)
    free = reply.status != 200
    assert endpoint.account.billed == (not free)
    if not free and fault != "bad_json":
        answer = _json(reply)
        usage = answer.get("usage") or answer["usageMetadata"]
        total = usage.get("total_tokens") or usage["totalTokenCount"]
        assert total == endpoint.account.models[FLASH].total_tokens


@pytest.mark.parametrize(("kind", "status"), [("chat", 200), ("native", 200), ("images", 400)])
def test_a_refusal_is_told_in_the_format_s_own_words(kind: str, status: int) -> None:
    endpoint = _endpoint(faults=Faults(refusal=1.0))
    reply = _asked(kind, endpoint)
    said = {"chat": "content_filter", "native": "PROHIBITED_CONTENT", "images": "moderation_blocked"}
    assert (reply.status, said[kind] in json.dumps(_json(reply))) == (status, True)
    assert endpoint.account.billed == (status == 200)


def test_all_formats_share_one_quota_and_one_account() -> None:
    endpoint = _endpoint(rpm=1, burst=2)
    assert [_asked(kind, endpoint).status for kind in FORMATS] == [200, 200, 429]
    assert endpoint.account.bought("a cat", FLASH) == 2


def test_the_same_request_is_the_same_picture_in_chat_and_in_google_s_format() -> None:
    chat, native = (_picture(_json(_asked(kind, _endpoint(seed=3)))) for kind in ("chat", "native"))
    assert chat == native


def test_drafts_are_thoughts_in_google_s_format_and_no_part_of_the_images_api() -> None:
    endpoint = _endpoint(faults=Faults(draft=1.0))
    parts = _json(_asked("native", endpoint))["candidates"][0]["content"]["parts"]
    assert ["thought" in part for part in parts] == [True, True, False, False]
    assert "inlineData" in parts[1]
    assert len(_json(_asked("images", endpoint))["data"]) == 1


def test_a_chat_endpoint_without_pictures_says_so_for_free_and_the_others_draw() -> None:
    endpoint = _endpoint(chat_pictures=False)
    reply = _asked("chat", endpoint)
    error = {
        "code": 400,
        "message": "Unhandled generated data mime type: image/jpeg",
        "status": "INVALID_ARGUMENT",
    }
    assert (reply.status, _json(reply)) == (400, [{"error": error}])
    assert endpoint.account.billed == 0
    assert _asked("native", endpoint).status == _asked("images", endpoint).status == 200
    assert _ask(endpoint, CHAT, _chat(modalities=["text"])).status == 200


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"authorization": "Bearer right"}, ""),
        ({"x-goog-api-key": "right"}, ""),
        ({"x-api-key": "right"}, ""),
        ({}, "?key=right"),
    ],
)
def test_a_key_is_taken_wherever_it_may_stand(headers: dict[str, str], query: str) -> None:
    endpoint, body = _endpoint(key="right"), json.dumps(_native()).encode()
    assert endpoint.answer("POST", NATIVE + query, headers, body).status == 200
    wrong = {name: value.replace("right", "wrong") for name, value in headers.items()}
    refused = endpoint.answer("POST", NATIVE + query.replace("right", "wrong"), wrong, body)
    assert (refused.status, "API_KEY_INVALID" in json.dumps(_json(refused))) == (400, True)


@pytest.mark.parametrize(("kind", "status"), [("chat", 401), ("native", 403), ("images", 401)])
def test_without_a_key_nothing_is_answered(kind: str, status: int) -> None:
    path = {"chat": CHAT, "native": NATIVE, "images": GENERATE}[kind]
    assert _endpoint().answer("POST", path, {}, b"{}").status == status


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1beta/models/none:generateContent", _native()),
        (CHAT, {**_chat(), "model": "none-2k"}),
        (CHAT, {**_chat(), "model": "x" * 100_000}),
        (GENERATE, {"model": "none", "prompt": "a"}),
    ],
)
def test_a_model_that_is_not_sold_is_a_404_in_every_format(path: str, body: object) -> None:
    reply = _ask(_endpoint(), path, body)
    assert (reply.status, "not found for API version" in json.dumps(_json(reply))) == (404, True)


def test_a_model_may_be_named_by_an_alias_in_the_path() -> None:
    path = "/v1beta/models/google%2Fgemini-3.1-flash-image:generateContent"
    assert _json(_ask(_endpoint(), path, _native()))["modelVersion"] == "google/gemini-3.1-flash-image"


SCRAPS = [
    *(
        b"form-data",
        b"; name=",
        b'"image"',
        b'"',
        b"*0*=utf-8''",
        b"=?utf-8?q?a?=",
        b"\\",
        b"(",
        b"\xff",
        b":",
    ),
    *(b"image/png", b"multipart/mixed; boundary=x", b"message/rfc822", b"\r\n", b"--x", b"--", b"\r\n "),
    *(b"content-transfer-encoding: base64", b"content-disposition: ", b"content-type: "),
]


@settings(max_examples=150)
@given(st.lists(st.sampled_from(SCRAPS), max_size=14).map(b"".join))
def test_no_form_makes_it_raise(scraps: bytes) -> None:
    body = b"--x\r\ncontent-disposition: form-data" + scraps + b"\r\n--x--"
    reply = _ask(_endpoint(), EDIT, body, **{"content-type": "multipart/form-data; boundary=x"})
    assert reply.status == 400


@settings(max_examples=60)
@given(st.binary(max_size=200), st.sampled_from([NATIVE, GENERATE]))
def test_no_bytes_make_it_raise(body: bytes, path: str) -> None:
    assert _ask(_endpoint(), path, body).status == 400


@pytest.mark.parametrize(
    "path", ["/%FF%00/models/%ud800:generateContent?key=%zz&&=", "//models/:generateContent"]
)
def test_no_path_makes_it_raise(path: str) -> None:
    assert _ask(_endpoint(), path, _native()).status == 404


def test_what_gateways_do_is_a_flag_of_simulate() -> None:
    with simulator("--no-paint", "--no-chat-pictures", "--ignore-size", "--reference-urls") as url:
        assert httpx.post(url + CHAT, headers=KEY, json=_chat()).status_code == 400
        url_part = {"fileData": {"fileUri": "https://example.org/a.png"}}
        body = _native(imageConfig={"imageSize": "4K"})
        body["contents"][0]["parts"].append(url_part)
        answer = httpx.post(url + NATIVE, headers=KEY, json=body).json()
        assert answer["usageMetadata"]["candidatesTokensDetails"][0]["tokenCount"] == 1120


VALUES: st.SearchStrategy[object] = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just([]) | st.just({})
)


def _mutated(value: Any, path: list[int], new: object) -> Any:
    """A body in which one node, found along a path, is another value."""
    if not path or not value or not isinstance(value, dict | list):
        return new
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[path[0] % len(keys)]
    inner = _mutated(value[key], path[1:], new)
    return {**value, key: inner} if isinstance(value, dict) else [*value[:key], inner, *value[key + 1 :]]


WHOLE = [
    (
        CHAT,
        _chat(
            "a",
            _url(PNG),
            tools=_tools("f"),
            tool_choice="auto",
            response_format={"type": "json_schema", "json_schema": {"schema": SCHEMA}},
            extra_body={"google": {"image_config": {"aspect_ratio": "1:1"}}},
            modalities=["text", "image"],
            stream=True,
            stream_options={"include_usage": True},
            stop=["a"],
        ),
    ),
    (
        NATIVE,
        {
            **_native(
                "a", PNG, imageConfig={"aspectRatio": "1:1"}, responseSchema=SCHEMA, stopSequences=["a"]
            ),
            "tools": [{"functionDeclarations": [{"name": "f", "parameters": SCHEMA}]}],
            "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
            "systemInstruction": {"parts": [{"text": "a"}]},
        },
    ),
    (GENERATE, {"model": FLASH, "prompt": "a", "size": "1024x1024", "response_format": "b64_json"}),
]


@settings(max_examples=200)
@given(st.sampled_from(WHOLE), st.lists(st.integers(0, 9), max_size=6), VALUES)
def test_no_request_makes_it_raise(whole: tuple[str, Any], path: list[int], new: object) -> None:
    reply = _ask(_endpoint(), whole[0], _mutated(whole[1], path, new))
    assert reply.status in {200, 400, 404}
    if callable(reply.body):
        reply.body()


def test_the_sizes_of_a_table_are_those_of_every_model() -> None:
    assert sizes.pixels("21:9", "4K") == (6336, 2688)
    assert sizes.pixels(None, "512") == (512, 512)
