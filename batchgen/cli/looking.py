"""How does the terminal show what is known of providers and models?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen import providers
from batchgen.cli.saying import say, say_json

if TYPE_CHECKING:
    from batchgen.records import Model, Provider


def models(provider: str | None, *, as_json: bool) -> int:
    """Tell what is known of providers and models; 0."""
    known = [providers.find(provider)] if provider is not None else [*providers.catalogue().values()]
    if as_json:
        say_json({each.name: each for each in known})
    else:
        say("\n\n".join(_listed(each) for each in known))
    return 0


def _listed(provider: Provider) -> str:
    keys = " or ".join(provider.key_variables) or "none needed"
    formats = ", ".join((provider.dialect, *provider.ways))
    lines = [
        f"{provider.name}: {provider.title}, {provider.base_url}",
        f"  key {keys}",
        f"  dialect {formats}",
    ]
    if provider.prices_as_of:
        lines.append(f"  prices as of {provider.prices_as_of}, USD per million tokens; {provider.source}")
    for model in provider.models:
        lines += [f"  {model.id}", f"    {_priced(model)}"]
        others = [name for name in model.aliases if "/" not in name]
        lines.append(f"    also as {', '.join(others)}" if others else "")
    return "\n".join(line for line in lines if line)


def _priced(model: Model) -> str:
    if model.price is None:
        return "no known price; state it in a job file"
    price = model.price
    shown = f", pictures in {price.image_input:f}" if price.image_input is not None else ""
    prices = f"in {price.input:f}{shown}, text out {price.text:f}, image out {price.image:f}"
    each = ", ".join(
        f"{size} ${model.image_tokens[size] * price.image / 1_000_000:.4f}"
        for size in providers.SIZES
        if size in model.image_tokens
    )
    return f"{prices}; a picture: {each}" if each else prices
