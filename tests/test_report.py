"""What a report gathers, whatever the state of the run directory: sums, thumbnails, links, commands."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from batchgen import job as jobs
from batchgen import report
from batchgen.cli import cli, commands
from batchgen.errors import InputError, StorageError
from batchgen.ledger import History, Ledger
from batchgen.report import charts
from batchgen.report.command import JOB_FILE, command, note
from batchgen.report.page import as_json
from batchgen.report.rows import Cutter, percent_encoded
from batchgen.simulator import Faults, Settings
from tests.nights import Nights

if TYPE_CHECKING:
    from batchgen.progress import Progress

pytestmark = pytest.mark.blocks


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """Two runs of a night whose pictures all differ, with an hour between them, and failures."""
    faults = Faults(overloaded=0.2, refusal=0.45, reset_after=0.05)
    nights = Nights(tmp_path_factory.mktemp("report"), Settings(paint=True, seed=2, faults=faults))
    nights.rows(12)
    nights.run(limit=6, image_size="512", max_failure_rate=1)
    nights._now += 3600
    nights.run(image_size="512", max_failure_rate=1)
    return nights


@pytest.fixture
def night(finished: Nights, memory: Path) -> Nights:
    """A copy of it to do harm to."""
    nights = Nights(memory)
    shutil.copytree(finished.directory, nights.directory)
    return nights


def rows_of(page: Path) -> list[dict[str, Any]]:
    pieces = re.findall(r'<script type="application/json" class="piece">(.*?)</script>', page.read_text())
    return [row for piece in pieces for row in json.loads(piece)["rows"]]


def data_of(page: Path) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text())
    assert found is not None
    return json.loads(found[1])


def test_the_page_has_every_row_of_the_table_in_its_order(finished: Nights, tmp_path: Path) -> None:
    built = report.build(finished.directory, tmp_path / "page.html")
    rows, table = rows_of(tmp_path / "page.html"), finished.table()
    assert (built.rows, built.shown, len(rows)) == (12, 12, 12)
    assert built.bytes == (tmp_path / "page.html").stat().st_size
    assert {line["status"] for line in table} > {"succeeded"}, "the faults of this seed"
    for row, line in zip(rows, table, strict=True):
        assert (row["key"], row["status"], row.get("file")) == (
            line["task_key"],
            line["status"],
            line["file_name"],
        )
        assert row.get("cost") == (None if line["cost_usd"] is None else f"{line['cost_usd']:f}")
        if line["file_name"]:
            assert (tmp_path / unquote(row["href"])).samefile(finished.directory / line["file_name"])
            with Image.open(tmp_path / "page" / f"{row['thumb']}-256.webp") as small:
                assert (small.format, max(small.size)) == ("WEBP", 256)


def test_the_charts_add_up_to_the_account_without_the_time_between_runs(finished: Nights) -> None:
    with closing(History(finished.directory / "ledger.db")) as history:
        drawn, totals = charts.drawn(history), history.totals()
    assert drawn.spent[-1] == pytest.approx(float(totals.cost_usd))
    assert drawn.wasted[-1] == pytest.approx(float(totals.wasted_usd))
    assert drawn.uncertain[-1] == pytest.approx(float(totals.uncertain_usd))
    assert drawn.uncertain[-1] > 0, "the faults of this seed"
    assert sum(bar.count for bar in drawn.histogram) == sum(drawn.good)
    assert sum(drawn.failures.values()) == sum(drawn.failed)
    assert len(drawn.runs) == 2
    assert drawn.work < 1800
    assert drawn.clock[-1] - drawn.clock[0] > 3_600_000


ATTEMPTS = st.lists(
    st.tuples(
        st.integers(1, 4),  # run
        st.integers(0, 10**12),  # began
        st.one_of(st.none(), st.floats(0, 10_000)),  # latency
        st.sampled_from([None, "transient", "uncertain"]),
        st.one_of(st.none(), st.integers(0, 10**9)),  # cost
        st.booleans(),  # settled
    ),
    max_size=40,
)


@settings(max_examples=25, deadline=None)
@given(attempts=ATTEMPTS)
def test_any_attempts_make_charts_of_few_points_that_lose_none(
    tmp_path_factory: pytest.TempPathFactory, attempts: list[tuple[Any, ...]]
) -> None:
    path = tmp_path_factory.mktemp("any") / "ledger.db"
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as ledger:
        ledger.execute("PRAGMA synchronous = OFF")
        ledger.executemany(
            "INSERT INTO attempts (key, run, started_at, latency, error_class, cost, settled_at, reserved)"
            " VALUES ('k', ?, ?, ?, ?, ?, iif(?, 1, NULL), 7)",
            attempts,
        )
        ledger.commit()
    with closing(History(path)) as history:
        drawn = charts.drawn(history)
    settled = [attempt for attempt in attempts if attempt[5]]
    assert sum(drawn.good) + sum(drawn.failed) == len(settled)
    assert sum(drawn.good) == sum(attempt[3] is None for attempt in settled)
    assert len(drawn.at) == len(drawn.clock) == len(drawn.median) <= 241
    assert list(drawn.at) == sorted(drawn.at)
    spent = sum(attempt[4] or 0 for attempt in settled) / 1e9
    assert (drawn.spent[-1] if drawn.spent else 0) == pytest.approx(spent)
    timed = [attempt[2] for attempt in settled if attempt[3] is None and attempt[2] is not None]
    assert sum(bar.count for bar in drawn.histogram) == len(timed)
    if timed:
        assert drawn.quantiles["p99"] == pytest.approx(
            sorted(timed)[-(-99 * len(timed) // 100) - 1], rel=0.06
        )


@given(text=st.text())
def test_no_text_ends_the_block_it_is_in(text: str) -> None:
    encoded = as_json({"text": text + "</script><!-- & \u2028\u2029"})
    assert not set(encoded) & set("<>&\u2028\u2029")
    assert json.loads(encoded) == {"text": text + "</script><!-- & \u2028\u2029"}


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_a_link_leads_to_its_file_and_nowhere_else(name: str) -> None:
    link = percent_encoded(f"images/{name}")
    assert re.fullmatch(r"images/[\w/.~%-]+", link, re.ASCII)
    assert unquote(link) == f"images/{name}"


def test_texts_are_cut_where_a_page_could_not_bear_them() -> None:
    cut = Cutter()
    assert cut("x" * 20_000) == "x" * 20_000
    assert cut.cut == 0
    assert "[1 more characters are in results.parquet]" in (cut("x" * 20_001) or "")
    for _ in range(3198):
        cut("x" * 20_000)
    assert len(cut("x" * 20_000) or "") < 600
    assert cut.cut == 2


def test_thumbnails_are_made_once_and_pictures_that_are_gone_or_changed_are_told(
    night: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    page = night.directory / "report.html"
    report.build(night.directory, page)
    made = {path: path.stat().st_mtime_ns for path in (night.directory / "report").iterdir()}
    good = [row for row in rows_of(page) if row.get("thumb")]
    report.build(night.directory, page)
    assert {path: path.stat().st_mtime_ns for path in (night.directory / "report").iterdir()} == made
    (night.directory / good[0]["file"]).unlink()
    Image.new("RGB", (9, 9)).save(night.directory / good[1]["file"])
    (night.directory / good[2]["file"]).write_bytes(b"no picture")
    (night.directory / good[3]["file"]).unlink()
    (night.directory / good[3]["file"]).symlink_to("/etc/passwd")
    assert cli(["report", str(night.directory)]) == 1
    out = capsys.readouterr().out
    for what in (
        "the picture is gone",
        "the file was changed after it was bought",
        "the file is no whole picture",
        "the picture cannot be read",
    ):
        assert f"1 x {what}" in out
    assert "batchgen verify" in out
    shown = {row["key"]: row for row in rows_of(page)}
    assert [bool(shown[row["key"]].get("thumb")) for row in good[:4]] == [False, True, False, False]


def test_where_not_all_rows_fit_failures_come_before_successes_up_to_half(
    finished: Nights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert cli(["report", str(finished.directory), "-o", str(page), "--limit", "4"]) == 0
    assert "8 of 12 rows are left out of the gallery" in capsys.readouterr().out
    table, rows = finished.table(), rows_of(page)
    failed = [line["task_key"] for line in table if line["status"] != "succeeded"]
    good = [line["task_key"] for line in table if line["status"] == "succeeded"]
    wanted = {*failed[:2], *good[: 4 - len(failed[:2])]}
    assert {row["key"] for row in rows} == wanted
    counts = data_of(page)["counts"]["statuses"]
    assert sum(counts.values()) == 12, "the figures count all"
    assert "8 rows are left out of the gallery" in re.sub(r"\s+", " ", page.read_text())


def test_thumbnails_inside_the_page_leave_nothing_beside_it(finished: Nights, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    built = report.build(finished.directory, page, inline=True, pixels=32)
    assert built.thumbnails is None
    assert [*tmp_path.iterdir()] == [page]
    assert data_of(page)["folder"] is None


def test_a_run_at_work_has_a_report_too(memory: Path) -> None:
    nights = Nights(memory)
    nights.rows(20)
    found: list[report.Built] = []

    def look(progress: Progress) -> None:
        if progress.succeeded == 7 and not found:
            found.append(report.build(nights.directory, memory / "page.html"))

    nights.run(on_progress=look, concurrency=4)
    assert found
    assert found[0].rows == 20
    assert 7 <= data_of(memory / "page.html")["counts"]["statuses"]["succeeded"] < 20
    assert "The run had not ended" in (memory / "page.html").read_text()


def test_a_page_that_cannot_be_written_leaves_the_one_before(night: Nights) -> None:
    page = night.directory / "report.html"
    page.mkdir()
    with pytest.raises(StorageError, match=r"report\.html"):
        report.build(night.directory, page)
    assert [path.name for path in night.directory.iterdir() if path.name.endswith(".part")] == []


@pytest.mark.parametrize("target", ["page", "page.pdf", "page.html.txt"])
def test_a_page_is_called_one(night: Nights, target: str) -> None:
    with pytest.raises(InputError, match=r"end its name in \.html"):
        report.build(night.directory, night.directory / target)


def test_what_is_no_run_directory_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["report", str(tmp_path)]) == 2
    assert "no ledger here" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]
    Ledger(tmp_path / "ledger.db").close()  # as a manifest leaves it that cannot be read
    assert cli(["report", str(tmp_path)]) == 2
    assert "no run has begun here" in capsys.readouterr().err


def test_the_page_is_told_as_json_too(
    finished: Nights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert cli(["report", str(finished.directory), "-o", str(page), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["page"], found["rows"]) == (str(page), 12)


def test_the_command_that_goes_on_says_all_that_the_run_was_told(tmp_path: Path) -> None:
    given_ = {
        "provider": "google",
        "columns": {"prompt": "The Prompt", "id": "sku"},
        "template": "A {thing} on 'linen'",
        "stop": ("a b", "c"),
        "image_size": "2K",
        "stream": True,
        "variants": 3,
        "response_format": {"type": "json_object"},
        "budget": 12.5,
        "limit": 5,
        "retry_failed": True,
    }
    job = jobs.resolve("table of prompts.csv", given_)
    typed = shlex.split(command(job, tmp_path / "run", "--only", "rejects.csv", "--again"))
    assert typed[:2] == ["batchgen", "run"]
    run = commands.commands["run"]
    assert isinstance(run, click.Command)
    params = run.make_context("run", typed[2:]).params
    again = {**given_, "output": str(tmp_path / "run"), "only": "rejects.csv", "again": True}
    once = ("limit", "retry_failed")
    for name, value in again.items():
        if name not in once:
            assert params[name] == value, name
    assert [params[name] for name in once] == [None, False], "those were for once"
    assert params["source"] == "table of prompts.csv"


@pytest.mark.parametrize("job", [None, jobs.Job(manifest="p.csv", simulator={"rpm": 1})])
def test_what_only_a_job_file_can_say_is_left_to_it(job: jobs.Job | None, tmp_path: Path) -> None:
    assert shlex.split(command(job, tmp_path))[:3] == ["batchgen", "run", JOB_FILE]
    assert JOB_FILE in note(job)
    typed = "batchgen run 'my job.toml' -o x"
    assert shlex.split(command(job, tmp_path, typed=typed))[:3] == ["batchgen", "run", "my job.toml"]
    assert note(job, typed) == ""


def test_flags_beside_a_job_file_are_said_too_or_all_would_be_bought_from_another_model(
    tmp_path: Path,
) -> None:
    job = jobs.Job(manifest="p.csv", models={"m": {}}, model="m", budget=3)
    typed = shlex.split(command(job, tmp_path))
    assert typed[typed.index("--model") + 1 :][:1] == ["m"]
    assert typed[typed.index("--budget") + 1 :][:1] == ["3"]


def test_a_table_on_standard_input_is_asked_for_again(tmp_path: Path) -> None:
    job = jobs.Job(manifest="-")
    assert shlex.split(command(job, tmp_path))[:3] == ["batchgen", "run", "-"]
    assert "standard input" in note(job)


def test_a_run_directory_is_named_so_that_where_the_run_was_started_it_is_no_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    job = jobs.Job(manifest="p.csv")
    for here, named in ((tmp_path, "runs/p"), (tmp_path / "runs", str(tmp_path / "runs" / "p"))):
        monkeypatch.chdir(here)
        directory = Path("runs/p") if here == tmp_path else Path("p")
        assert shlex.split(command(job, directory))[4] == named


def test_a_page_is_put_among_no_other_files(finished: Nights, tmp_path: Path) -> None:
    run = finished.directory
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").touch()
    before = sorted(run.rglob("*"))
    for target in (
        run.with_suffix(".html"),
        run / "images.html",
        run / "images/x.html",
        tmp_path / "photos.html",
    ):
        with pytest.raises(InputError, match="with -o"):
            report.build(run, target)
    assert sorted(run.rglob("*")) == before
    assert [*(tmp_path / "photos").iterdir()] == [tmp_path / "photos" / "me.jpg"]
    report.build(run, tmp_path / "photos.html", inline=True)
