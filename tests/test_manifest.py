"""A table of prompts becomes exactly the tasks it asks for, or a list of what is wrong where."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchgen import manifest
from batchgen.errors import InputError, ManifestError, StorageError
from batchgen.manifest import Manifest, Reading, sorting, tables
from batchgen.manifest.problems import Problems
from batchgen.manifest.rows import digests
from batchgen.records import Expect, Params, Provider, Task
from batchgen.references import References

PLAIN = Reading(model="m")


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder / "manifest.parquet"


def tasks_of(table: Manifest) -> list[Task]:
    return [batch.task(index) for batch in table.batches() for index in range(len(batch.keys))]


def rows_of(table: Manifest) -> list[dict[str, Any]]:
    return [row for batch in table.batches() for row in batch.columns().to_pylist()]


def read(path: Path, snapshot: Path, data: bytes | str | None = None, reading: Reading = PLAIN) -> Manifest:
    if data is not None:
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return manifest.read(str(path), reading, snapshot=snapshot, look=References().look)


def problems_of(
    path: Path, snapshot: Path, data: bytes | str | None, reading: Reading = PLAIN
) -> list[tuple[int | None, str | None, str]]:
    """What is wrong, with the promise that nothing is left behind."""
    with pytest.raises(ManifestError) as caught:
        read(path, snapshot, data, reading)
    assert list(snapshot.parent.iterdir()) == []
    return [(problem.row, problem.column, problem.message) for problem in caught.value.problems]


def parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


# What a table asks for


def test_a_row_is_a_task_with_the_cells_over_the_defaults(tmp_path: Path, snapshot: Path) -> None:
    text = (
        "id,prompt,model,system,temperature,top_p,max_tokens\n"
        "a,one,Gem,be nice,0.5,.9,77\n"
        "b,two,,,,,\n"
        "c,three,,, +1 ,1e-1,7.0\n"
    )
    reading = Reading(
        model="m",
        models={"gem": "gem-1"},
        system="base",
        params=Params(temperature=2.0, top_p=0.0, max_tokens=5),
    )
    first, second, third = tasks_of(read(tmp_path / "t.csv", snapshot, text, reading))
    assert (first.id, first.name, first.prompt, first.model, first.system) == (
        "a",
        "a",
        "one",
        "gem-1",
        "be nice",
    )
    assert first.params == Params(temperature=0.5, top_p=0.9, max_tokens=77)
    assert (second.model, second.system) == ("m", "base")
    assert second.params == Params(temperature=2.0, top_p=0.0, max_tokens=5)
    assert third.params == Params(temperature=1.0, top_p=0.1, max_tokens=7)


def test_any_model_is_accepted_where_none_is_known(tmp_path: Path, snapshot: Path) -> None:
    (task,) = tasks_of(read(tmp_path / "t.csv", snapshot, "prompt,model\na, Any/Thing \n"))
    assert task.model == "Any/Thing"


def test_task_keys_are_a_contract_with_ledgers_on_disk(tmp_path: Path, snapshot: Path) -> None:
    text = "prompt,model,system,temperature,top_p,max_tokens\na cat,,,,,\nein Öl‑Bild,x,s,1,0.25,9\n"
    keys = [task.key for task in tasks_of(read(tmp_path / "t.csv", snapshot, text))]
    assert keys == ["0a8dd278b49f1ed23406e80e31bdafb1-1-1", "700e983db89adb9b5ad791e492530207-1-1"]


def test_variants_are_tasks_of_their_own_in_order(tmp_path: Path, snapshot: Path) -> None:
    table = read(
        tmp_path / "t.csv",
        snapshot,
        "id,prompt,variants\na,x,2\nb,y,\nc,z,1.0\n",
        Reading(model="m", variants=3),
    )
    assert (table.rows, table.tasks) == (3, 6)
    tasks = tasks_of(table)
    assert [(task.id, task.variant, task.name) for task in tasks] == [
        ("a", 1, "a-1"),
        ("a", 2, "a-2"),
        ("b", 1, "b-1"),
        ("b", 2, "b-2"),
        ("b", 3, "b-3"),
        ("c", 1, "c"),
    ]
    assert len({task.key for task in tasks}) == 6


def test_a_row_of_many_variants_is_split_into_batches(tmp_path: Path, snapshot: Path) -> None:
    table = read(tmp_path / "t.csv", snapshot, "id,prompt,variants\na,x,10000\nb,y,1\nc,z,5\n")
    sizes = [len(batch.keys) for batch in table.batches()]
    assert max(sizes) <= 8192
    assert sum(sizes) == table.tasks == 10006
    assert [(row["id"], row["variant"]) for row in rows_of(table)] == [
        *(("a", variant) for variant in range(1, 10001)),
        ("b", 1),
        *(("c", variant) for variant in range(1, 6)),
    ]


def test_a_long_prompt_of_many_variants_comes_in_small_batches(tmp_path: Path, snapshot: Path) -> None:
    table = read(tmp_path / "t.csv", snapshot, f"prompt,variants\n{'x' * 1_000_000},200\n")
    assert [len(batch.keys) for batch in table.batches()] == [67, 67, 66]


def test_the_keys_of_a_batch_belong_to_its_tasks(tmp_path: Path, snapshot: Path) -> None:
    table = read(tmp_path / "t.csv", snapshot, "prompt,variants\na,2\nb,1\na,1\n")
    (batch,) = table.batches()
    assert batch.keys == [task.key for task in tasks_of(table)] == [row["task_key"] for row in rows_of(table)]
    assert batch.ids == [task.id for task in tasks_of(table)] == [row["id"] for row in rows_of(table)]


# Columns


def test_columns_are_found_but_for_case_and_by_mapping(tmp_path: Path, snapshot: Path) -> None:
    text = "ID,Prompt,Caption\n1,no,yes\n"
    (task,) = tasks_of(read(tmp_path / "t.csv", snapshot, text))
    assert (task.id, task.prompt) == ("1", "no")
    table = read(tmp_path / "t.csv", snapshot, text, Reading(model="m", columns={"prompt": "caption"}))
    assert rows_of(table)[0] | {"task_key": ""} == {
        "id": "1",
        "variant": 1,
        "prompt": "yes",
        "model": "m",
        "task_key": "",
        "Prompt": "no",
    }


def test_custom_id_is_the_id_where_there_is_no_other(tmp_path: Path, snapshot: Path) -> None:
    assert tasks_of(read(tmp_path / "t.csv", snapshot, "custom_id,prompt\nx,p\n"))[0].id == "x"
    table = read(tmp_path / "t.csv", snapshot, "custom_id,id,prompt\nx,y,p\n")
    assert rows_of(table)[0]["custom_id"] == "x"
    assert tasks_of(table)[0].id == "y"


def test_csv_cells_are_carried_as_they_are(tmp_path: Path, snapshot: Path) -> None:
    table = read(tmp_path / "t.csv", snapshot, "prompt,zip,,id:x\np,007,,NULL\n")
    assert table.carried == pa.schema([("zip", pa.string()), ("", pa.string()), ("id:x", pa.string())])
    assert {key: rows_of(table)[0][key] for key in ("zip", "", "id:x")} == {
        "zip": "007",
        "": "",
        "id:x": "NULL",
    }


def test_jsonl_columns_keep_the_type_that_holds_for_all_rows(tmp_path: Path, snapshot: Path) -> None:
    lines = [
        {"prompt": "a", "b": True, "i": 1, "f": 0.5, "s": "x", "mixed": 1, "deep": {"k": [1]}, "none": None},
        {"prompt": "b", "b": False, "i": 2, "f": 1.5, "s": "y", "mixed": "x", "late": 3},
    ]
    table = read(tmp_path / "t.ndjson", snapshot, "\n".join(map(json.dumps, lines)))
    kinds = {field.name: str(field.type) for field in table.carried}
    assert kinds == {
        "b": "bool",
        "i": "int64",
        "f": "double",
        "s": "string",
        "mixed": "string",
        "deep": "string",
        "none": "null",
        "late": "int64",
    }
    first, second = rows_of(table)
    assert (first["mixed"], first["deep"], first["late"]) == ("1", '{"k":[1]}', None)
    assert (second["mixed"], second["deep"], second["late"]) == ('"x"', None, 3)


def test_jsonl_cells_of_mixed_kinds_are_read_for_what_they_say(tmp_path: Path, snapshot: Path) -> None:
    text = '{"id":"a","prompt":"x","temperature":1}\n\n{"id":7,"prompt":"y","temperature":"0.5"}\n'
    first, second = tasks_of(read(tmp_path / "t.jsonl", snapshot, text))
    assert (first.id, first.params.temperature) == ("a", 1.0)
    assert (second.id, second.params.temperature) == ("7", 0.5)


def test_parquet_columns_keep_their_types(tmp_path: Path, snapshot: Path) -> None:
    columns = {
        "prompt": pa.array(["a", "b"]).dictionary_encode(),
        "id": pa.array([7, 8], pa.uint32()),
        "model": pa.array(["x", None], pa.large_string()),
        "system": pa.array(["s", None], pa.string_view()),
        "temperature": pa.array([0.5, None], pa.float32()),
        "max_tokens": pa.array([5, 6], pa.int64()),
        "tags": pa.array([["t"], None], pa.list_(pa.string())),
        "kind": pa.array(["k", "l"]).dictionary_encode(),
        "wide": pa.array(["w", "v"], pa.string_view()),
        "raw": pa.array([b"\0\xff", b""]),
        "when": pa.array([1, 2], pa.timestamp("us", "UTC")),
    }
    table = read(parquet(tmp_path / "t.parquet", **columns), snapshot)
    carried = ("tags", "kind", "wide", "raw", "when")
    assert table.carried == pa.schema([(name, columns[name].type) for name in carried])
    first, second = tasks_of(table)
    assert (first.id, first.prompt, first.model, first.system, first.params) == (
        "7",
        "a",
        "x",
        "s",
        Params(temperature=0.5, max_tokens=5),
    )
    assert (second.model, second.system, second.params) == ("m", None, Params(max_tokens=6))
    assert [row["tags"] for row in rows_of(table)] == [["t"], None]


def test_categories_that_differ_between_row_groups_are_carried(tmp_path: Path, snapshot: Path) -> None:
    kinds = ["a", "b", "c", "a"]
    column = pa.chunked_array([pa.array([kind]).dictionary_encode() for kind in kinds])
    pq.write_table(pa.table({"prompt": kinds, "kind": column}), tmp_path / "t.parquet", row_group_size=1)
    assert [row["kind"] for row in rows_of(read(tmp_path / "t.parquet", snapshot))] == kinds


def test_results_of_a_former_run_are_a_manifest(tmp_path: Path, snapshot: Path) -> None:
    table = parquet(
        tmp_path / "results.pq",
        id=["a"],
        variant=pa.array([1], pa.int32()),
        status=["failed"],
        prompt=["p"],
        model=["m2"],
        images=pa.array([[{"file_name": "a.png"}]]),
        cost_usd=pa.array([None], pa.decimal128(18, 9)),
        task_key=["k"],
    )
    read_again = read(table, snapshot)
    assert read_again.carried.names == ["variant", "status", "images", "cost_usd", "task_key"]
    (batch,) = read_again.batches()
    assert batch.columns().schema.names == [
        "id",
        "variant",
        "prompt",
        "model",
        "task_key",
        *read_again.carried.names,
    ]
    assert batch.task(0).model == "m2"


# Templates


def test_the_prompt_template_renders_over_all_columns(tmp_path: Path, snapshot: Path) -> None:
    reading = Reading(model="m", template="{{x}} {product}, {my col}: {prompt}")
    table = read(tmp_path / "t.csv", snapshot, "Product,my col,prompt\ncat,1.0,old\n", reading)
    assert tasks_of(table)[0].prompt == "{x} cat, 1.0: old"
    assert table.carried.names == ["Product", "my col"]


def test_a_mapped_prompt_column_can_be_used_in_the_template(tmp_path: Path, snapshot: Path) -> None:
    reading = Reading(model="m", template="new {prompt}", columns={"prompt": "Caption"})
    table = read(tmp_path / "t.csv", snapshot, "Caption\nold\n", reading)
    assert tasks_of(table)[0].prompt == "new old"
    assert table.carried.names == []


def test_numbers_render_as_python_writes_them(tmp_path: Path, snapshot: Path) -> None:
    path = parquet(
        tmp_path / "t.parquet", f=[1.0], i=[2], g=pa.array([0.1], pa.float32()), t=[["x"]], u=[None]
    )
    reading = Reading(model="m", template="{f} {i} {g} {t}", name="n{u}")
    (task,) = tasks_of(read(path, snapshot, None, reading))
    assert (task.prompt, task.name) == ("1.0 2 0.1 ['x']", "n")


def test_the_name_template_knows_id_variant_and_row(tmp_path: Path, snapshot: Path) -> None:
    text = "id,prompt,kind\na,x,k\nb,y,\n"
    names = [
        task.name
        for task in tasks_of(
            read(tmp_path / "t.csv", snapshot, text, Reading(model="m", name="{row}_{kind}_{id}"))
        )
    ]
    assert names == ["1_k_a", "2__b"]
    reading = Reading(model="m", name="v{variant}-{ID}", variants=2)
    names = [task.name for task in tasks_of(read(tmp_path / "t.csv", snapshot, "prompt,ID\nx,q\n", reading))]
    assert names == ["v1-q", "v2-q"]


def test_several_variants_never_share_a_name(tmp_path: Path, snapshot: Path) -> None:
    reading = Reading(model="m", name="pic")
    names = [
        task.name
        for task in tasks_of(read(tmp_path / "t.csv", snapshot, "prompt,variants\nx,2\ny,1\n", reading))
    ]
    assert names == ["pic-1", "pic-2", "pic"]


# Keys


def test_rows_of_equal_content_are_pictures_of_their_own(tmp_path: Path, snapshot: Path) -> None:
    tasks = tasks_of(read(tmp_path / "t.csv", snapshot, "prompt\na\nb\na\na\n"))
    digest = tasks[0].key[:16]
    assert [task.id for task in tasks] == [digest, tasks[1].key[:16], f"{digest}-2", f"{digest}-3"]
    assert [task.key[32:] for task in tasks] == ["-1-1", "-1-1", "-2-1", "-3-1"]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
WORDS = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["", "x", "y", "z"])),
    min_size=1,
    max_size=12,
    unique=True,
)


@settings(max_examples=25, deadline=None)
@given(rows=WORDS, seed=st.integers(0, 999), with_ids=st.booleans())
def test_shuffling_a_manifest_changes_no_rows_picture(
    rows: list[tuple[str, str]], seed: int, with_ids: bool
) -> None:
    def keys(table: list[tuple[str, str]]) -> dict[tuple[str, ...], str]:
        head = "id,prompt,tag" if with_ids else "prompt,tag"
        body = [f"{tag}{prompt}9,{prompt},{tag}" if with_ids else f"{prompt},{tag}" for prompt, tag in table]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "t.csv")
            table_read = read(path, Path(folder, "s"), "\n".join([head, *body]))
            return {(row["prompt"], row["tag"]): row["task_key"] for row in rows_of(table_read)}

    shuffled = random.Random(seed).sample(rows, len(rows))
    before = keys(rows)
    assert keys(shuffled) == before
    assert len(set(before.values())) == len(rows)


def test_rows_appended_with_the_next_number_change_no_key(tmp_path: Path, snapshot: Path) -> None:
    def keys(ids: list[int]) -> dict[str, str]:
        text = "id,prompt\n" + "".join(f"{number},a\n" for number in ids)
        return {task.id: task.key for task in tasks_of(read(tmp_path / "t.csv", snapshot, text))}

    before = keys([1, 2, 9])
    assert before.items() <= keys([11, 10, 9, 2, 1]).items()


def test_an_edited_row_changes_its_own_key_only(tmp_path: Path, snapshot: Path) -> None:
    before = [task.key for task in tasks_of(read(tmp_path / "t.csv", snapshot, "id,prompt\n1,a\n2,b\n3,c\n"))]
    after = [
        task.key for task in tasks_of(read(tmp_path / "t.csv", snapshot, "id,prompt\n1,a\n2,B\n0,n\n3,c\n"))
    ]
    assert (after[0], after[3]) == (before[0], before[2])
    assert len({*before, *after}) == 5


CELLS = st.one_of(st.none(), st.sampled_from(["", "é", "a=b", "model=x"]))
NUMBERS = st.one_of(st.none(), st.sampled_from([0.0, 1.0, 0.7]))


@given(
    prompts=st.lists(st.tuples(st.text(max_size=3), CELLS, CELLS, NUMBERS), min_size=1, max_size=4),
    several=st.frozensets(st.sampled_from(["model", "system", "temperature"])),
)
def test_the_hashed_bytes_are_those_of_the_contract_whichever_columns_a_file_has(
    prompts: list[tuple[str, str | None, str | None, float | None]], several: frozenset[str]
) -> None:
    names, kinds = ("prompt", "model", "system", "temperature"), (*[pa.string()] * 3, pa.float64())
    columns = {
        name: pa.array(cells, kind)
        for name, cells, kind in zip(names, zip(*prompts, strict=True), kinds, strict=True)
    }
    content = {
        name: columns[name] if name in {"prompt", *several} else columns[name][0]
        for name in ("model", "system", "prompt", "temperature")
    } | {"top_p": pa.scalar(0.5), "max_tokens": pa.scalar(None, pa.int32())}
    hashed = digests(content).to_pylist()
    for row, found in enumerate(hashed):
        cells = {
            name: (cell if isinstance(cell, pa.Scalar) else cell[row]).as_py()
            for name, cell in content.items()
        }
        sent = "\0".join(f"{name}={cell}" for name, cell in cells.items() if cell is not None)
        assert found == blake2b(sent.encode(), digest_size=16).digest()


# Rows that are equal, more of them than memory is given for


@pytest.fixture
def cramped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every few rows are a stretch of their own."""
    monkeypatch.setattr(sorting, "_STRETCH_ROWS", 5)
    monkeypatch.setattr(sorting, "_READ_ROWS", 2)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(values=st.lists(st.sampled_from([0, 1, 2**32, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1]), max_size=40))
@pytest.mark.usefixtures("cramped")
def test_all_rows_of_a_value_that_is_there_twice_are_found(values: list[int]) -> None:
    counts = Counter(values)
    expected = [row for row, value in enumerate(values) if counts[value] > 1]
    assert sorting.repeated(array("Q", values)).tolist() == expected


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    batches=st.lists(
        st.lists(st.tuples(TEXTS, st.integers(0, 3)), min_size=1, max_size=9), min_size=1, max_size=5
    )
)
@pytest.mark.usefixtures("cramped")
def test_rows_that_are_sorted_on_disk_come_in_order_and_all_of_them(
    batches: list[list[tuple[str, int]]],
) -> None:
    schema = pa.schema([("a", pa.string()), ("b", pa.int64())])
    with tempfile.TemporaryDirectory() as folder:
        found = sorting.ordered(
            (
                pa.RecordBatch.from_arrays(list(map(pa.array, zip(*rows, strict=True))), schema=schema)
                for rows in batches
            ),
            Path(folder, "s"),
        )
        assert list(found) == sorted(row for rows in batches for row in rows)
        assert list(Path(folder).iterdir()) == []


@pytest.mark.usefixtures("cramped")
@pytest.mark.parametrize("with_ids", [False, True])
def test_rows_of_one_prompt_keep_their_keys_however_many_there_are(
    tmp_path: Path, snapshot: Path, *, with_ids: bool
) -> None:
    rows = [(f"{number}", "a" if number % 7 else f"p{number}", f"tag {number % 50}") for number in range(100)]

    def keys() -> dict[str, list[str]]:
        text = "id,prompt,tag\n" if with_ids else "prompt,tag\n"
        text += "".join(",".join(row if with_ids else row[1:]) + "\n" for row in rows)
        found: dict[str, list[str]] = {}
        for row in rows_of(read(tmp_path / "t.csv", snapshot, text)):
            found.setdefault(f"{row['id']}" if with_ids else row["prompt"] + row["tag"], []).append(
                row["task_key"]
            )
        return found

    before = keys()
    assert len({key for several in before.values() for key in several}) == 100
    if with_ids:
        assert [before[f"{number}"][0].split("-")[1] for number in (1, 2, 10, 99)] == ["1", "2", "9", "85"]
    random.Random(1).shuffle(rows)
    assert {name: sorted(several) for name, several in keys().items()} == {
        name: sorted(several) for name, several in before.items()
    }


@pytest.mark.usefixtures("cramped")
def test_an_id_that_all_rows_have_is_told_for_the_first_and_counted_for_all(
    tmp_path: Path, snapshot: Path
) -> None:
    (tmp_path / "t.csv").write_text("id,prompt\n" + "".join(f"same,{number}\n" for number in range(60)))
    with pytest.raises(ManifestError, match="id 'same' is also that of row 1; ids are unique\n") as caught:
        read(tmp_path / "t.csv", snapshot)
    assert [problem.row for problem in caught.value.problems] == list(range(2, 22))
    assert caught.value.count == 59


def test_missing_ids_move_no_other_rows_number(tmp_path: Path, snapshot: Path) -> None:
    found = problems_of(tmp_path / "t.csv", snapshot, "id,prompt\n,a\n,b\nx,c\nx,d\n")
    assert [row for row, _, _ in found] == [1, 2, 4]
    assert "row 3" in found[-1][2]


def test_a_table_of_results_with_variants_is_told_what_its_ids_are(tmp_path: Path, snapshot: Path) -> None:
    path = parquet(tmp_path / "r.parquet", id=["a", "a"], prompt=["p", "p"], task_key=["k-1-1", "k-1-2"])
    ((_, _, message),) = problems_of(path, snapshot, None)
    assert message.endswith("--column id=task_key")
    table = read(path, snapshot, None, Reading(model="m", columns={"id": "task_key"}))
    assert [task.id for task in tasks_of(table)] == ["k-1-1", "k-1-2"]


# Round trips

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
PROMPT = TEXT.filter(lambda text: bool(text.strip()) and not all(map(str.isspace, text)))
TABLES = st.lists(st.tuples(PROMPT, TEXT), min_size=1, max_size=8)


def write_table(path: Path, rows: list[tuple[str, str]]) -> None:
    if path.suffix in {".csv", ".tsv"}:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(
                file, "excel-tab" if path.suffix == ".tsv" else "excel", quoting=csv.QUOTE_ALL
            )
            writer.writerows([("prompt", "note"), *rows])
    elif path.suffix == ".jsonl":
        lines = [json.dumps({"prompt": prompt, "note": note}) for prompt, note in rows]
        path.write_text("\n".join(lines), encoding="utf-8")
    else:
        parquet(path, prompt=[prompt for prompt, _ in rows], note=[note for _, note in rows])


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
@settings(max_examples=25, deadline=None)
@given(rows=TABLES)
def test_what_is_written_is_what_is_read(suffix: str, rows: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"t.{suffix}")
        write_table(path, rows)
        table = read(path, Path(folder, "s"))
        assert [(row["prompt"], row["note"]) for row in rows_of(table)] == rows
        assert [task.prompt for task in tasks_of(table)] == [prompt for prompt, _ in rows]


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=60), suffix=st.sampled_from(["csv", "tsv", "jsonl", "parquet", "csv.gz"]))
def test_any_bytes_are_read_or_told_to_be_wrong(data: bytes, suffix: str) -> None:
    head = b"" if suffix in {"jsonl", "parquet", "csv.gz"} else b"prompt,x\n"
    with tempfile.TemporaryDirectory() as folder:
        try:
            table = read(Path(folder, f"t.{suffix}"), Path(folder, "s"), head + data)
        except ManifestError:
            assert not Path(folder, "s").exists()
        else:
            assert len(rows_of(table)) == table.tasks


# Sources


def test_the_same_text_is_the_same_table_by_every_road(tmp_path: Path, snapshot: Path) -> None:
    text = b'id,prompt\n1,"a\n""b"""\n2,c\n'
    expected = tasks_of(read(tmp_path / "t.csv", snapshot, text))
    assert tasks_of(read(tmp_path / "t.CSV.gz", snapshot, gzip.compress(text))) == expected
    assert tasks_of(read(tmp_path / "bom.csv", snapshot, codecs.BOM_UTF8 + text + b"\n\n")) == expected
    assert (
        tasks_of(manifest.read("-", PLAIN, snapshot=snapshot, look=References().look, stdin=io.BytesIO(text)))
        == expected
    )
    crlf = b'id,prompt\r\n1,"a\n""b"""\r\n2,c'
    assert tasks_of(read(tmp_path / "crlf.csv", snapshot, crlf)) == expected
    lines = b'{"id":1,"prompt":"a\\n\\"b\\""}\n{"id":2,"prompt":"c"}\n'
    assert tasks_of(read(tmp_path / "t.jsonl", snapshot, codecs.BOM_UTF8 + lines)) == expected
    assert tasks_of(read(tmp_path / "t.jsonl.gz", snapshot, gzip.compress(lines))) == expected


def test_standard_input_is_a_pipe_that_may_come_in_pieces(snapshot: Path) -> None:
    script = "import sys\nfor part in ('pro','mpt\\na','\\nb'):\n print(part, end='', flush=True)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        table = manifest.read("-", PLAIN, snapshot=snapshot, look=References().look, stdin=child.stdout)  # type: ignore[arg-type]
    assert [task.prompt for task in tasks_of(table)] == ["a", "b"]


def test_cells_of_a_megabyte_work(tmp_path: Path, snapshot: Path) -> None:
    long = "é" * 500_000
    for name, text in (
        ("t.csv", f'prompt\n"{long}"\nb\n'),
        ("t.jsonl", json.dumps({"prompt": long}) + '\n{"prompt":"b"}'),
    ):
        assert [task.prompt for task in tasks_of(read(tmp_path / name, snapshot, text))] == [long, "b"]


def test_a_long_row_is_read_whole_wherever_its_quotes_and_lines_are(tmp_path: Path, snapshot: Path) -> None:
    for long in ('x"" y\n' * 100_000, f"{'x' * 300_000}\n" * 3, "\n" * 500_000 + "x", '""\n' * 250_000):
        text = "prompt,n\n" + "".join(f'"{long}",{n}\nshort 5"" {n},{n}\n' for n in range(3))
        prompts = [task.prompt for task in tasks_of(read(tmp_path / "t.csv", snapshot, text))]
        assert prompts == [part for n in range(3) for part in (long.replace('""', '"'), f'short 5"" {n}')]


def test_many_rows_come_in_order_over_all_block_boundaries(tmp_path: Path, snapshot: Path) -> None:
    rows = [f"{number},é{'x' * (number % 200)}" for number in range(40_000)]
    table = read(tmp_path / "t.csv", snapshot, "id,prompt\n" + "\n".join(rows))
    assert [f"{row['id']},{row['prompt']}" for row in rows_of(table)] == rows
    lines = "\n".join(
        json.dumps(dict(zip(("id", "prompt"), row.split(","), strict=True))) for row in rows[:10_000]
    )
    assert [
        f"{row['id']},{row['prompt']}" for row in rows_of(read(tmp_path / "t.jsonl", snapshot, lines))
    ] == rows[:10_000]


def test_a_run_is_untouched_by_edits_of_the_manifest(tmp_path: Path, snapshot: Path) -> None:
    table = read(tmp_path / "t.csv", snapshot, "prompt\na\n")
    (tmp_path / "t.csv").write_text("prompt\nb\nc\n")
    assert [task.prompt for task in tasks_of(table)] == ["a"]
    again = Manifest(snapshot)
    assert (again.rows, again.tasks, tasks_of(again)) == (1, 1, tasks_of(table))


@pytest.mark.parametrize(
    ("later", "rows", "wrong"), [(b'{"prompt":"b"}\n', 1, 0), (b"{\n", 0, 1), (b"[]", 0, 1)]
)
def test_lines_that_change_between_two_looks_are_not_mixed_up(
    tmp_path: Path, later: bytes, rows: int, wrong: int
) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"prompt":"a"}\n')
    problems = Problems("t")
    with tables.opened(str(path), None, problems) as table:
        path.write_bytes(path.read_bytes() + later if rows else later)
        assert sum(batch.num_rows for batch in table.batches) == rows
    assert bool(problems) is bool(wrong)


def test_a_table_that_is_the_same_byte_for_byte_is_not_read_again(tmp_path: Path, snapshot: Path) -> None:
    for suffix, data in {"csv": "id,prompt\na,dawn\n", "jsonl": '{"id":"a","prompt":"dawn"}\n'}.items():
        path = tmp_path / f"table.{suffix}"
        path.write_text(data)
        made = [(read(path, snapshot), snapshot.stat().st_ino)[1] for _ in range(2)]
        assert made[0] == made[1]
        path.write_text(data.replace("dawn", "dusk"))
        os.utime(path, ns=(0, 0))
        assert [task.prompt for task in tasks_of(read(path, snapshot))] == ["dusk"]
        assert snapshot.stat().st_ino != made[1]


OTHERWISE: dict[str, object] = {
    "model": "other",
    "models": {"m": "m"},
    "unknown": "no such model",
    "columns": {"system": "prompt"},
    "template": "{prompt}!",
    "name": "{id}-{row}",
    "system": "Be brief.",
    "params": Params(seed=0),
    "expect": Expect.TEXT,
    "variants": 2,
    "provider": Provider(name="p", title="P", base_url=""),
    "cannot": {"seed": "no seed here"},
    "folder": Path("elsewhere"),
    "allow_outside": True,
}


@pytest.mark.parametrize("name", Reading.__struct_fields__)
def test_a_table_that_is_to_be_read_otherwise_is_read_again(
    tmp_path: Path, snapshot: Path, name: str
) -> None:
    path = tmp_path / "table.csv"
    path.write_text("id,prompt\na,dawn\n")
    reading = Reading(model="m")
    manifest.read(str(path), reading, snapshot=snapshot, look=References().look)
    before = snapshot.stat().st_ino
    other = msgspec.structs.replace(reading, **{name: OTHERWISE[name]})
    manifest.read(str(path), other, snapshot=snapshot, look=References().look)
    assert snapshot.stat().st_ino != before


def test_a_copy_that_was_altered_or_damaged_is_made_again(tmp_path: Path, snapshot: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("id,prompt\n" + "".join(f"r{n},picture {n}\n" for n in range(20)))
    keys = [task.key for task in tasks_of(read(path, snapshot))]
    whole = snapshot.read_bytes()
    rows = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    damaged = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(4, rows, 97)]
    for data in (*damaged, whole[:-1], b"", b"PAR1"):
        snapshot.write_bytes(data)
        assert [task.key for task in tasks_of(read(path, snapshot))] == keys
        assert snapshot.read_bytes() == whole
    edited = pq.read_table(snapshot)
    pq.write_table(edited.slice(1), snapshot)
    assert [task.key for task in tasks_of(read(path, snapshot))] == keys


def test_a_table_that_brings_files_along_is_read_again(tmp_path: Path, snapshot: Path) -> None:
    path, picture = tmp_path / "table.csv", tmp_path / "a.png"
    path.write_text("id,prompt,references\na,dawn,a.png\n")
    found = set()
    for mark in (b"one", b"two"):
        picture.write_bytes(b"\x89PNG\r\n\x1a\n" + mark)
        reading = Reading(model="m", folder=tmp_path)
        rows = manifest.read(str(path), reading, snapshot=snapshot, look=References().look)
        found |= {task.key for task in tasks_of(rows)}
    assert len(found) == 2


def test_a_table_that_is_written_to_while_it_is_read_is_not_known_again(
    tmp_path: Path, snapshot: Path
) -> None:
    path = tmp_path / "table.csv"
    path.write_text("id,prompt,references\na,dawn,\n")

    class Meddling(Mapping[str, str]):
        """Models that are looked up while somebody writes the table."""

        def __getitem__(self, name: str) -> str:
            path.write_text("id,prompt,model\na,dawn,m\nb,dusk,m\n")
            return name

        def __iter__(self) -> Iterator[str]:
            return iter(["m"])

        def __len__(self) -> int:
            return 1

        def __str__(self) -> str:
            return "always the same"

    path.write_text("id,prompt,model\na,dawn,m\n")
    reading = Reading(model="m", models=Meddling())
    first = manifest.read(str(path), reading, snapshot=snapshot, look=References().look)
    assert len(tasks_of(first)) == 1
    path.write_text("id,prompt,model\na,dawn,m\n")
    before = snapshot.stat().st_ino
    manifest.read(str(path), reading, snapshot=snapshot, look=References().look)
    assert snapshot.stat().st_ino != before


def test_a_pipe_is_read_once(tmp_path: Path, snapshot: Path) -> None:
    path = tmp_path / "table.csv"
    os.mkfifo(path)
    with ThreadPoolExecutor(1) as threads:
        for _ in range(2):
            threads.submit(path.write_text, "id,prompt\na,dawn\n")
            assert len(tasks_of(read(path, snapshot))) == 1


def test_a_failed_read_leaves_the_former_snapshot_as_it_was(tmp_path: Path, snapshot: Path) -> None:
    table = read(tmp_path / "t.csv", snapshot, "prompt\na\n")
    with pytest.raises(ManifestError):
        read(tmp_path / "t.csv", snapshot, "prompt\n \n")
    assert [task.prompt for task in tasks_of(table)] == ["a"]
    assert list(snapshot.parent.iterdir()) == [snapshot]


def test_a_snapshot_that_cannot_be_written_or_read_is_told(tmp_path: Path, snapshot: Path) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        read(tmp_path / "t.csv", tmp_path / "nowhere" / "s", "prompt\na\n")
    table = read(tmp_path / "t.csv", snapshot, "prompt\n" + 1_000 * "a\n")  # fewer are held in memory
    snapshot.write_bytes(b"PAR1")
    with pytest.raises(StorageError, match=r"manifest\.parquet"):
        list(table.batches())


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("room", [0, 4, 5_000, 20_000])
def test_a_full_disk_is_told_and_nothing_stays_on_it(
    tmp_path: Path, snapshot: Path, *, same: bool, room: int
) -> None:
    text = "prompt,n\n" + "".join(f"{'a' if same else f'p{n}'},{n}\n" for n in range(2_000))
    (tmp_path / "t.csv").write_text(text)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"manifest\.parquet"):
            read(tmp_path / "t.csv", snapshot)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(snapshot.parent.iterdir()) == []


# Problems


@pytest.mark.parametrize(
    ("name", "data", "reading", "expected"),
    [
        ("t.csv", "id,prompt\n1,a\n,b\n", PLAIN, [(2, "id", "missing id")]),
        ("t.csv", "id,prompt\n1,a\n2,b\n1,c\n", PLAIN, [(3, "id", "id '1' is also that of row 1")]),
        ("t.csv", 'id,prompt\n1,a\n"2\n",b\n3\n1,c\n', PLAIN, [(3, None, "1 cells"), (4, "id", "row 1")]),
        ("t.csv", "Prompt,x\n,1\n\u2003,2\n", PLAIN, [(1, "Prompt", "empty"), (2, "Prompt", "empty")]),
        (
            "t.csv",
            "prompt,variants\na,0\nb,1.5\nc,10001\n",
            PLAIN,
            [(row, "variants", "from 1 to 10,000") for row in (1, 2, 3)],
        ),
        (
            "t.csv",
            f"prompt,temperature\na,{'9' * 50}\nb,nan\n",
            PLAIN,
            [(1, "temperature", "'999999999"), (2, "temperature", "'nan'")],
        ),
        ("t.csv", "prompt,top_p\na,1.01\nb,1e-400\n", PLAIN, [(1, "top_p", "from 0 to 1, got '1.01'")]),
        ("t.csv", "prompt,max_tokens\na,-1\n", PLAIN, [(1, "max_tokens", "'-1'")]),
        (
            "t.csv",
            "prompt,model\na,gen\n",
            Reading(model="m", models={"gem": "g"}),
            [(1, "model", "did you mean 'gem'")],
        ),
        ("t.csv", b"prompt,x\na,1\nb\xff,2\n", PLAIN, [(2, "prompt", "not UTF-8")]),
        ("t.csv", b"prompt,x\na,1\nb,\xe9\n", PLAIN, [(2, "x", "not UTF-8")]),
        ("t.csv", b"prompt,x\na,1\nb\0,2\n", PLAIN, [(2, "prompt", "nul character")]),
        ("t.csv", b"prompt,x\na,1\nb,2,\xff\nc,3\n", PLAIN, [(2, None, "3 cells where the header has 2")]),
        ("t.csv", 'prompt,x\n"a\nb",1\n\nc\n"",3\n', PLAIN, [(2, None, "1 cells"), (3, "prompt", "empty")]),
        ("t.csv", 'prompt,x\na,1\nb,"c\nd,2\n', PLAIN, [(2, None, "never closed")]),
        ("t.csv", 'prompt,x\na,1\n"b,c\nd,2\n', PLAIN, [(2, None, "never closed")]),
        ("t.csv", 'prompt\na\n"b\n', PLAIN, [(2, None, "never closed")]),
        ("t.csv", 'prompt,"x\na,1\n', PLAIN, [(None, None, "never closed")]),
        ("t.csv", '"prompt\na\n', PLAIN, [(None, None, "never closed")]),
        ("t.csv", f'prompt,x\na,1\n"{"b" * 3_000_000}",2\n', PLAIN, [(2, None, "more than 1 MB")]),
        ("t.csv", "", PLAIN, [(None, None, "empty")]),
        ("t.csv", "\n\n", PLAIN, [(None, None, "empty")]),
        ("t.csv", "prompt,x", PLAIN, [(None, None, "no rows")]),
        ("t.csv", "prompt,x,x\na,1,2\n", PLAIN, [(None, "x", "two columns")]),
        ("t.csv", "promt,x\na,1\n", PLAIN, [(None, None, "did you mean 'promt'")]),
        ("t.csv", "Prompt,PROMPT\na,1\n", PLAIN, [(None, None, "'Prompt' and 'PROMPT'")]),
        ("t.csv", b"prompt,\xff\na,1\n", PLAIN, [(None, None, "not UTF-8")]),
        ("t.csv", b"prompt,a\0\na,1\n", PLAIN, [(None, None, "nul character")]),
        ("t.csv", "prompt\na\n".encode("utf-16"), PLAIN, [(None, None, "UTF-16; save it as UTF-8")]),
        ("t.jsonl", '{"prompt":"a"}'.encode("utf-16"), PLAIN, [(None, None, "UTF-16; save it as UTF-8")]),
        ("t.csv.gz", b"prompt\na\n", PLAIN, [(None, None, "not a gzip file")]),
        ("t.csv.gz", gzip.compress(os.urandom(5000))[:-3000], PLAIN, [(None, None, "cut off")]),
        ("t.jsonl.gz", b"{}", PLAIN, [(None, None, "not a gzip file")]),
        ("t.parquet", b"prompt\na\n", PLAIN, [(None, None, "not a Parquet file")]),
        ("t.parquet", b"", PLAIN, [(None, None, "not a Parquet file")]),
        ("t.jsonl", b"", PLAIN, [(None, None, "empty")]),
        ("t.jsonl", b"\n \n", PLAIN, [(None, None, "no line holds an object")]),
        (
            "t.jsonl",
            '{"prompt":"a"}\n[1]\n\n{"prompt"\n',
            PLAIN,
            [(2, None, "one JSON object a line"), (4, None, "not JSON")],
        ),
        ("t.jsonl", '{"prompt":"a"}\n\n{"prompt":""}\n', PLAIN, [(3, "prompt", "empty")]),
        ("t.jsonl", '{"prompt":"a"}\n{"prompt":[1]}\n', PLAIN, [(2, "prompt", "expected text, got '[1]'")]),
        ("t.jsonl", '{"prompt":1}\n', PLAIN, [(None, "prompt", "expected text")]),
        ("t.jsonl", '{"prompt":"\\ud800"}\n', PLAIN, [(1, None, "surrogate")]),
        ("t.jsonl", '{"prompt":"a\\u0000"}\n', PLAIN, [(1, "prompt", "nul character")]),
        ("t.jsonl", b'{"prompt":"\xff"}\n', PLAIN, [(1, None, "not UTF-8")]),
        ("t.jsonl", '{"prompt":"a","x":' + "[" * 100_000 + "\n", PLAIN, [(1, None, "nested too deep")]),
        ("t.jsonl", '{"prompt":"a","n":1' + "0" * 30 + "}\n", PLAIN, [(1, None, "beyond 64 bits")]),
        ("t.jsonl", '{"prompt":"a","x":"' + "y" * (17 << 20) + '"}\n', PLAIN, [(1, None, "more than 16 MB")]),
        (
            "t.jsonl",
            json.dumps({"prompt": "a"} | {str(key): 1 for key in range(2001)}),
            PLAIN,
            [(1, None, "different keys")],
        ),
        (
            "t.csv",
            "a,b\nx,\n,y\n",
            Reading(model="m", template="{a}{b}"),
            [(1, "b", "template needs it"), (2, "a", "template needs it")],
        ),
        (
            "t.csv",
            "product\nx\n",
            Reading(model="m", template="{prodct}"),
            [(None, None, "did you mean 'product'")],
        ),
        (
            "t.csv",
            "a\nx\n",
            Reading(model="m", template="{a.b}{a[0]}"),
            [(None, None, "{a.b}"), (None, None, "{a[0]}")],
        ),
        ("t.csv", "a\nx\n", Reading(model="m", template="{a"), [(None, None, "lone '{'")]),
        ("t.csv", "a\nx\n", Reading(model="m", template="a\0"), [(None, None, "nul character")]),
        ("t.csv", "prompt\nx\n", Reading(model="m", system="\0"), [(None, None, "nul character")]),
        ("t.csv", "a\nx\n", Reading(model="m", template=" "), [(1, None, "empty prompt")]),
        (
            "t.csv",
            "prompt\nx\n",
            Reading(model="m", name="{varant}"),
            [(None, None, "did you mean 'variant'")],
        ),
        (
            "t.csv",
            "prompt\nx\n",
            Reading(model="m", columns={"promt": "a"}),
            [(None, None, "did you mean 'prompt'")],
        ),
        (
            "t.csv",
            "Caption\nx\n",
            Reading(model="m", columns={"prompt": "Captoin"}),
            [(None, None, "did you mean 'Caption'")],
        ),
    ],
)
def test_every_problem_says_what_is_wrong_and_where(
    *,
    tmp_path: Path,
    snapshot: Path,
    name: str,
    data: bytes | str,
    reading: Reading,
    expected: list[tuple[int | None, str | None, str]],
) -> None:
    found = problems_of(tmp_path / name, snapshot, data, reading)
    assert [problem[:2] for problem in found] == [problem[:2] for problem in expected]
    for (_, _, message), (_, _, part) in zip(found, expected, strict=True):
        assert part in message


@pytest.mark.parametrize(
    ("columns", "column", "part"),
    [
        ({"prompt": [b"a"]}, "prompt", "expected text"),
        ({"prompt": [["a"]]}, "prompt", "expected text"),
        ({"prompt": ["a"], "id": [0.5]}, "id", "text or whole numbers"),
        ({"prompt": ["a"], "top_p": [True]}, "top_p", "expected numbers"),
    ],
)
def test_a_parquet_column_of_the_wrong_type_is_a_problem(
    tmp_path: Path, snapshot: Path, columns: dict[str, object], column: str, part: str
) -> None:
    ((row, found, message),) = problems_of(parquet(tmp_path / "t.parquet", **columns), snapshot, None)
    assert (row, found) == (None, column)
    assert part in message


def test_a_parquet_file_cut_off_or_damaged_is_a_problem(tmp_path: Path, snapshot: Path) -> None:
    path = parquet(tmp_path / "t.parquet", prompt=[f"{number}" for number in range(5000)])
    whole = path.read_bytes()
    assert "not written to its end" in problems_of(path, snapshot, whole[:-100])[0][2]
    assert problems_of(path, snapshot, whole[:100] + b"\xff" * 500 + whole[600:]) != []


def test_parquet_text_that_is_no_utf8_is_a_problem_of_its_row(tmp_path: Path, snapshot: Path) -> None:
    bad = pa.array([b"a", None, b"\xff"]).view(pa.string())
    path = parquet(tmp_path / "t.parquet", prompt=["a", "b", "c"], note=bad)
    assert [problem[:2] for problem in problems_of(path, snapshot, None)] == [(3, "note")]
    nested = pa.StructArray.from_arrays([bad], ["x"])
    path = parquet(tmp_path / "t.parquet", prompt=["a", "b", "c"], note=nested)
    assert "UTF8" in problems_of(path, snapshot, None)[0][2]


def test_the_first_problems_are_told_and_all_are_counted(tmp_path: Path, snapshot: Path) -> None:
    text = "id,prompt\n" + "".join(f"{number % 500},\n" if number % 2 else "x\n" for number in range(1000))
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ManifestError) as caught:
        read(tmp_path / "t.csv", snapshot)
    assert [problem.row for problem in caught.value.problems] == list(range(1, 21))
    assert caught.value.count == 500 + 500 + 250


def test_a_file_that_cannot_be_opened_is_told_with_a_hint(tmp_path: Path, snapshot: Path) -> None:
    (tmp_path / "prompts.csv").touch()
    with pytest.raises(InputError, match=r"no such file; did you mean 'prompts\.csv'"):
        read(tmp_path / "promts.csv", snapshot)
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "nowhere" / "promts.csv", snapshot)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match="directory"):
        read(tmp_path / "folder.csv", snapshot)
    for name in ("t.xlsx", "t", "t.gz", "t.parquet.gz"):
        with pytest.raises(InputError, match=r"\.csv, \.tsv, \.jsonl, \.ndjson, \.parquet, \.pq"):
            read(tmp_path / name, snapshot)
    with pytest.raises(InputError, match="cannot be opened"):
        manifest.read(f"{tmp_path}/\0.csv", PLAIN, snapshot=snapshot, look=References().look)
    with pytest.raises(InputError, match="standard input"):
        manifest.read("-", PLAIN, snapshot=snapshot, look=References().look)


def test_a_file_without_permission_is_told(tmp_path: Path, snapshot: Path) -> None:
    (tmp_path / "t.csv").write_text("prompt\na\n")
    (tmp_path / "t.csv").chmod(0)
    user = os.geteuid()
    os.seteuid(user or 65534)  # root may read everything
    try:
        with pytest.raises(InputError, match="permission denied"):
            read(tmp_path / "t.csv", snapshot)
    finally:
        os.seteuid(user)


# Ids for --only


def test_ids_come_from_a_column_or_from_lines(tmp_path: Path) -> None:
    def ids(name: str, text: str) -> frozenset[str]:
        (tmp_path / name).write_text(text)
        return manifest.read_ids(str(tmp_path / name))

    assert ids("t.csv", "x,ID\n1,a\n2,\n3,b\n") == {"a", "b"}
    assert ids("t.tsv", "custom_id\tx\na\t1\n") == {"a"}
    assert ids("t.csv", "whatever\n007\n") == {"007"}
    assert ids("t.jsonl", '{"id":7}\n{"id":"x"}\n') == {"7", "x"}
    assert ids("t.txt", "\ufeffa b\r\n\nc\n") == {"a b", "c"}
    parquet(tmp_path / "t.parquet", id=[1, None, 2])
    assert manifest.read_ids(str(tmp_path / "t.parquet")) == {"1", "2"}


@pytest.mark.parametrize(
    ("name", "data", "part"),
    [
        ("t.csv", b"a,b\n1,2\n", "no column 'id'"),
        ("t.csv", b"id,b\n1\n", "1 cells"),
        ("t.csv", b"id,id\n1,2\n", "two columns"),
        ("t.csv", b"id\n", "no id"),
        ("t.txt", b"\n", "no id"),
        ("t.txt", b"a\n\xff\n", "not UTF-8"),
    ],
)
def test_ids_that_cannot_be_read_are_told(tmp_path: Path, name: str, data: bytes, part: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=part):
        manifest.read_ids(str(tmp_path / name))


# Cost

PEAK = """
import resource, sys
from pathlib import Path
from batchgen import manifest
from batchgen.references import References
folder, rows, same = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "True"
with (folder / "t.csv").open("w") as file:
    file.write("id,prompt,tag\\n")
    file.writelines(
        f"row-{n},A studio photo of item {0 if same else n} in soft light,t{n % 9}\\n" for n in range(rows)
    )
reading = manifest.Reading(model="m")
table = manifest.read(str(folder / "t.csv"), reading, snapshot=folder / "s", look=References().look)
assert sum(len(batch.keys) for batch in table.batches()) == rows
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("same", [False, True])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, *, same: bool) -> None:
    def peak(rows: int) -> int:
        command = [sys.executable, "-c", PEAK, str(tmp_path), str(rows), str(same)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) >> 10

    assert peak(100_000) - peak(1_000) < 50


@pytest.mark.parametrize(("separator", "word"), [(";", "semicolons"), ("\t", "tabs")])
def test_another_separator_is_named(tmp_path: Path, snapshot: Path, separator: str, word: str) -> None:
    source = tmp_path / "m.csv"
    with pytest.raises(ManifestError, match=f"its cells look separated by {word}"):
        read(source, snapshot, f"id{separator}prompt\na{separator}x\n")


def test_the_snapshot_is_as_readable_as_any_new_file(tmp_path: Path, snapshot: Path) -> None:
    source = tmp_path / "m.csv"
    read(source, snapshot, "prompt\nx\n")
    assert snapshot.stat().st_mode == source.stat().st_mode


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ('prompt\nkept\n"G I G" on a wall\n', ["kept", '"G I G" on a wall']),
        ('prompt\n"one ""big"" word"\n"two\nlines"\n', ['one "big" word', "two\nlines"]),
        ('prompt\n"whole"\n', ["whole"]),
        ('prompt\na 3" nail\n', ['a 3" nail']),
    ],
)
@pytest.mark.parametrize("name", ["m.tsv", "m.tsv.gz"])
def test_quotes_in_a_tsv_are_the_cell_s_own_unless_they_wrap_all_of_it(
    tmp_path: Path, snapshot: Path, text: str, prompts: list[str], name: str
) -> None:
    data = gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()
    assert [task.prompt for task in tasks_of(read(tmp_path / name, snapshot, data))] == prompts
