"""
What would somebody write in an afternoon, around the `openai` SDK or around LiteLLM's Router?

    python script.py PROMPTS.csv FOLDER --base-url URL --client NAME --concurrency N [--retries N] [--rpm N]

Runs in the peer's own environment, without batchgen. It is the form that the SDKs' own pages show: an async
client with its own retries, a semaphore, base64 and a file. What the next run must know is in the folder: a
picture that is there is not bought again; `results.jsonl` has a line a request that came back.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import csv
import json
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol, TextIO

MODEL = "gemini-3.1-flash-image-preview"


class Ask(Protocol):
    """One request of a client, with its retries."""

    async def __call__(self, *, model: str, messages: list[Any]) -> Any:
        """The completion."""


def openai(url: str, retries: int | None) -> Ask:
    """Of the `openai` SDK; it retries twice unless told otherwise."""
    from openai import DEFAULT_MAX_RETRIES, AsyncOpenAI  # noqa: PLC0415

    client = AsyncOpenAI(
        base_url=url, api_key="any", max_retries=DEFAULT_MAX_RETRIES if retries is None else retries
    )
    ask: Ask = client.chat.completions.create
    return ask


def litellm(url: str, retries: int | None) -> Ask:
    """Of LiteLLM's Router; it retries twice unless told otherwise."""
    from litellm import Router  # noqa: PLC0415

    deployment = {
        "model_name": MODEL,
        "litellm_params": {"model": f"openai/{MODEL}", "api_base": url, "api_key": "any"},
    }
    ask: Ask = Router(model_list=[deployment], num_retries=retries).acompletion
    return ask


async def buy(ask: Ask, row: dict[str, str], folder: Path, results: TextIO) -> None:
    """One row: ask, decode, write, note."""
    messages = [{"role": "user", "content": row["prompt"]}]
    try:
        completion = await ask(model=MODEL, messages=messages)
    except Exception as error:  # noqa: BLE001  what a script does: one row's failure is not the night's
        results.write(json.dumps({"id": row["id"], "error": str(error)}) + "\n")
        return
    found = re.search(r"data:image/\w+;base64,([^)]+)", completion.choices[0].message.content or "")
    if found:
        (folder / f"{row['id']}.png").write_bytes(base64.b64decode(found[1]))
    line = {"id": row["id"], "picture": bool(found), "tokens": completion.usage.total_tokens}
    results.write(json.dumps(line) + "\n")
    results.flush()


def _pace(rpm: float | None) -> Any:
    """What paces the starts: a quota's share of every second."""
    if rpm is None:
        return nullcontext()
    from aiolimiter import AsyncLimiter  # noqa: PLC0415

    return AsyncLimiter(rpm / 60, 1)


async def buy_all(told: argparse.Namespace, rows: list[dict[str, str]], images: Path) -> None:
    """All rows, so many at once."""
    ask = {"openai": openai, "litellm": litellm}[told.client](told.base_url, told.retries)
    slots, pace = asyncio.Semaphore(told.concurrency), _pace(told.rpm)

    async def one(row: dict[str, str]) -> None:
        async with slots, pace:
            await buy(ask, row, images, results)

    with (told.folder / "results.jsonl").open("a") as results:
        await asyncio.gather(*map(one, rows))


def main() -> None:
    """All rows that have no picture yet."""
    parser = argparse.ArgumentParser()
    parser.add_argument("prompts", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--client", choices=("openai", "litellm"), required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--retries", type=int)
    parser.add_argument("--rpm", type=float)
    told = parser.parse_args()
    images: Path = told.folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    with told.prompts.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if not (images / f"{row['id']}.png").exists()]
    asyncio.run(buy_all(told, rows, images))


if __name__ == "__main__":
    main()
