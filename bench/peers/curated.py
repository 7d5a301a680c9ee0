"""
What would somebody write in an afternoon around bespokelabs-curator?

    python curated.py PROMPTS.csv FOLDER --base-url URL --concurrency N [--rpm N]

Runs in the peer's own environment, without batchgen. It is the form of curator's own pages: a class with
`prompt` and `parse`, called on a dataset, with the responses in a working directory from which the next run
goes on. Curator knows no pictures: the answer is text, from which `parse` writes the file. No telemetry, and
nothing is loaded from the network: the tokenizer is the one that LiteLLM brings along.
"""

from __future__ import annotations

import argparse
import base64
import csv
import importlib.util
import os
import re
from pathlib import Path
from typing import Any

MODEL = "gemini-3.1-flash-image-preview"
_MOST = 10**9
"""No limit, which curator has no word for."""
_RPM = 10**6

_litellm = importlib.util.find_spec("litellm")
assert _litellm is not None
assert _litellm.origin is not None
os.environ.update(
    TELEMETRY_ENABLED="false",
    CURATOR_DISABLE_RICH_DISPLAY="1",
    LITELLM_LOCAL_MODEL_COST_MAP="True",
    TIKTOKEN_CACHE_DIR=str(Path(_litellm.origin).parent / "litellm_core_utils/tokenizers"),
)

from bespokelabs import curator  # noqa: E402  reads the environment when it is loaded
from datasets import Dataset  # noqa: E402


class Pictures(curator.LLM):  # type: ignore[misc]
    """One picture a row."""

    def prompt(self, row: dict[str, Any]) -> str:
        """What is asked for."""
        return str(row["prompt"])

    def parse(self, row: dict[str, Any], response: str) -> dict[str, Any]:
        """The picture, written."""
        found = re.search(r"data:image/\w+;base64,([^)]+)", response)
        if found:
            Path(row["file"]).write_bytes(base64.b64decode(found[1]))
        return {"id": row["id"], "picture": bool(found)}


def main() -> None:
    """All rows that have no response yet."""
    parser = argparse.ArgumentParser()
    parser.add_argument("prompts", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--rpm", type=int, default=_RPM)
    told = parser.parse_args()
    images: Path = told.folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    with told.prompts.open(newline="") as file:
        rows = [{**row, "file": str(images / f"{row['id']}.png")} for row in csv.DictReader(file)]
    parameters = {
        "base_url": told.base_url,
        "api_key": "any",
        "max_concurrent_requests": told.concurrency,
        "max_requests_per_minute": told.rpm,
        "max_tokens_per_minute": _MOST,
        "require_all_responses": False,
    }
    llm = Pictures(model_name=MODEL, backend="openai", backend_params=parameters)
    llm(Dataset.from_list(rows), working_dir=str(told.folder / "curator"))


if __name__ == "__main__":
    main()
