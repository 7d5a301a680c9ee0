"""The pages of the three uses are true: every command on them runs, with the exit status that they tell."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from batchgen.cli import cli

ROOT = Path(__file__).parent.parent
USES = ("bulk_dataset", "overnight_catalog", "resumable_rerun")


def commands(page: str) -> list[tuple[str, int]]:
    """The lines of its shell blocks, with the exit status that a comment behind them tells."""
    text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
    lines = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).splitlines()
    told = [re.search(r"# exit status (\d+)", line) for line in lines]
    return [(line, int(status[1]) if status else 0) for line, status in zip(lines, told, strict=True)]


@pytest.mark.blocks  # a rehearsal has an event loop to itself, in which time is virtual
@pytest.mark.parametrize("page", USES)
def test_the_commands_of_a_use_run_as_they_stand(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "sample_prompts.csv", tmp_path)
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    monkeypatch.chdir(tmp_path)
    found = commands(page)
    assert len(found) >= 6
    for line, expected in found:
        words = shlex.split(line, comments=True)
        status = cli(words[1:]) if words[0] == "batchgen" else subprocess.run(words, check=False).returncode
        assert status == expected, line
    python = re.findall(r"```python\n(.*?)```", (ROOT / f"docs/{page}.md").read_text("utf-8"), re.DOTALL)
    for code in python:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)
