"""An export is whole, is the run's, and is gone on with wherever it died."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen import disk
from batchgen.cli import cli
from batchgen.errors import InputError, LockedError, StorageError
from batchgen.export import Kind, Link
from batchgen.export.hf import HuggingFace
from batchgen.export.pictures import Pictures
from batchgen.export.tables import Csv, Jsonl
from batchgen.export.webdataset import key
from batchgen.simulator import Faults, Settings
from batchgen.store import Store
from tests.exported import HOSTILE_WORDS, bought, exported, hostile, plain, tree
from tests.nights import Nights

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.blocks
ROOT = Path(__file__).parent.parent
SHARDED = [Kind.HF, Kind.WEBDATASET]


@pytest.fixture
def night(memory: Path) -> Nights:
    return plain(memory, 7)


def ids(nights: Nights, **options: Any) -> list[str]:
    """Which rows go out."""
    out = nights.directory / "export" / "jsonl"
    exported(nights, Kind.JSONL, **options)
    return [json.loads(line)["id"] for line in (out / "results.jsonl").read_text().splitlines()]


# What goes out


def test_rows_are_chosen_by_status_value_and_id(memory: Path) -> None:
    nights = Nights(memory, Settings(paint=False, faults=Faults(no_image=0.5)))
    nights.write("id,prompt,shelf,size\n" + "".join(f"r{n},p {n},s{n % 3},{n}\n" for n in range(12)))
    nights.run(limit=9, attempts=1, max_failure_rate=1.0)
    table = {row["id"]: row for row in nights.table()}
    (failed,) = {row["status"] for row in table.values()} - {"succeeded", "pending"}

    def of(*statuses: str) -> list[str]:
        return [name for name, row in table.items() if row["status"] in statuses]

    assert ids(nights) == of("succeeded") != []
    assert ids(nights, statuses=(failed, "pending")) == of(failed, "pending")
    everything: dict[str, Any] = {"statuses": ("all",)}
    assert ids(nights, **everything) == [*table]
    assert ids(nights, where=(("shelf", "s1"),), **everything) == ["r1", "r4", "r7", "r10"]
    assert len(ids(nights, where=(("shelf", "s1"), ("shelf", "s2")), **everything)) == 8
    assert ids(nights, where=(("shelf", "s1"), ("size", "4")), **everything) == ["r4"]
    assert ids(nights, where=(("variant", "1"), ("status", failed)), **everything) == of(failed)
    assert ids(nights, where=(("error_class", ""),), **everything) == of("succeeded", "pending")
    assert ids(nights, only=frozenset({"r2", "r4", "gone"}), **everything) == ["r2", "r4"]
    summary = exported(nights, Kind.JSONL, where=(("shelf", "s1"),), only=frozenset({"r1", "r2"}))
    assert (summary.left_out["only"], summary.left_out["where"]) == (10, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"statuses": ("suceeded",)}, "did you mean 'succeeded'"),
        ({"where": (("promt", "x"),)}, "did you mean 'prompt'"),
        ({"where": (("width", "wide"),)}, "column 'width' holds int32, and 'wide' is none"),
        ({"where": (("started_at", "noon"),)}, "'noon' is none"),
        ({"statuses": ("refused",)}, "no row to export (7 of another status)"),
    ],
)
def test_what_is_not_there_is_told(night: Nights, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        exported(night, Kind.HF, **options)
    assert not (night.directory / "export/hf").exists()


def test_a_run_that_has_only_begun_goes_out_as_far_as_it_is(memory: Path) -> None:
    nights = Nights(memory)
    nights.rows(6)
    found: list[int] = []

    def look(progress: Any) -> None:
        if progress.succeeded == 3 and not found:
            found.append(exported(nights, Kind.HF).rows)

    nights.run(concurrency=1, on_progress=look)
    assert found == [3]
    assert exported(nights, Kind.HF).rows == 6


def test_columns_keep_their_names_and_values(memory: Path) -> None:
    nights = hostile(memory)
    exported(nights, Kind.HF)
    table = pq.read_table(nights.directory / "export/hf/data")
    assert table.schema.names[0] == "image"
    assert len(set(table.schema.names)) == len(table.schema.names)
    assert {"manifest_image", "manifest_sha256", "manifest_status", "naïve", "nai\u0308ve"} <= {
        *table.schema.names
    }
    assert str(table.schema.field("cost_usd").type) == "decimal128(18, 9)"
    assert table["pairs"][0].as_py() == '[["k",1]]'
    assert "images" not in table.schema.names


def test_a_csv_has_exact_money_and_no_formula(memory: Path) -> None:
    nights = hostile(memory)
    exported(nights, Kind.CSV, statuses=("all",))
    text = (nights.directory / "export/csv/results.csv").read_bytes().decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(rows) == len(nights.table())
    assert not [
        cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    ]
    assert "'=x" in rows[0]
    for row, told in zip(rows, nights.table(), strict=True):
        assert row["prompt"].removeprefix("'") == told["prompt"]
        assert (row["cost_usd"] and Decimal(row["cost_usd"])) == (
            "" if told["cost_usd"] is None else told["cost_usd"]
        )
        assert json.loads(row["tags"]) == ["x", None]
        if row["file_name"]:
            assert (nights.directory / "export/csv" / row["file_name"]).is_file()


@given(st.lists(st.sampled_from(HOSTILE_WORDS) | st.text(), min_size=1), st.integers())
def test_any_text_comes_back_from_a_csv_and_is_no_formula(words: list[str], number: int) -> None:
    words = [word.encode(errors="ignore").decode() for word in words]
    batch = pa.RecordBatch.from_pydict(
        {"file_name": pa.nulls(len(words), pa.string()), "word": words, "n": [number % 99 - 50] * len(words)}
    )
    sink = io.BytesIO()
    writer: Any = Csv(".", Path(), absolute=False)
    assert writer.write(iter([batch]), batch.schema, None, sink) == len(words)
    found = list(csv.DictReader(io.StringIO(sink.getvalue().decode(), newline="")))
    assert [int(row["n"]) for row in found] == [number % 99 - 50] * len(words)
    for row, word in zip(found, words, strict=True):
        assert row["word"] == (f"'{word}" if word[:1] and word[0] in "=+-@\t\r" else word)


def test_paths_of_pictures_are_as_seen_from_the_table_or_absolute(night: Nights) -> None:
    out = night.directory / "export/jsonl"
    for absolute in (False, True):
        exported(night, Kind.JSONL, absolute=absolute)
        name = json.loads((out / "results.jsonl").read_text().splitlines()[0])["file_name"]
        assert Path(name).is_absolute() == absolute
        assert (out / name).resolve() == (night.directory / "images/row-0.jpg").resolve()


def test_a_look_alike_is_named_as_its_own_row_names_it(tmp_path: Path) -> None:
    names = pa.array(["images/a.jpg", "images/b.jpg"]), pa.array([None, "images/a.jpg"])
    rows = pa.RecordBatch.from_arrays([*names], names=["file_name", "near_duplicate_of"])
    table = io.BytesIO()
    Jsonl(str(tmp_path), tmp_path / "out", absolute=False).write(
        iter([rows]), rows.schema, Pictures(Store(tmp_path)), table
    )
    first, second = map(json.loads, table.getvalue().splitlines())
    assert second["near_duplicate_of"] == first["file_name"] == "../images/a.jpg"


rows_of_a_manifest = st.text(st.sampled_from("aA1-_.~/ é0f"), max_size=8)


@given(st.lists(st.tuples(rows_of_a_manifest, st.integers(1, 999)), unique=True))
def test_a_key_is_plain_and_no_other_row_s(rows: list[tuple[str, int]]) -> None:
    keys = [key(row, variant) for row, variant in rows]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+(~[0-9a-f]{16})?(~[0-9]+)?", found) for found in keys)


# Shards


@pytest.mark.parametrize("kind", SHARDED)
def test_shards_are_of_the_size_that_was_asked_for(memory: Path, kind: Kind) -> None:
    nights = plain(memory, 40)
    one = (nights.directory / "images/row-0.jpg").stat().st_size
    limit = 5 * (one + 2100)
    summary = exported(nights, kind, shard_bytes=limit)
    assert summary.files == 10 if kind is Kind.HF else summary.files >= 8
    smallest = exported(nights, kind, shard_bytes=1)
    assert (smallest.files, smallest.rows) == (40, 40), "a row that is larger than a shard is one"


def test_no_group_of_rows_passes_the_bound(memory: Path) -> None:
    nights = plain(memory, 250)
    exported(nights, Kind.HF)
    (path,) = (nights.directory / "export/hf/data").iterdir()
    about = pq.ParquetFile(path).metadata
    groups = [about.row_group(place) for place in range(about.num_row_groups)]
    assert max(group.num_rows for group in groups) == 100
    image = groups[0].column(0)
    assert image.path_in_schema == "image.bytes"
    assert not any("DICTIONARY" in encoding for encoding in image.encodings)
    one = (nights.directory / "images/row-0.jpg").stat().st_size
    way = HuggingFace(limit=one * 7)
    found = pq.read_table(path).drop_columns(["image"])
    sink = io.BytesIO()
    pictures = Pictures(Store(nights.directory))
    assert way.write(iter(found.combine_chunks().to_batches()), found.schema, pictures, sink) == 250
    written = pq.ParquetFile(sink).metadata
    assert {written.row_group(place).num_rows for place in range(written.num_row_groups)} <= {7, 5}


def test_a_tar_is_the_same_whenever_and_by_whomever_it_is_made(night: Nights) -> None:
    exported(night, Kind.WEBDATASET)
    with tarfile.open(night.directory / "export/webdataset/000000.tar") as tar:
        members = tar.getmembers()
    assert [member.name for member in members[:3]] == ["row-0.jpg", "row-0.json", "row-0.txt"]
    assert {(member.uid, member.gid, member.uname, member.mode) for member in members} == {(0, 0, "", 0o644)}
    assert members[0].mtime == int(night.table()[0]["finished_at"].timestamp())


# Going on with it


def test_wherever_an_export_is_killed_the_same_command_ends_with_the_same_files(memory: Path) -> None:
    for name in ("now", "before"):
        (memory / name).mkdir()
    now, before = plain(memory / "now", 4), Nights(memory / "before")
    before.write("id,prompt\n" + "".join(f"row-{n},another picture {n}\n" for n in range(1, 5)))
    before.run()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.killed_exports"),
            *(str(now.directory), str(before.directory), str(memory), "7"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for kind, found in json.loads(done.stdout).items():
        assert len(found["deaths"]) == 7
        assert found["before"] != found["end"] != {}
        for death in found["deaths"]:
            assert (death["end"], death["hidden"]) == (found["end"], [".export.json"])
            check_no_mixture(kind, death["between"], found["before"], found["end"])


def check_no_mixture(kind: str, between: dict[str, str], before: dict[str, str], end: dict[str, str]) -> None:
    """What readers see of an interrupted export is a part of the old one or of the new."""
    if kind != Kind.IMAGEFOLDER:
        assert between.items() <= before.items() or between.items() <= end.items()
    elif "metadata.parquet" in between:
        assert between in (before, end), "where there is a table, all its pictures are there"


@pytest.mark.parametrize("kind", SHARDED)
def test_what_is_whole_is_not_written_again(night: Nights, kind: Kind) -> None:
    out = night.directory / "export" / kind
    first = exported(night, kind, shard_bytes=3000)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = exported(night, kind, shard_bytes=3000)
    assert (again.files, again.kept, again.rows) == (first.files, first.files, first.rows)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    shard = next(path for path in out.rglob("*") if path.suffix in {".tar", ".parquet"})
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert exported(night, kind, shard_bytes=3000).kept == first.files - 1
    assert shard.read_bytes() == whole


@pytest.mark.parametrize("kind", SHARDED)
def test_a_run_that_has_gone_on_brings_its_export_up_to_date(memory: Path, kind: Kind) -> None:
    nights = Nights(memory)
    nights.rows(9)
    nights.run(limit=6)
    exported(nights, kind, shard_bytes=3000)
    nights.run()
    summary = exported(nights, kind, shard_bytes=3000)
    assert summary.rows == 9
    assert summary.kept > 0 or kind is Kind.HF, "names of Parquet shards tell their number"
    exported(nights, kind, memory / "anew", shard_bytes=3000)
    assert tree(nights.directory / "export" / kind) == tree(memory / "anew")


def test_a_card_that_was_edited_is_kept_and_told(memory: Path) -> None:
    nights = Nights(memory)
    nights.rows(3)
    nights.run(limit=2)
    exported(nights, Kind.HF)
    card = nights.directory / "export/hf/README.md"
    card.write_text("---\nlicense: mit\n---\n")
    assert exported(nights, Kind.HF).set_aside is None
    assert card.read_text() == "---\nlicense: mit\n---\n", "nothing else has changed"
    nights.run()
    assert exported(nights, Kind.HF).set_aside == "README.edited.md"
    assert (card.parent / "README.edited.md").read_text() == "---\nlicense: mit\n---\n"
    assert "3 rows" in card.read_text()
    assert exported(nights, Kind.HF).kept == 1


@pytest.mark.parametrize("kind", Kind)
def test_a_folder_with_anything_else_in_it_is_refused_and_left_alone(night: Nights, kind: Kind) -> None:
    out = night.directory.parent / "mine"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt is there"):
        exported(night, kind, out)
    assert tree(out) == {"notes.txt": b"mine"}
    with pytest.raises(InputError, match="is there, and no export"):
        exported(night, kind, night.directory)
    (out / "notes.txt").unlink()
    exported(night, kind, out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt is there"):
        exported(night, kind, out)


def test_a_folder_of_another_format_or_a_damaged_record_is_refused(night: Nights) -> None:
    out = night.directory / "export/csv"
    exported(night, Kind.CSV)
    with pytest.raises(InputError, match="an export to csv is here"):
        exported(night, Kind.JSONL, out)
    for record in (b"{}", b"\xff", b'{"format": "csv", "files": [{"file": "../job.json"}]}'):
        (out / ".export.json").write_bytes(record)
        with pytest.raises(InputError, match="not the record of an export"):
            exported(night, Kind.CSV)
    assert (night.directory / "job.json").is_file()


@pytest.mark.parametrize("place", ["images/out", "drafts", "corrupt/a/b"])
def test_no_export_lies_among_the_pictures_of_a_run(night: Nights, place: str) -> None:
    with pytest.raises(InputError, match="nothing else"):
        exported(night, Kind.CSV, night.directory / place)


def test_two_exports_never_share_a_folder(night: Nights) -> None:
    out = night.directory / "export/hf"
    out.mkdir(parents=True)
    folder = os.open(out / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match="another export"):
            exported(night, Kind.HF)
    finally:
        os.close(folder)
    assert exported(night, Kind.HF).rows == 7


# Pictures


def _to_a_link(path: Path) -> None:
    path.symlink_to(path.rename(path.with_suffix(".old")))


HARM: list[Callable[[Path], object]] = [
    Path.unlink,
    lambda path: path.write_bytes(b"another"),
    _to_a_link,
]


@pytest.mark.parametrize("kind", [*SHARDED, Kind.IMAGEFOLDER])
@pytest.mark.parametrize("harm", HARM)
def test_a_lost_or_altered_picture_is_named_and_comes_along_once_it_is_mended(
    night: Nights, kind: Kind, harm: Callable[[Path], object]
) -> None:
    path = night.directory / "images/row-3.jpg"
    whole = path.read_bytes()
    harm(path)
    summary = exported(night, kind, shard_bytes=3000)
    assert (summary.rows, summary.pictures, summary.missing, summary.exit_status) == (6, 6, 1, 1)
    assert [(one.id, one.file) for one in summary.first_missing] == [("row-3", "images/row-3.jpg")]
    went = [row["cost_usd"] for row in bought(night.directory) if row["id"] != "row-3"]
    assert summary.cost_usd == sum(went), "what stays behind is in no sum"
    if kind is Kind.HF:
        assert "Rows by status: 6 succeeded." in (night.directory / "export/hf/README.md").read_text()
    path.unlink(missing_ok=True)
    path.write_bytes(whole)
    again = exported(night, kind, shard_bytes=3000)
    assert (again.rows, again.missing, again.exit_status) == (7, 0, 0)
    assert again.kept == (again.files - 1 if kind is not Kind.IMAGEFOLDER else 0)


def test_pictures_are_linked_or_copied_and_those_that_are_no_more_go(memory: Path) -> None:
    nights = Nights(memory)
    nights.rows(5)
    nights.run()
    out = nights.directory / "export/imagefolder"
    summary = exported(nights, Kind.IMAGEFOLDER)
    assert (summary.linked, summary.copied) == (5, 0)
    assert (out / "images/row-1.jpg").samefile(nights.directory / "images/row-1.jpg")
    exported(nights, Kind.IMAGEFOLDER, where=(("id", "row-1"),))
    assert sorted(path.name for path in (out / "images").iterdir()) == ["row-1.jpg"]
    copies = memory / "copies"
    summary = exported(nights, Kind.IMAGEFOLDER, copies, link=Link.COPY)
    assert (summary.linked, summary.copied) == (0, 5)
    assert not (copies / "images/row-1.jpg").samefile(nights.directory / "images/row-1.jpg")
    (copies / "images/row-1.jpg").write_bytes(b"")
    exported(nights, Kind.IMAGEFOLDER, copies, link=Link.COPY)
    assert (copies / "images/row-1.jpg").read_bytes() == (nights.directory / "images/row-1.jpg").read_bytes()


def test_on_another_file_system_pictures_are_copied_unless_links_were_asked_for(
    memory: Path, tmp_path: Path
) -> None:
    if memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system")
    nights = plain(memory, 2)
    summary = exported(nights, Kind.IMAGEFOLDER, tmp_path / "auto")
    assert (summary.linked, summary.copied) == (0, 2)
    with pytest.raises(StorageError, match="leave out --link"):
        exported(nights, Kind.IMAGEFOLDER, tmp_path / "hard", link=Link.HARD)


def test_a_disk_without_room_is_told_before_anything_is_removed(
    night: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(night, Kind.HF)
    before = tree(night.directory / "export/hf")
    monkeypatch.setattr(disk, "free", lambda _: disk.Free(bytes=1000, files=None))
    with pytest.raises(StorageError, match=r"are needed and 1\.0 kB are free"):
        exported(night, Kind.HF, shard_bytes=3000)
    assert tree(night.directory / "export/hf") == before


# At the terminal


def test_the_command_tells_what_went_out_and_how_it_is_opened(
    night: Nights, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(night.directory)
    assert cli(["export", run, "--to", "hf", "--shard-size", "3kB"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"7 rows with 7 pictures, which cost \$0\.\d{4}  \(simulated", out)
    assert "load_dataset(" in out
    assert cli(["export", run, "--to", "csv", "--where", "id=row-1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["left_out"], found["format"]) == (1, {"where": 6}, "csv")
    (night.directory / "images/row-3.jpg").unlink()
    assert cli(["export", run, "--to", "imagefolder", "-q"]) == 1
    out = capsys.readouterr().out
    assert "row row-3: images/row-3.jpg: it is gone" in out
    assert f"batchgen verify {run}" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "csv", "--link", "hard"], "--link is for --to imagefolder"),
        (["--to", "imagefolder", "--shard-size", "1GB"], "--shard-size is for --to hf and webdataset"),
        (["--to", "hf", "--absolute"], "--absolute is for --to csv and jsonl"),
        (["--to", "hf", "--shard-size", "much"], "'much' is no size"),
        (["--to", "hf", "--shard-size", "0"], "'0' is no size"),
        (["--to", "hf", "--where", "width"], "'width' is not COLUMN=VALUE"),
        (["--to", "hf", "--only", "gone.csv"], "gone.csv: no such file"),
        (["--to", "zip"], "'zip' is not one of"),
    ],
)
def test_what_cannot_be_meant_is_told(
    night: Nights, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["export", str(night.directory), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["export", str(tmp_path / "gone"), "--to", "hf"]) == 2
    assert "no such folder" in capsys.readouterr().err
