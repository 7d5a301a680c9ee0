"""
How many tokens does an answer say it took?

Names differ between OpenAI, the gateways and Google's own format; numbers come as text, floats or null. What
is negative, absurd or no number counts as not said.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from batchgen.dialects.lenient import amount, count, mapping, sequence, string
from batchgen.records import ReportedUsage

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_USD = 100_000
_NANO = Decimal("1e-9")


def reported(body: Mapping[str, Any], *, pictures_only: bool = False) -> ReportedUsage | None:
    """
    Read `usage`, or Google's `usageMetadata`; None when there is neither or nothing in it.

    :param pictures_only: All output is pictures, as in the Images API, which often does not say so.
    """
    usage, metadata = mapping(body.get("usage")), mapping(body.get("usageMetadata"))
    found = _openai(usage) if usage else _google(metadata)
    if pictures_only and found.image_tokens is None:
        found = msgspec.structs.replace(found, image_tokens=found.completion_tokens)
    return found if found != ReportedUsage() else None


def _openai(usage: Mapping[str, Any]) -> ReportedUsage:
    details = _first(usage, "completion_tokens_details", "output_tokens_details")
    asked = _first(usage, "prompt_tokens_details", "input_tokens_details")
    return ReportedUsage(
        prompt_tokens=count(_first(usage, "prompt_tokens", "input_tokens")),
        completion_tokens=count(_first(usage, "completion_tokens", "output_tokens")),
        total_tokens=count(usage.get("total_tokens")),
        image_tokens=count(mapping(details).get("image_tokens")),
        input_image_tokens=count(mapping(asked).get("image_tokens")),
        cost_usd=_cost(usage),
    )


def _google(metadata: Mapping[str, Any]) -> ReportedUsage:
    """
    Thinking is output, tools are input: https://ai.google.dev/api/generate-content#UsageMetadata.

    The details are parts of the candidates' tokens, and their sum where that is left out.
    """
    made, shown = (_modalities(metadata, f"{name}TokensDetails") for name in ("candidates", "prompt"))
    if made and not count(metadata.get("candidatesTokenCount")):
        metadata = {**metadata, "candidatesTokenCount": sum(made.values())}
    return ReportedUsage(
        prompt_tokens=_sum(metadata, "promptTokenCount", "toolUsePromptTokenCount"),
        completion_tokens=_sum(metadata, "candidatesTokenCount", "thoughtsTokenCount"),
        total_tokens=count(metadata.get("totalTokenCount")),
        image_tokens=made.get("IMAGE"),
        input_image_tokens=shown.get("IMAGE"),
    )


def _modalities(metadata: Mapping[str, Any], name: str) -> dict[str, int]:
    """Tokens by modality."""
    found: dict[str, int] = {}
    for part in map(mapping, sequence(metadata.get(name))):
        modality = string(part.get("modality")).upper()
        found[modality] = found.get(modality, 0) + (count(part.get("tokenCount")) or 0)
    return found


def _first(table: Mapping[str, Any], *names: str) -> object:
    return next((table[name] for name in names if table.get(name) is not None), None)


def _sum(table: Mapping[str, Any], *names: str) -> int | None:
    counts = [number for name in names if (number := count(table.get(name))) is not None]
    return sum(counts) if counts else None


def _cost(usage: Mapping[str, Any]) -> Decimal | None:
    """
    Read the money named; with a key of one's own, the upstream bills its part separately.

    https://openrouter.ai/docs/use-cases/usage-accounting
    """
    cost = _money(usage.get("cost"))
    if cost is not None and usage.get("is_byok") is True:
        upstream = _money(mapping(usage.get("cost_details")).get("upstream_inference_cost"))
        cost += upstream or 0
    return cost


def _money(value: object) -> Decimal | None:
    usd = amount(value)
    if usd is None or usd > _MOST_USD:
        return None
    return Decimal(repr(usd)).quantize(_NANO, rounding=ROUND_HALF_EVEN)
