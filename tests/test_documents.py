"""The documents are true: their commands run, their links lead somewhere, their tables name what is there."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batchgen import results
from batchgen.cli import cli
from batchgen.records import Status
from bench.peers.tables import MEASURES

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
JOBS = sorted((ROOT / "jobs").glob("*.toml"))


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the documents talk about."""
    shutil.copy(ROOT / "sample_prompts.csv", tmp_path)
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def test_the_sample_is_24_rows() -> None:
    with (ROOT / "sample_prompts.csv").open(newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 24


@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.stem)
def test_every_job_file_runs_as_it_stands(job: Path, clone: Path) -> None:
    command = ["run", f"jobs/{job.name}", "-q"]
    status = cli(command)
    if job.stem == "resumable_rerun":
        assert status == 1, "it is a bad night"
        assert cli([*command, "--retry-failed"]) == 0
    else:
        assert status == 0
    table = pq.read_table(clone / "runs" / job.stem / "results.parquet")
    assert set(table["status"].to_pylist()) == {"succeeded"}


@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.stem)
def test_one_commented_line_of_a_job_file_switches_to_the_real_endpoint(
    job: Path, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = job.read_text()
    assert len(text.splitlines()) <= 30
    assert text.count("# provider = ") == 1
    real = text.replace('provider = "simulator"\n', "").replace("# provider", "provider")
    assert tomllib.loads(real)["provider"] == "core-today"
    (clone / "jobs" / job.name).write_text(real)
    assert cli(["run", f"jobs/{job.name}"]) == 2, "and asks for a key"
    assert cli(["run", f"jobs/{job.name}", "--dry-run"]) == 0


def test_the_readme_s_python_runs(clone: Path) -> None:
    assert cli(["run", "jobs/sample.toml", "-q"]) == 0
    for number, code in enumerate(blocks("README.md", "python")):
        found = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=clone,
            env={"PYTHONPATH": str(ROOT)},
            check=False,
        )
        assert found.returncode == 0, f"block {number}: {found.stderr}"


def test_the_readme_names_columns_that_the_table_has() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    told = text[text.index("The table has, among others") : text.index("and your own columns")]
    assert len(named := re.findall(r"`([a-z_0-9]+)`", told)) > 20
    assert set(named) <= {*results.SCHEMA.names, *Status}


def test_the_readme_s_flags_exist() -> None:
    help_text = subprocess.run(
        [
            sys.executable,
            "-c",
            "from batchgen.cli import cli;"
            "[cli([c, '--help']) for c in ('export', 'run', 'plan', 'simulate', 'status', 'verify')]",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    ).stdout
    told = re.findall(r"batchgen [^\n`]*", (ROOT / "README.md").read_text(encoding="utf-8"))
    for flag in sorted({flag for line in told for flag in re.findall(r"--[a-z-]+", line)}):
        assert flag in help_text, flag


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_architecture_page_names_what_is_there() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = text[text.index("## Where a change goes") :]
    for name in re.findall(r"`([a-z_/]+\.(?:py|toml))`", table):
        path = ROOT / name if name.startswith("batchgen/") else ROOT / "batchgen" / name
        assert path.exists(), name
    layers = set(re.findall(r"[a-z_]+", text[text.index("__main__\ncli") : text.index("Pure, with")]))
    modules = {
        path.stem
        for path in (ROOT / "batchgen").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert modules - {"__init__"} <= layers


def test_the_performance_page_has_every_measure_with_its_command() -> None:
    text = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    for name, measure in MEASURES.items():
        section = text[text.index(f"## {measure.title}\n") :].split("\n## ")[0]
        assert f"| {' | '.join(measure.head)} |\n| ---" in section
        assert f"`python -m bench.peers --only {name}`" in section
    for module in re.findall(r"python -m (bench[.a-z]*)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


@pytest.mark.parametrize("page", ["guarantees", "contract"])
def test_every_promise_names_tests_that_are_there(page: str) -> None:
    text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
    assert len(named) > 20
    for file, test in named:
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {test}\(", source, re.MULTILINE), f"{file}::{test}"
    promises = [line for line in text.splitlines() if line.startswith("| ") and "held by" not in line]
    assert all("::" in line for line in promises if line.count("|") == 4), "a promise without a test"
