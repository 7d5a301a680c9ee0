"""The known endpoints are complete and dated, names find their models, and a job can state its own."""

from __future__ import annotations

import datetime as dt
import tomllib
from decimal import Decimal
from importlib import resources
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.errors import InputError
from batchgen.providers import at_url, catalogue, find, find_model, override, speaking
from batchgen.records import Model, Price, Provider

FLASH = "gemini-3.1-flash-image-preview"
PRO = "gemini-3-pro-image-preview"
REAL = [provider for provider in catalogue().values() if not provider.simulated]
GEMINI = [provider for provider in catalogue().values() if provider.name != "openai"]


def changed(model: str, **table: object) -> Model:
    found = find_model(override(find("core-today"), {model: table}), model)
    assert found is not None
    return found


def refusal(model: str, **table: object) -> str:
    with pytest.raises(InputError) as caught:
        override(find("core-today"), {model: table})
    return str(caught.value)


# The data


def test_the_five_providers_are_known() -> None:
    assert list(catalogue()) == ["core-today", "google", "openrouter", "openai", "simulator"]


@pytest.mark.parametrize("provider", catalogue().values(), ids=catalogue())
def test_a_provider_is_complete_dated_and_sourced(provider: Provider) -> None:
    assert catalogue()[provider.name] is provider
    assert provider.title
    assert provider.models
    assert provider.dialect == {"openai": "images", "google": "gemini"}.get(provider.name, "chat")
    assert dt.date.fromisoformat(provider.prices_as_of) <= dt.datetime.now(dt.UTC).date()
    assert provider.source.startswith("https://")
    assert not provider.base_url.endswith(("/", "/chat/completions"))


@pytest.mark.parametrize("provider", REAL, ids=lambda provider: provider.name)
def test_a_key_for_batchgen_goes_before_the_vendors_own(provider: Provider) -> None:
    assert provider.key_variables[0] == "BATCHGEN_API_KEY"
    assert len(provider.key_variables) > 1
    assert provider.base_url.startswith("https://")


def test_every_key_of_the_data_is_one_that_is_read() -> None:
    raw = tomllib.loads(resources.files("batchgen").joinpath("models.toml").read_text(encoding="utf-8"))
    assert set(raw) == {"models", "providers"}
    models = [
        *raw["models"].values(),
        *(model for p in raw["providers"].values() for model in p.get("models", [])),
    ]
    assert {key for model in models for key in model} - {"like"} <= set(Model.__struct_fields__)
    assert {key for table in raw["providers"].values() for key in table} - {"like"} <= set(
        Provider.__struct_fields__
    )


def test_the_documented_endpoint_has_the_documented_models_and_prices() -> None:
    provider = find("core-today")
    assert provider.base_url == "https://api.core.today/llm/gemini/v1beta/openai"
    assert provider.key_variables == ("BATCHGEN_API_KEY", "CORE_TODAY_API_KEY")
    assert provider.usd_per_credit == Decimal("0.001")
    assert {model.id: model.price for model in provider.models} == {
        FLASH: Price(input=Decimal("0.5"), text=Decimal(3), image=Decimal(60)),
        PRO: Price(input=Decimal(4), text=Decimal(24), image=Decimal(240)),
    }


def test_the_simulator_sells_what_the_documented_endpoint_sells_for_nothing() -> None:
    simulator = find("simulator")
    assert simulator.simulated
    assert simulator.key_variables == ()
    assert simulator.base_url == "http://simulator"
    assert simulator.models == find("core-today").models


@pytest.mark.parametrize("provider", GEMINI, ids=lambda provider: provider.name)
@pytest.mark.parametrize("family", ["gemini-3.1-flash-image", "gemini-3-pro-image"])
def test_preview_and_general_names_find_the_id_the_provider_sells_under(
    provider: Provider, family: str
) -> None:
    names = [prefix + family + suffix for prefix in ("", "google/") for suffix in ("", "-preview")]
    found = {model.id for name in names if (model := find_model(provider, f" {name.upper()} "))}
    assert len(found) == 1
    assert found <= set(names)


@pytest.mark.parametrize("provider", catalogue().values(), ids=catalogue())
def test_no_two_models_of_a_provider_share_a_name(provider: Provider) -> None:
    names = [name.casefold() for model in provider.models for name in (model.id, *model.aliases)]
    assert len(names) == len(set(names))


# Finding


@pytest.mark.parametrize("name", ["core-today", "Core-Today", " google "])
def test_a_provider_is_found_in_any_case(name: str) -> None:
    assert find(name).name == name.strip().lower()


def test_an_unknown_provider_is_told_with_the_nearest_or_with_all() -> None:
    with pytest.raises(InputError, match="did you mean 'openrouter'"):
        find("open-router")
    with pytest.raises(InputError, match="known: core-today, google, openrouter, openai, simulator"):
        find("xyzzy")


def test_an_unknown_model_is_none_because_an_endpoint_may_know_it() -> None:
    assert find_model(find("core-today"), "gemini-9") is None


def test_an_id_goes_before_an_alias() -> None:
    provider = Provider(
        name="p", title="", base_url="", models=(Model(id="a", aliases=("b",)), Model(id="b", aliases=("c",)))
    )
    found = find_model(provider, "b")
    assert found is not None
    assert found.id == "b"


# Any base URL


@pytest.mark.parametrize(
    ("given_url", "base_url"),
    [
        ("https://h.example/v1", "https://h.example/v1"),
        ("https://h.example/v1/", "https://h.example/v1"),
        (" https://h.example/v1/chat/completions ", "https://h.example/v1"),
        ("https://h.example/v1/chat/completions/", "https://h.example/v1"),
        ("https://h.example/chat/completions", "https://h.example"),
        ("https://h.example/v1/images/generations", "https://h.example/v1"),
        ("https://h.example/v1/Images/Edits/", "https://h.example/v1"),
        ("HTTPS://H.Example:8443/V1", "https://h.example:8443/V1"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080/v1", "http://[::1]:8080/v1"),
    ],
)
def test_a_base_url_ends_before_the_path_of_the_dialect(given_url: str, base_url: str) -> None:
    provider = at_url(given_url)
    assert provider == Provider(name="custom", title=base_url, base_url=base_url)
    assert at_url(base_url) == provider
    assert provider.key_variables == ("BATCHGEN_API_KEY",)


def test_the_address_of_a_known_provider_is_that_provider() -> None:
    assert at_url("https://api.core.today/llm/gemini/v1beta/openai/chat/completions") is find("core-today")
    native = at_url("https://api.core.today/llm/gemini/v1beta/")
    assert native == speaking(find("core-today"), "gemini")
    assert at_url(native.base_url, dialect="gemini") == native
    assert at_url(find("google").base_url) is find("google")
    other = at_url("https://api.core.today/llm/gemini/v1beta/openai", dialect="other")
    assert (other.name, other.dialect, other.models) == ("custom", "other", ())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h.example/v1",
        "ftp://h/v1",
        "https://",
        "https:///v1",
        "https://h:x/v1",
        "https://[::1",
        "https://a b",
    ],
)
def test_what_is_no_http_url_is_told(url: str) -> None:
    with pytest.raises(InputError, match="--base-url"):
        at_url(url)


@pytest.mark.parametrize(
    "url",
    ["https://user:hunter2@h/v1", "https://h/v1?key=hunter2", "https://h/v1#hunter2", "user:hunter2@h/v1"],
)
def test_a_key_in_a_base_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(InputError) as caught:
        at_url(url)
    assert "hunter2" not in str(caught.value)
    assert "BATCHGEN_API_KEY" in str(caught.value)


@given(st.text(max_size=40) | st.text(max_size=30).map("https://h/".__add__))
def test_any_text_is_a_base_url_or_an_input_error(text: str) -> None:
    try:
        provider = at_url(text)
    except InputError:
        return
    assert provider.base_url.startswith(("http://", "https://"))
    assert at_url(provider.base_url) == provider


# A job's own models


def test_a_job_may_state_a_part_of_a_known_price() -> None:
    assert changed(PRO, price={"image": 120}).price == Price(
        input=Decimal(4), text=Decimal(24), image=Decimal(120)
    )


@pytest.mark.parametrize("amount", [0.1, "0.1", Decimal("0.1")])
def test_a_price_is_exactly_what_was_written(amount: object) -> None:
    price = changed("new", price={"input": amount, "text": 0, "image": 60}).price
    assert price == Price(input=Decimal("0.1"), text=Decimal(0), image=Decimal(60))


def test_a_model_that_is_not_there_is_added_behind_the_known_ones() -> None:
    provider = override(
        find("core-today"), {"new": {"image_tokens": {"1K": 1}, "aliases": ["n"], "title": "New"}}
    )
    assert [model.id for model in provider.models] == [FLASH, PRO, "new"]
    assert find_model(provider, "N") == Model(id="new", title="New", aliases=("n",), image_tokens={"1K": 1})


def test_an_alias_names_the_model_it_stands_for() -> None:
    provider = override(find("core-today"), {"gemini-3-pro-image": {"max_output_tokens": 5}})
    assert [(model.id, model.max_output_tokens) for model in provider.models][1] == (PRO, 5)
    assert len(provider.models) == 2


def test_what_a_job_does_not_state_stays() -> None:
    assert override(find("core-today"), {}) == find("core-today")
    before = find_model(find("core-today"), PRO)
    assert changed(PRO) == before
    after = changed(PRO, features=["x"], context_tokens=7, max_references=2)
    assert before is not None
    assert (after.price, after.aliases, after.features) == (before.price, before.aliases, ("x",))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"prize": {}}, ["[models.\"m\"]", "'prize'", "did you mean 'price'"]),
        ({"xyzzy": 1}, ["'xyzzy'", "known: title"]),
        ({"id": "x"}, ["'id'"]),
        ({"price": 5}, ["price", "table"]),
        ({"price": {"input": 1, "text": 2}}, ["price", "image missing"]),
        ({"price": {"input": 1, "text": 2, "imagee": 3}}, ["'imagee'", "did you mean 'image'"]),
        *(({"price": {"input": bad, "text": 1, "image": 1}}, ["price.input"])
          for bad in (-1, "x", True, float("nan"), float("inf"), None, [1], 10**9, "1e999999999")),
        ({"image_tokens": 1120}, ["image_tokens", "table"]),
        ({"image_tokens": {"1k": 1120}}, ["'1k'", "did you mean '1K'"]),
        *(({"image_tokens": {"1K": bad}}, ["image_tokens.1K"]) for bad in (0, -1, 1.5, True, "1", 10**12)),
        *(({"max_output_tokens": bad}, ["max_output_tokens"]) for bad in (0, -1, 1.5, True, "1")),
        ({"reference_tokens": 0}, ["reference_tokens"]),
        ({"price": {"image_input": "x"}}, ["price.image_input"]),
        ({"aliases": "x"}, ["aliases"]),
        ({"aliases": [1]}, ["aliases"]),
        ({"title": 5}, ["title"]),
        ({"aliases": [FLASH]}, [FLASH, "already belongs"]),
        ({"aliases": ["GEMINI-3-pro-image"]}, ["gemini-3-pro-image", "already belongs"]),
    ],
)  # fmt: skip
def test_a_mistake_in_a_jobs_model_is_told_with_its_place(table: dict[str, Any], words: list[str]) -> None:
    message = refusal("m", **table)
    assert all(word in message for word in ["m", *words]), message


def test_a_price_for_pictures_that_go_along_may_be_stated_and_need_not() -> None:
    price = Price(input=Decimal(4), text=Decimal(24), image=Decimal(240), image_input=Decimal(8))
    assert changed(PRO, price={"image_input": 8}).price == price
    assert changed("new", price={"input": 1, "text": 2, "image": 3, "image_input": "0.5"}).price == Price(
        input=Decimal(1), text=Decimal(2), image=Decimal(3), image_input=Decimal("0.5")
    )


def test_google_is_asked_in_its_own_format_because_its_chat_sends_no_pictures() -> None:
    google = find("google")
    assert (google.dialect, google.key_header) == ("gemini", "x-goog-api-key")
    chat = speaking(google, "chat")
    assert (chat.base_url, chat.key_header) == (f"{google.base_url}/openai", "authorization")


@pytest.mark.parametrize("name", ["core-today", "google", "simulator"])
def test_the_images_api_is_spoken_where_chat_is(name: str) -> None:
    provider = find(name)
    images = speaking(provider, "images")
    assert (images.dialect, images.base_url) == ("images", speaking(provider, "chat").base_url)
    assert (images.models, images.key_variables) == (provider.models, provider.key_variables)


def test_openai_sells_at_the_prices_that_were_published() -> None:
    def usd(*prices: str) -> Price:
        input_, image_input, text, image = map(Decimal, prices)
        return Price(input=input_, image_input=image_input, text=text, image=image)

    assert {model.id: model.price for model in find("openai").models} == {
        "gpt-image-2.6-sunburst": usd("5", "8", "30", "30"),
        "gpt-image-2.6-flare": usd("5", "8", "30", "30"),
        "gpt-image-2.5-sunburst": None,
        "gpt-image-2.5-flare": None,
        "gpt-image-2": usd("5", "8", "30", "30"),
        "gpt-image-1.5": usd("5", "8", "10", "32"),
        "gpt-image-1-mini": usd("2", "2.5", "8", "8"),
        "gpt-image-1": usd("5", "10", "40", "40"),
    }


def test_a_model_is_a_table_with_a_name() -> None:
    assert "needs a name" in refusal(" ")
    with pytest.raises(InputError, match="a table is needed"):
        override(find("core-today"), {"m": 5})  # type: ignore[dict-item]
