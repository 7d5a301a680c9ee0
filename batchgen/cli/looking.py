"""How does the terminal show what is there: a run directory, the known models?"""

from __future__ import annotations

import os
import socket
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from batchgen import providers, recovery
from batchgen.cli.counting import counted, looks_told
from batchgen.cli.saying import say, say_json
from batchgen.cli.terminal import line
from batchgen.job import LEDGER, TABLE
from batchgen.ledger import Reader

if TYPE_CHECKING:
    from batchgen.ledger import Run, Totals
    from batchgen.records import Model, Provider
    from batchgen.results import Odd


def status(directory: str, *, as_json: bool) -> int:
    """Tell how far a run is, from its ledger, and of odd pictures from its table; 0 whatever it says."""
    path = Path(directory) / LEDGER
    recovery.check_not_lost(path)
    with closing(Reader(path)) as reader:
        totals, last, failures = reader.totals(), reader.last_run(), reader.failures()
        odd = _odd(Path(directory) / TABLE) if reader.has_looks() else None
    if as_json:
        looks = {} if odd is None else {"blank": odd.blank, "near_duplicates": odd.near_duplicates}
        say_json({**msgspec.structs.asdict(totals), **looks, "run": last, "failures": failures})
        return 0
    told = _told(directory, totals, last, failures)
    say("\n".join(told if odd is None else [*told, *looks_told(odd.blank, odd.near_duplicates)]))
    return 0


def _odd(table: Path) -> Odd | None:
    """Which pictures are told apart in the last table; None without one."""
    from batchgen import results  # noqa: PLC0415  it is large, and most run directories need none of it

    return results.odd(table) if table.is_file() else None


def _told(
    directory: str, totals: Totals, last: Run | None, failures: list[tuple[str, int, str]]
) -> list[str]:
    rows, in_words = None if last is None else last.tasks, totals.in_words
    simulated = "  (simulated: no money was spent)" if last is not None and last.simulated else ""
    lines = [
        f"{directory}: {counted(totals.tasks, rows, for_words=in_words > 0, in_words=in_words)}",
        f"  cost      ${totals.cost_usd:,.4f}, ${totals.wasted_usd:,.4f} of it bought no picture{simulated}",
        f"  tokens    {totals.usage.prompt_tokens:,} in, {totals.usage.text_tokens:,} text out,"
        f" {totals.usage.image_tokens:,} image out",
        f"  requests  {totals.requests:,}",
    ]
    if totals.uncertain:
        lines.append(f"  uncertain {totals.uncertain:,} requests, up to ${totals.uncertain_usd:,.4f} more")
    if totals.unpriced:
        lines.append(f"  unpriced  {totals.unpriced:,} requests: their model has no known price")
    if last is not None:
        lines.append(f"  last run  {_session(last)}")
    lines += [f"  {count:,} x {kind}: {line(example)}" for kind, count, example in failures]
    return lines


def _session(last: Run) -> str:
    began = f"began {_when(last.started_at)} with {last.provider}"
    if last.ended_at is None:
        return f"{began}, {_alive(last)} (pid {last.pid} on {last.host})"
    return f"{began}, ended {_when(last.ended_at)}: {last.ended}"


def _alive(last: Run) -> str:
    if last.host != socket.gethostname():
        return "running or killed"
    try:
        os.kill(last.pid, 0)
    except ProcessLookupError:
        return "killed; the same command goes on"
    except PermissionError:
        pass  # somebody else's, and alive
    return "running"


def _when(at: int) -> str:
    return datetime.fromtimestamp(at / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


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
