"""Which models does the endpoint sell, and how does it list them?"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from batchgen.providers import catalogue, find_model
from batchgen.records import Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchgen.records import Model, Provider

LONGEST = 200
"""Letters of a model's name."""

_SELLERS = ("core-today", "openai")
"""Whose models and prices it has; those of the second are for the Images API alone."""
_SUFFIXES = {"-1k": "1K", "-2k": "2K", "-4k": "4K"}


class Offer(Value, frozen=True, kw_only=True):
    """A model, as it was asked for."""

    model: Model
    provider: Provider
    size: str | None = None
    """What the suffix of its name says."""


def offer(name: str) -> Offer | None:
    """The model of this id or alias, if it is sold; the size may follow its name (`…-2k`)."""
    found = _find(name) if len(name) <= LONGEST else None
    if found is None and (size := _SUFFIXES.get(name[-3:].lower())):
        found = _find(name[:-3])
        return found and Offer(model=found.model, provider=found.provider, size=size)
    return found


def openai_list() -> dict[str, Any]:
    """All models, as OpenAI lists them."""
    return {"object": "list", "data": [*map(openai_model, _offers())]}


def openai_model(offer: Offer) -> dict[str, Any]:
    """One of them."""
    owner = "openai" if offer.provider.dialect == "images" else "google"
    return {"id": offer.model.id, "object": "model", "created": 0, "owned_by": owner}


def native_list() -> dict[str, Any]:
    """The models that generate content, as Google lists them."""
    return {"models": [native_model(one) for one in _offers() if one.provider.dialect != "images"]}


def native_model(offer: Offer) -> dict[str, Any]:
    """One of them."""
    model = offer.model
    return {
        "name": f"models/{model.id}",
        "version": "simulated",
        "displayName": model.title,
        "inputTokenLimit": model.context_tokens or 0,
        "outputTokenLimit": model.max_output_tokens or 0,
        "supportedGenerationMethods": ["generateContent"],
    }


@functools.lru_cache(maxsize=256)
def _find(name: str) -> Offer | None:
    for provider in _sellers():
        if (model := find_model(provider, name)) is not None:
            return Offer(model=model, provider=provider)
    return None


def _offers() -> Iterator[Offer]:
    for provider in _sellers():
        yield from (Offer(model=model, provider=provider) for model in provider.models)


def _sellers() -> Iterator[Provider]:
    return (catalogue()[name] for name in _SELLERS)
