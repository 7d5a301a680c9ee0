"""
Which job file fits a manifest?

The columns say what is likely meant; everything else a job may say is there as a comment. What is written is
TOML whatever the columns are called.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import TYPE_CHECKING

from batchgen.manifest.rows import COLUMNS
from batchgen.records import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROMPTS = (
    "prompt",
    "prompts",
    "caption",
    "captions",
    "text",
    "description",
    "instruction",
    "query",
    "title",
)
_IDS = ("id", "custom_id", "sku", "uid", "uuid", "key", "image_id", "item_id", "product_id", "slug", "name")
"""What others call our columns, the likeliest first."""
_SHOWN = 20
_SPARE = Decimal("1.25")
"""A budget, as a multiple of what is expected: answers differ in length, some are asked for twice."""

OPTIONS = (
    ("output", '"runs/tonight"', "the run directory; runs/<name of this file> unless said"),
    (
        "key_file",
        '"~/.batchgen-key"',
        "a file with the API key alone in it, chmod 600; else BATCHGEN_API_KEY",
    ),
    ("base_url", '"http://127.0.0.1:8080/v1"', "another endpoint, up to /chat/completions"),
    ("dialect", '"gemini"', "the wire format: chat, gemini or images; the provider's own unless said"),
    ("stream", "true", "answers as events: past proxies that cut what is silent for long"),
    ("variants", "2", "pictures a row"),
    ("name", '"{id}"', "file names from columns, such as {category}/{id}"),
    ("system", '"You are a product photographer. Answer with one picture."', "for rows without one"),
    ("aspect_ratio", '"16:9"', "for rows without one; what the model takes"),
    ("image_size", '"2K"', "512, 1K, 2K or 4K: it changes the price"),
    ("temperature", "1.0", "0 to 2"),
    ("seed", "7", "for rows without one"),
    ("concurrency", "8", "requests in flight, at most"),
    ("rpm", "60", "requests a minute: the quota of your account, never passed"),
    ("ipm", "60", "pictures a minute, never passed"),
    ("tpm", "1_000_000", "tokens a minute, never passed"),
    ("attempts", "5", "for one picture; an answer 429 counts none"),
    ("timeout", "300", "seconds a request may take"),
    ("drain", "300", "seconds for what is in flight to land after Ctrl-C"),
    ("max_failure_rate", "0.5", "stop when more of the last hundred tasks failed for good"),
    ("on_daily_quota", '"wait"', "once the day's quota is used up, until its reset; or stop"),
    ("on_uncertain", '"retry"', "requests a crash left unanswered: once more; or skip"),
    ("ray", '"auto"', "the Ray cluster whose nodes make the requests"),
    ("check", '"full"', "decode every picture; or quick, its structure alone"),
    ("quality", "true", "after buying, find blank pictures and ones that look the same"),
    ("embed", "true", "prompt, model, request and origin into each picture (XMP)"),
    ("log_file", '"run.jsonl"', "what happens, one JSON object a line, beside this file"),
    ("limit", "10", "only the first so many tasks: a small beginning"),
)
"""Keys of a job that are written as comments: an example, and what it says."""


class Guess(Value, frozen=True, kw_only=True):
    """What the columns of a manifest most likely are."""

    columns: dict[str, str]
    """Our column to the manifest's, where those are not the same."""
    template: str | None
    """Where no column holds prompts."""


class Seen(Value, frozen=True, kw_only=True):
    """What is known of a manifest that was read with a guess."""

    names: tuple[str, ...]
    rows: int
    tasks: int
    expected_usd: Decimal | None
    """What all of it will cost, about; None where the model has no price."""


def guess(names: Sequence[str], *, ids: bool = True) -> Guess:
    """
    Look at the names of a manifest's columns.

    :param ids: whether another column may stand for the id; not where its cells repeat.
    """
    folded: dict[str, str] = {}
    for name in names:
        folded.setdefault(name.casefold(), name)
    columns = {}
    template = None
    if not {"prompt", "messages"} & set(folded):
        prompt = _likeliest(_PROMPTS, folded)
        if prompt is not None:
            columns["prompt"] = prompt
        else:
            template = _joined(names)
    if ids and not {"id", "custom_id"} & set(folded):
        found = _likeliest(_IDS, folded)
        if found is not None and found not in columns.values():
            columns["id"] = found
    return Guess(columns=columns, template=template)


def _likeliest(wanted: Sequence[str], folded: dict[str, str]) -> str | None:
    return next((folded[name] for name in wanted if name in folded), None)


def _joined(names: Sequence[str]) -> str | None:
    """All that may describe something, one after the other, in a template's own writing."""
    ours = {*COLUMNS, *_IDS}
    fit = [name for name in names if name.casefold() not in ours and not re.search(r"[{}\0]", name) and name]
    return " ".join(f"{{{name}}}" for name in fit) or None


def job_file(manifest: str, guessed: Guess, seen: Seen, *, command: str) -> str:
    """
    Write the job file.

    :param manifest: its path as the job file's folder sees it.
    :param command: what runs it, for the first line.
    """
    known = ", ".join(quoted(name) for name in seen.names[:_SHOWN])
    more = f" and {len(seen.names) - _SHOWN} more" if len(seen.names) > _SHOWN else ""
    lines = [
        f"# {_comment(command)}",
        f"# {seen.rows:,} rows, {seen.tasks:,} tasks; its columns: {known}{more}",
        f"manifest = {quoted(manifest)}",
        "",
        "# Where pictures come from: `batchgen models` lists all. The simulator costs nothing, needs no key.",
        'provider = "core-today"',
        'model = "gemini-3.1-flash-image-preview"',
        "",
        *_prompts(guessed),
        *_money(seen),
        "",
        "# What else may be said, each with an example; what rows say themselves goes before it.",
        *_options(),
        "",
        "# With --provider simulator: how long its answers take, as a part of the real models'.",
        "[simulator]",
        "latency = 0.1",
        "",
        "# A model that `batchgen models` does not know, with its price in USD per million tokens:",
        '# [models."my-model"]',
        "# price = { input = 0.5, text = 3, image = 60 }",
    ]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A text as TOML has it (https://toml.io/en/v1.0.0#string), on one line."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _comment(text: str) -> str:
    return re.sub(r"[\x00-\x08\x0a-\x1f\x7f]", " ", text)


def _prompts(guessed: Guess) -> list[str]:
    lines = []
    if guessed.template is not None:
        lines += [
            "# No column seems to hold prompts: they are made from columns. Say it as to a painter:",
            '# template = "A studio photo of {product} on {background}"',
            f"template = {quoted(guessed.template)}",
        ]
    if guessed.columns:
        pairs = ", ".join(f"{ours} = {quoted(theirs)}" for ours, theirs in guessed.columns.items())
        lines += ["# Our column = the manifest's:", f"columns = {{ {pairs} }}"]
    return [*lines, ""] if lines else []


def _money(seen: Seen) -> list[str]:
    if seen.expected_usd is None:
        return ["# budget = 10.0    # USD, ever, in the run directory: never passed; needs a known price"]
    least = max(1, math.ceil(seen.expected_usd * _SPARE))
    about = f"about ${seen.expected_usd:,.2f} by prices and sizes, and a quarter more"
    return [
        "# USD that may be spent in the run directory, ever; never passed.",
        f"budget = {least}    # {about}",
    ]


def _options() -> list[str]:
    width = max(len(f"{key} = {value}") for key, value, _ in OPTIONS if len(value) < 30)
    return [f"# {f'{key} = {value}':<{width}}    # {why}" for key, value, why in OPTIONS]
