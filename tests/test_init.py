"""A job file for a manifest nobody has seen: it says what the columns mean, and it runs as it was written."""

from __future__ import annotations

import csv
import re
import tomllib
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen import job as jobs
from batchgen import proposal
from batchgen.cli import cli
from batchgen.job import Job
from batchgen.proposal import OPTIONS, Seen

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("id,prompt\na,one\nb,two\n", {}),
        ("sku,Caption\na,one\nb,two\n", {"columns": {"prompt": "Caption", "id": "sku"}}),
        ("name,text\na,one\na,two\n", {"columns": {"prompt": "text"}}),
        (
            "sku,product,ground\na,mug,oak\nb,pan,tin\n",
            {"columns": {"id": "sku"}, "template": "{product} {ground}"},
        ),
        ("Prompt,Text\none,x\ntwo,y\n", {}),
    ],
    ids=["ours", "others", "ids that repeat", "no prompts", "another case"],
)
def test_what_columns_mean_is_guessed_and_the_job_runs_as_it_was_written(
    folder: Path, table: str, said: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "things.csv").write_text(table)
    assert cli(["init", "things.csv"]) == 0
    out = capsys.readouterr().out
    assert "batchgen plan jobs/things.toml" in out
    written = tomllib.loads((folder / "jobs/things.toml").read_text())
    assert {key: written[key] for key in ("columns", "template") if key in written} == said
    assert (written["manifest"], written["budget"]) == ("../things.csv", 1)
    (folder / "jobs/things.toml").write_text(
        (folder / "jobs/things.toml").read_text().replace("latency = 0.1", "latency = 0.0\npaint = false")
    )
    assert cli(["run", "jobs/things.toml", "--provider", "simulator", "-o", "runs/trial", "-q"]) == 0
    assert "2 of 2 pictures" in capsys.readouterr().out


def test_every_key_that_is_named_is_one_a_job_has_and_its_example_is_taken(folder: Path) -> None:
    (folder / "things.csv").write_text("prompt\none\n")
    assert cli(["init", "things.csv"]) == 0
    text = (folder / "jobs/things.toml").read_text()
    for key, value, _ in OPTIONS:
        assert key in Job.__struct_fields__
        pattern = rf"^# (?={re.escape(key)} = {re.escape(value)} )"
        (folder / "jobs/one.toml").write_text(re.sub(pattern, "", text, flags=re.MULTILINE))
        assert tomllib.loads((folder / "jobs/one.toml").read_text()).get(key) is not None, key
        assert getattr(jobs.resolve("jobs/one.toml", {}), key) is not None
    # None twice, and none that is an active key already.
    named = re.findall(r"^(?:# )?(\w+) = ", text.split("[simulator]", maxsplit=1)[0], re.MULTILINE)
    assert sorted(named) == sorted(set(named))


def test_a_table_of_ids_alone_is_told_what_it_lacks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "things.csv").write_text("sku,seed\nA-1,7\n")
    assert cli(["init", "things.csv"]) == 2
    assert "add one called `prompt` beside 'sku', 'seed'" in capsys.readouterr().err


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=4, unique=True),
    st.text(st.characters(codec="utf-8"), min_size=1),
)
def test_a_job_file_is_toml_whatever_columns_and_files_are_called(names: list[str], manifest: str) -> None:
    for mapped in (names, ["prompt", *names]):
        guessed = proposal.guess(mapped)
        guessed = proposal.Guess(columns={"id": mapped[-1], **guessed.columns}, template=guessed.template)
        seen = Seen(names=tuple(mapped), rows=1, tasks=1, expected_usd=Decimal("0.1"))
        written = tomllib.loads(proposal.job_file(manifest, guessed, seen, command=f"run {manifest}"))
        assert written["manifest"] == manifest
        assert written["columns"] == dict(guessed.columns)
        assert written.get("template") == guessed.template


def test_hostile_column_names_end_in_a_job_that_runs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ['a"b', "c\\d", "e\nf", "{g}", "\x1b[31mred", "ü = 1 # x", "[simulator]"]
    with (folder / "things.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, [f"cell {n}" for n in range(len(names))]])
    assert cli(["init", "things.csv"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    text = (folder / "jobs/things.toml").read_text()
    (folder / "jobs/things.toml").write_text(text.replace("latency = 0.1", "latency = 0.0\npaint = false"))
    assert cli(["run", "jobs/things.toml", "--provider", "simulator", "-q"]) == 0


def test_a_job_file_is_never_overwritten_unless_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "things.csv").write_text("prompt\none\n")
    (folder / "mine.toml").write_text("precious")
    assert cli(["init", "things.csv", "-o", "mine.toml"]) == 2
    assert "mine.toml is there already; --force overwrites it" in capsys.readouterr().err
    assert (folder / "mine.toml").read_text() == "precious"
    assert cli(["init", "things.csv", "-o", "mine.toml", "--force"]) == 0
    assert 'manifest = "things.csv"' in (folder / "mine.toml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-"], "standard input cannot be read twice"),
        (["job.toml"], "job.toml is a job file already"),
        (["."], "a folder"),
        (["thing.csv"], "no such file; did you mean 'things.csv'?"),
        (["empty.csv"], "1 problem"),
        (["things.csv", "-o", "job.txt"], "ends in .toml"),
        (["things.csv", "-o", "things.csv/job.toml"], "choose another place with -o"),
    ],
)
def test_what_no_job_can_be_made_of_is_told_and_nothing_is_written(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "things.csv").write_text("prompt\none\n")
    (folder / "empty.csv").write_text("prompt\n")
    assert cli(["init", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "jobs").exists()
