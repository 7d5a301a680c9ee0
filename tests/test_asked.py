"""What rows ask for beyond a prompt reaches their tasks as it was said, or is told with row and column."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import subprocess
import sys
from hashlib import blake2b, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchgen import manifest, providers
from batchgen.cli import cli
from batchgen.dialects import DIALECTS
from batchgen.errors import InputError, ManifestError
from batchgen.manifest import Manifest, Reading, conversations, structure
from batchgen.records import Attached, Expect, ImageOptions, Params, Provider, Reference, Task
from batchgen.references import References
from batchgen.simulator import Endpoint, Settings
from tests.nights import Nights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchgen.simulator.reply import Reply

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
FLASH, PRO, OLD = (
    f"google/{name}"
    for name in ("gemini-3.1-flash-image-preview", "gemini-3-pro-image-preview", "gemini-2.5-flash-image")
)
ASK: dict[str, Any] = {
    "prompt": "two of them",
    "references": ["b.png", "a.jpg"],
    "aspect_ratio": "16:9",
    "image_size": "2k",
    "seed": 7,
    "stop": ["END", "fin;"],
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"z": 1, "a": {}}}},
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "tool_choice": "auto",
    "extra": {"z": [1.5, True], "a": {"y": "é", "b": 2}},
    "expect": "image",
}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": [{"type": "text", "text": "what is it?"}]},
    {"role": "assistant", "content": "a door"},
    {"role": "user", "content": "paint it"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "catalog"
    found.mkdir()
    for name, start in (("a.jpg", JPEG), ("b.png", PNG)):
        (found / name).write_bytes(start + name.encode())
    return found


def compact(value: object, *, ordered: bool = False) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=ordered, ensure_ascii=False)


def read(path: Path, **values: Any) -> list[Task]:
    reading = Reading(**{"model": FLASH, "folder": path.parent, **values})
    snapshot = path.parent / "snapshot"
    found: Manifest = manifest.read(str(path), reading, snapshot=snapshot, look=References().look)
    return [batch.task(index) for batch in found.batches() for index in range(len(batch.keys))]


def as_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Cells as somebody types them: lists of paths with semicolons, structure as JSON."""
    names = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*names], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {
            name: "; ".join(cell) + " ;"
            if name == "references" and isinstance(cell, list)
            else cell
            if isinstance(cell, str)
            else json.dumps(cell, indent=1)
            for name, cell in row.items()
        }
        writer.writerow(cells)
    path.write_text(text.getvalue(), encoding="utf-8")
    return path


def as_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def problems(path: Path, **values: Any) -> list[tuple[int | None, str | None, str]]:
    (path.parent / "snapshot").unlink(missing_ok=True)
    with pytest.raises(ManifestError) as caught:
        read(path, **values)
    assert not (path.parent / "snapshot").exists()
    return [(one.row, one.column, one.message) for one in caught.value.problems]


def complaint(path: Path, row: dict[str, Any], **values: Any) -> str:
    """The one thing that is wrong with the second of two rows."""
    ((number, column, message),) = problems(as_jsonl(path, [{"prompt": "fine"}, row]), **values)
    assert number == 2
    assert column in row
    return message


# What a row asks for


def test_a_row_asks_for_the_same_in_every_format_and_has_the_same_key(folder: Path) -> None:
    (task,) = read(as_jsonl(folder / "t.jsonl", [ASK]))
    assert [Path(one.source).name for one in task.references] == ["b.png", "a.jpg"]
    assert [one.mime for one in task.references] == ["image/png", "image/jpeg"]
    assert task.expect is Expect.IMAGE
    assert task.params == Params(
        aspect_ratio="16:9",
        image_size="2K",
        seed=7,
        stop=("END", "fin;"),
        response_format=compact(ASK["response_format"]),
        tools=compact(ASK["tools"]),
        tool_choice='"auto"',
        extra=compact(ASK["extra"]),
    )
    assert read(as_csv(folder / "t.csv", [ASK])) == [task]
    # Parquet has no structs without fields.
    told = ("extra", "tools", "response_format")
    structs = {name: [cell] for name, cell in ASK.items() if name not in told}
    texts = {name: [json.dumps(ASK[name])] for name in told}
    pq.write_table(pa.table({**structs, **texts}), folder / "t.parquet")
    assert read(folder / "t.parquet") == [task]


def test_what_the_job_asks_for_is_what_its_rows_would_have(folder: Path) -> None:
    row = {name: cell for name, cell in ASK.items() if name not in {"prompt", "references", "image_size"}}
    (task,) = read(as_jsonl(folder / "t.jsonl", [{"prompt": "x", **row}]))
    path = as_jsonl(folder / "plain.jsonl", [{"prompt": "x"}])
    assert read(path, params=task.params, expect=Expect.IMAGE) == [task]


def test_a_cell_goes_before_the_job_and_a_blank_one_does_not(folder: Path) -> None:
    usual = Params(seed=1, stop=("a",), extra='{"a":1}', aspect_ratio="1:1", image_size="1K", tools=None)
    rows = [
        {"prompt": "x", "seed": "2", "stop": "b", "extra": '{"b":2}', "image_size": "4K"},
        {"prompt": "y"},
    ]
    first, second = read(as_csv(folder / "t.csv", rows), params=usual)
    assert first.params == Params(seed=2, stop=("b",), extra='{"b":2}', aspect_ratio="1:1", image_size="4K")
    assert second.params == usual


@pytest.mark.parametrize(
    ("row", "job", "expected"),
    [
        ({}, None, Expect.IMAGE),
        ({}, Expect.TEXT, Expect.TEXT),
        ({"expect": " Text "}, None, Expect.TEXT),
        ({"expect": "image"}, Expect.TEXT, Expect.IMAGE),
        ({"response_format": {"type": "json_object"}}, None, Expect.TEXT),
        ({"response_format": {"type": "text"}}, None, Expect.IMAGE),
        ({"response_format": {"type": "json_object"}}, Expect.IMAGE, Expect.IMAGE),
        ({"response_format": {"type": "json_object"}, "expect": "image"}, None, Expect.IMAGE),
        ({"tools": ASK["tools"]}, None, Expect.TEXT),
        ({"tools": []}, None, Expect.IMAGE),
    ],
)
def test_words_complete_a_row_where_it_says_so_or_asks_for_json_or_tools(
    folder: Path, row: dict[str, Any], job: Expect | None, expected: Expect
) -> None:
    (task,) = read(as_jsonl(folder / "t.jsonl", [{"prompt": "x", **row}]), expect=job)
    assert task.expect is expected


def test_words_are_enough_only_for_the_rows_that_ask_for_them(folder: Path) -> None:
    rows = [{"prompt": "x", "tools": ASK["tools"]}, {"prompt": "y"}, {"prompt": "z", "expect": "text"}]
    assert [task.expect for task in read(as_csv(folder / "t.csv", rows))] == ["text", "image", "text"]


def test_a_row_has_a_prompt_or_messages_and_the_prompt_of_messages_is_what_the_user_says_last(
    folder: Path,
) -> None:
    rows: list[dict[str, Any]] = [{"prompt": "x", "messages": None}, {"prompt": None, "messages": TALK}]
    pq.write_table(
        pa.table({"prompt": ["x", None], "messages": [None, json.dumps(TALK)]}), folder / "t.parquet"
    )
    both = read(as_jsonl(folder / "t.jsonl", rows), system="usual")
    assert read(folder / "t.parquet", system="usual") == both
    assert [task.prompt for task in both] == ["x", "paint it"]
    assert [task.system for task in both] == ["usual", None], "messages with a system prompt have their own"
    assert both[1].messages == compact(TALK)
    without = read(as_jsonl(folder / "t.jsonl", [{"messages": TALK[1:]}]), system="usual")
    assert without[0].system == "usual"


def test_structs_are_messages_without_the_fields_they_leave_empty(folder: Path) -> None:
    said = [{"role": "user", "content": "a", "name": None}, {"role": "user", "content": "b", "name": "me"}]
    pq.write_table(pa.table({"messages": [said]}), folder / "t.parquet")
    (task,) = read(folder / "t.parquet")
    assert json.loads(task.messages or "") == [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b", "name": "me"},
    ]


def test_messages_need_no_template_and_other_rows_still_do(folder: Path) -> None:
    rows: list[dict[str, Any]] = [{"thing": "a cup"}, {"messages": TALK}, {"messages": "", "thing": ""}]
    ((row, column, message),) = problems(as_csv(folder / "t.csv", rows), template="A {thing}")
    assert (row, column) == (3, "thing")
    assert "template needs it" in message
    tasks = read(as_csv(folder / "t.csv", rows[:2]), template="A {thing}")
    assert [task.prompt for task in tasks] == ["A a cup", "paint it"]


# What makes another purchase of a row


def test_the_keys_of_rows_that_ask_for_more_are_a_contract_with_ledgers_on_disk(folder: Path) -> None:
    plain = {
        "prompt": "a cat",
        "seed": "",
        "references": " ; ",
        "messages": "",
        "extra": "",
        "expect": "image",
    }
    tasks = read(as_csv(folder / "t.csv", [plain, {**ASK, "expect": "text"}, {"messages": TALK}]), model="m")
    assert [task.key for task in tasks] == [
        "0a8dd278b49f1ed23406e80e31bdafb1-1-1",
        "b6126a08381eb837964fc7e9df06736e-1-1",
        "85426354c835b9217cf119458a3c6988-1-1",
    ]
    said = f"model=m\0prompt=paint it\0messages={compact(TALK, ordered=True)}"
    assert tasks[2].key.startswith(blake2b(said.encode(), digest_size=16).hexdigest())


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "references": st.lists(st.sampled_from(["a.jpg", "b.png"]), max_size=3),
        "aspect_ratio": st.sampled_from(["1:1", "16:9"]),
        "image_size": st.sampled_from(["1K", "512"]),
        "seed": st.integers(0, 2**31 - 1),
        "stop": st.lists(
            st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1), max_size=2
        ),
        "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object", "a": 1}]),
        "tools": st.sampled_from([[], ASK["tools"]]),
        "tool_choice": st.sampled_from(["auto", "none"]),
        "extra": st.dictionaries(st.sampled_from(["b", "a", "é"]), st.integers() | st.none(), max_size=3),
        "expect": st.sampled_from(["image", "text"]),
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(rows=st.lists(FIELDS, min_size=1, max_size=3), usual=st.sampled_from([None, 3]))
def test_the_hashed_bytes_are_those_of_the_contract(
    folder: Path, rows: list[dict[str, Any]], usual: int | None
) -> None:
    path = as_jsonl(folder / "t.jsonl", [{"prompt": f"p{n}", **row} for n, row in enumerate(rows)])
    for task in read(path, params=Params(seed=usual)):
        params = task.params
        sent = {
            "model": task.model,
            "prompt": task.prompt,
            "references": ",".join(one.sha256 for one in task.references) or None,
            "aspect_ratio": params.aspect_ratio,
            "image_size": params.image_size,
            "seed": params.seed,
            "stop": compact(params.stop) if params.stop else None,
            **{
                name: text and compact(json.loads(text), ordered=True)
                for name in ("response_format", "tools", "tool_choice", "extra")
                for text in [getattr(params, name)]
            },
            "expect": "text" if task.expect is Expect.TEXT else None,
        }
        told = "\0".join(f"{name}={value}" for name, value in sent.items() if value is not None)
        assert task.key.partition("-")[0] == blake2b(told.encode(), digest_size=16).hexdigest()


def test_how_json_is_written_down_changes_no_key_and_its_order_is_kept(folder: Path) -> None:
    rows = [
        {"prompt": "x", "extra": '{"b": 1,\n "a": {"d": 2, "c": 3}}'},
        {"prompt": "x", "extra": '{"a":{"c":3,"d":2},"b":1}'},
        {"prompt": "x", "extra": '{"a":{"c":3,"d":2},"b":2}'},
    ]
    tasks = read(as_csv(folder / "t.csv", rows))
    contents = [task.key.partition("-")[0] for task in tasks]
    assert contents[0] == contents[1] != contents[2]
    assert [task.params.extra for task in tasks[:2]] == [
        '{"b":1,"a":{"d":2,"c":3}}',
        '{"a":{"c":3,"d":2},"b":1}',
    ]


def test_a_picture_with_another_content_makes_another_purchase_and_one_with_another_name_does_not(
    folder: Path,
) -> None:
    (folder / "c.jpg").write_bytes((folder / "a.jpg").read_bytes())
    rows = [
        {"prompt": "x", "references": name}
        for name in ("a.jpg", "./c.jpg", "b.png", "a.jpg;b.png", "b.png;a.jpg")
    ]
    contents = [task.key.partition("-")[0] for task in read(as_csv(folder / "t.csv", rows))]
    assert contents[0] == contents[1]
    assert len({*contents}) == 4
    (folder / "a.jpg").write_bytes(JPEG + b"repainted")
    after = [task.key.partition("-")[0] for task in read(folder / "t.csv")]
    assert [one == other for one, other in zip(contents, after, strict=True)] == [
        False,
        True,
        True,
        False,
        False,
    ]


# Pictures that go along


def test_references_are_found_beside_the_manifest_wherever_one_stands(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "c.png").write_bytes(PNG)
    (folder / "link.png").symlink_to("deep/c.png")
    names = ["deep/../a.jpg", str(folder / "a.jpg"), "link.png", "deep/c.png"]
    path = as_jsonl(folder / "t.jsonl", [{"prompt": "x", "references": names}])
    monkeypatch.chdir(folder.parent)
    (task,) = read(Path(folder.name) / path.name, folder=Path(folder.name))
    sources = [one.source for one in task.references]
    assert sources == [str(folder / name) for name in ("a.jpg", "a.jpg", "deep/c.png", "deep/c.png")]


@pytest.mark.parametrize(
    "name", ["../secret.png", "link.png", "inside/secret.png", "/dev/shm/../../etc/passwd"]
)
def test_a_reference_outside_the_manifest_s_folder_goes_along_only_where_that_is_allowed(
    folder: Path, name: str
) -> None:
    secret = folder.parent / "secret.png"
    secret.write_bytes(PNG)
    (folder / "link.png").symlink_to(secret)
    (folder / "inside").symlink_to(folder.parent, target_is_directory=True)
    row = {"prompt": "x", "references": [name]}
    assert complaint(folder / "t.jsonl", row).endswith(
        "it lies outside the manifest's folder; --allow-outside lets it go along"
    )
    if "secret" in name or "link" in name:
        (_, task) = read(folder / "t.jsonl", allow_outside=True)
        assert task.references[0].source == str(secret)
    else:
        assert "it is no PNG" in complaint(folder / "t.jsonl", row, allow_outside=True)


def test_what_is_no_picture_is_told_and_nothing_that_never_ends_is_opened(folder: Path) -> None:
    (folder / "empty.png").touch()
    (folder / "words.png").write_text("not a picture")
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to("loop")
    (folder / "zero").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    with (folder / "huge.png").open("wb") as huge:
        huge.write(PNG)
        huge.truncate(65 << 20)
    expected = {
        "gone.png": "no such file",
        "empty.png": "it is empty",
        "words.png": "it is no PNG, JPEG",
        "folder": "it is a folder",
        "loop": "levels of symbolic links",
        "zero": "it is no file",
        "pipe.png": "it is no file",
        "huge.png": "larger than 64 MB",
        "x" * 300: "name too long",
        "ftp://host/a.png": "expected a path or an https URL",
        "http://host/a.png": "expected a path or an https URL",
        "file:///etc/passwd": "expected a path or an https URL",
        "data:image/png;base64,AAAA": "expected a path or an https URL",
        "https://host/a.png": "not known to fetch",
        "a\0b": "nul character",
    }
    rows = [{"prompt": "x", "references": ["b.png", name]} for name in expected]
    found = problems(as_jsonl(folder / "t.jsonl", rows), allow_outside=True)
    assert [(row, column) for row, column, _ in found] == [(n, "references") for n in range(1, len(rows) + 1)]
    for (_, _, message), (name, why) in zip(found, expected.items(), strict=True):
        assert why in message
        assert name[:30] in message.replace("\\x00", "\0")


def test_urls_go_along_as_they_are_where_the_provider_fetches_them(folder: Path) -> None:
    urls = Provider(name="p", title="P", base_url="", reference_urls=True)
    url = "https://host/a;b.png?x=1"
    (task,) = read(as_jsonl(folder / "t.jsonl", [{"prompt": "x", "references": [url]}]), provider=urls)
    assert task.references == (Reference(source=url, sha256=sha256(url.encode()).hexdigest()),)
    for bad in ("https://", "https://user:secret@host/a.png", "https://host/a b", "https://[host/"):
        message = complaint(folder / "t.jsonl", {"prompt": "x", "references": [bad]}, provider=urls)
        assert "expected a path or an https URL" in message


def test_each_picture_is_looked_at_once_however_many_rows_bring_it_along(folder: Path) -> None:
    looked: list[str] = []

    def noted(path: Path) -> bytes:
        looked.append(path.name)
        return path.read_bytes()

    for number in range(20):
        (folder / f"{number}.png").write_bytes(PNG + bytes([number]))
    text = "".join(f"p{n},{n % 20}.png; {(n + 1) % 20}.png\n" for n in range(30_000))
    (folder / "t.csv").write_text("prompt,references\n" + text)
    (folder / "plain.csv").write_text("prompt\n" + "".join(f"p{n}\n" for n in range(30_000)))
    references = References(read=noted)
    reading = Reading(model="m", folder=folder)
    for name in ("t", "plain"):
        manifest.read(str(folder / f"{name}.csv"), reading, snapshot=folder / name, look=references.look)
    assert sorted(looked) == sorted(f"{number}.png" for number in range(20))
    more = (folder / "t").stat().st_size - (folder / "plain").stat().st_size
    assert more < 3 * 30_000, "bytes of the snapshot"


# What a model or an endpoint takes


def test_shapes_are_those_of_the_row_s_own_model(folder: Path) -> None:
    rows = [
        {"prompt": "a", "image_size": "512", "aspect_ratio": "1:8"},
        {"prompt": "b", "image_size": "512", "model": PRO},
        {"prompt": "c", "aspect_ratio": "1:8", "model": PRO},
        {"prompt": "d", "image_size": "2K", "model": OLD},
        {"prompt": "e", "image_size": "nonsense", "aspect_ratio": "7:1", "model": "one/unknown"},
    ]
    path = as_csv(folder / "t.csv", rows)
    found = problems(path, provider=providers.find("openrouter"))
    assert [(row, column) for row, column, _ in found] == [
        (2, "image_size"),
        (3, "aspect_ratio"),
        (4, "image_size"),
    ]
    assert found[0][2] == f"{PRO} takes 1K, 2K, 4K, got '512'"
    assert "one size only" in found[2][2]


def test_what_the_job_asks_for_must_fit_the_model_of_each_row(folder: Path) -> None:
    path = as_csv(folder / "t.csv", [{"prompt": "a"}, {"prompt": "b", "model": PRO}])
    ((row, column, message),) = problems(
        path, provider=providers.find("openrouter"), params=Params(image_size="512")
    )
    assert (row, column) == (2, "model")
    assert PRO in message


def test_no_more_pictures_go_along_than_the_model_takes_those_in_messages_included(folder: Path) -> None:
    openrouter = providers.find("openrouter")
    shown = {"type": "image_url", "image_url": {"url": "https://host/a.png"}}
    said = [{"role": "user", "content": [shown, {"type": "text", "text": "x"}]}]
    rows: list[dict[str, Any]] = [
        {"prompt": "x", "references": ["a.jpg"] * 3, "model": OLD},
        {"prompt": "x", "references": ["a.jpg"] * 4},
        {"prompt": "x", "references": ["a.jpg"] * 15},
        {"messages": said, "references": ["a.jpg"] * 2, "model": OLD},
        {"messages": said, "references": ["a.jpg"] * 3, "model": OLD},
    ]
    found = problems(as_jsonl(folder / "t.jsonl", rows), provider=openrouter)
    assert [(row, column) for row, column, _ in found] == [(3, "references"), (5, "references")]
    assert "more than the 14 pictures" in found[0][2]
    assert "more than the 3 pictures" in found[1][2]


def test_a_picture_and_a_request_have_no_more_bytes_than_the_endpoint_takes(folder: Path) -> None:
    # 3,000 bytes are 4,000 in base64, and the prompt has 9.
    (folder / "big.png").write_bytes(PNG + bytes(2992))
    row = {"prompt": "x" * 9, "references": ["big.png", "big.png"]}
    path = as_jsonl(folder / "t.jsonl", [row])

    def limited(picture: int | None = None, request: int | None = None) -> Provider:
        return Provider(
            name="p", title="Painter", base_url="", max_reference_bytes=picture, max_request_bytes=request
        )

    assert len(read(path, provider=limited(3000, 8009))) == 1
    message = complaint(path, row, provider=limited(2999))
    assert "'big.png': 3,000 bytes, and Painter takes 2,999 a picture" in message
    message = complaint(path, row, provider=limited(None, 8008))
    assert "a request of 8,009 bytes" in message
    assert "Painter takes 8,008" in message
    url = "data:image/png;base64," + "A" * 4000
    said = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    message = complaint(path, {"messages": said}, provider=limited(2999))
    assert "more than the 2,999 bytes" in message
    message = complaint(path, {"messages": said}, provider=limited(None, 4000))
    assert "Painter takes 4,000" in message


def test_the_picture_of_the_row_that_is_continued_goes_along_and_counts(folder: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "a", "prompt": "x"},
        {"id": "b", "prompt": "x", "parent": "a", "references": ["a.jpg"] * 2, "model": OLD},
        {"id": "c", "prompt": "x", "parent": "a", "references": ["a.jpg"] * 3, "model": OLD},
    ]
    found = problems(as_jsonl(folder / "t.jsonl", rows), provider=providers.find("openrouter"))
    assert [(row, column) for row, column, _ in found] == [(3, "references")]
    told = problems(as_jsonl(folder / "t.jsonl", rows[:2]), cannot={"parent": "no history"})
    assert told == [(2, "parent", "no history")]


def test_what_the_wire_format_has_no_place_for_is_told_at_the_first_row_that_has_it(folder: Path) -> None:
    cannot = {"system": "no systems", "seed": "no seeds", "expect": "no words", "aspect_ratio": "no shapes"}
    rows: list[dict[str, Any]] = [
        {"prompt": "a"},
        {"prompt": "b", "system": "s"},
        {"prompt": "c", "system": "s"},
    ]
    rows += [
        {"prompt": "d", "seed": "1"},
        {"prompt": "e", "expect": "image"},
        {"prompt": "f", "expect": "text"},
    ]
    assert problems(as_csv(folder / "t.csv", rows), cannot=cannot) == [
        (2, "system", "no systems"),
        (4, "seed", "no seeds"),
        (6, "expect", "no words"),
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--image-size", "9K"],
            "--image-size: gemini-3.1-flash-image-preview takes 512, 1K, 2K, 4K, got '9K'",
        ),
        (["--aspect-ratio", "16x9"], "--aspect-ratio: gemini-3.1-flash-image-preview takes 1:1"),
        (
            ["--base-url", "http://127.0.0.1:9/v1", "--image-size", "1K"],
            "--image-size: this endpoint is not known",
        ),
        (["--seed", "-1"], "--seed: expected a whole number of at least 0"),
        (["--extra", "{"], "this is not JSON"),
        (["--extra", "[]"], "--extra: expected a table"),
        (["--extra", '{"a": 1, "a": 2}'], "the key 'a' is there twice"),
        (["--extra", '{"a": NaN}'], "'--extra': this is not JSON"),
        (["--extra", '{"n": 4}'], "--extra: `n` cannot be laid over a request"),
        (["--extra", '{"a": "\\u0000"}'], "--extra: a nul character"),
        (["--tools", '[{"type": "function"}]'], "--tools: a function has a `name`"),
        (["--tool-choice", "always"], "--tool-choice: expected none, auto, required"),
        (
            ["--response-format", '{"type": "xml"}'],
            "--response-format: `type` is text, json_object or json_schema",
        ),
        (["--expect", "sound"], "'sound' is not one of"),
    ],
)
def test_what_a_job_cannot_ask_for_is_told_with_its_flag(
    folder: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    path = as_csv(folder / "t.csv", [{"prompt": "x"}])
    assert cli(["run", str(path), "-n", *flags]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert "Traceback" not in err
    assert out == ""


def test_a_job_asks_for_a_shape_where_it_says_how_the_endpoint_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = as_csv(folder / "t.csv", [{"prompt": "x"}])
    flags = ["--base-url", "http://127.0.0.1:9/v1", "--image-size", "1K", "--image-options", "flat"]
    assert cli(["run", str(path), "-n", *flags]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], ""),
        (["--expect", "image"], ""),
        (["--seed", "0"], "--seed: "),
        (["--system", "be brief"], "--system: "),
        (["--stop", "END"], "--stop: "),
        (["--expect", "text"], "--expect: "),
        (["--stream"], "--stream: "),
    ],
)
def test_a_job_is_refused_only_for_what_it_asks_for_and_the_wire_format_has_no_place_for(
    folder: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    path = as_csv(folder / "t.csv", [{"prompt": "x"}])
    endpoint = ["--base-url", "http://127.0.0.1:9/v1", "--dialect", "images"]
    assert cli(["run", str(path), "-n", *endpoint, *flags]) == (2 if message else 0)
    assert message in capsys.readouterr().err


def test_a_manifest_on_standard_input_finds_its_pictures_in_the_current_folder(folder: Path) -> None:
    (folder.parent / "outside.png").write_bytes(PNG)
    command = [sys.executable, "-m", "batchgen", "run", "-", "-n", "--provider", "simulator"]
    found = [
        subprocess.run(
            [*command, *flags],
            cwd=folder,
            input="prompt,references\nx,a.jpg;../outside.png\n",
            capture_output=True,
            text=True,
            check=False,
        )
        for flags in ([], ["--allow-outside"])
    ]
    assert "row 1, column 'references': '../outside.png': it lies outside" in found[0].stderr
    assert [one.returncode for one in found] == [2, 0]


def test_texts_of_the_environment_that_end_an_answer_are_told_apart_by_lines(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = as_csv(folder / "t.csv", [{"prompt": "x"}])
    monkeypatch.setenv("BATCHGEN_STOP", "the end\nfin")
    monkeypatch.setenv("BATCHGEN_EXTRA", '{"a": 1}')
    (folder / "job.toml").write_text(
        f'manifest = "{path.name}"\nprovider = "simulator"\n[simulator]\nlatency = 0.0\npaint = false\n'
    )
    assert cli(["run", str(folder / "job.toml"), "-o", str(folder / "run")]) == 0
    capsys.readouterr()
    (batch,) = Manifest(folder / "run" / "manifest.parquet").batches()
    assert batch.task(0).params == Params(stop=("the end", "fin"), extra='{"a":1}')


def test_a_job_file_asks_in_tables_and_a_flag_goes_before_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    as_csv(folder / "t.csv", [{"prompt": "x", "references": "a.jpg"}])
    (folder / "job.toml").write_text(
        'manifest = "t.csv"\nprovider = "simulator"\nseed = 5\nimage_size = "2k"\nstop = ["a"]\n'
        '[extra]\nb = 1\n[response_format]\ntype = "json_object"\n[[tools]]\ntype = "function"\n'
        'function = { name = "f" }\n[simulator]\nlatency = 0.0\npaint = false\n'
    )
    run = folder / "run"
    flags = ["--seed", "6", "--stop", "b", "--stop", "c", "--extra", '{"a": 2}', "--limit", "1"]
    cli(["run", str(folder / "job.toml"), "-o", str(run), *flags])
    capsys.readouterr()
    (batch,) = Manifest(run / "manifest.parquet").batches()
    task = batch.task(0)
    assert task.expect is Expect.TEXT
    assert [Path(one.source).name for one in task.references] == ["a.jpg"]
    assert task.params == Params(
        seed=6,
        stop=("b", "c"),
        image_size="2K",
        response_format='{"type":"json_object"}',
        tools='[{"type":"function","function":{"name":"f"}}]',
        extra='{"a":2}',
    )
    (folder / "dated.toml").write_text('manifest = "t.csv"\n[extra]\nday = 2026-11-21\n')
    assert cli(["run", "-n", str(folder / "dated.toml")]) == 2
    assert "--extra: JSON has texts" in capsys.readouterr().err


# What cannot be sent


USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ("hello", "this is not JSON"),
        ({}, "expected a list of messages"),
        ([], "expected a list of messages"),
        ([1], "message 1: expected a table, got a number"),
        ([USER, {"content": "x"}], "message 2: `role` is missing"),
        ([{"role": "User", "content": "x"}], "message 1, role: invalid value 'User'; known are system"),
        ([{"role": "user"}], "message 1: `content` is missing"),
        ([{"role": "user", "content": ""}], "message 1: its content is empty"),
        ([{"role": "user", "content": []}], "message 1: its content is empty"),
        ([{"role": "user", "content": 3}], "message 1, content: expected a text or a list, got a number"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "invalid value 'input_audio'"),
        (
            [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            "message 1, content",
        ),
        ([USER, {"role": "assistant", "content": "y"}], "the last message is of the assistant"),
        ([{"role": "system", "content": "y"}], "the last message is of the system"),
        ([USER, {"role": "assistant", "content": None}, USER], "message 2: its content is empty"),
        ([USER, {"role": "tool", "content": "4", "tool_call_id": "c"}], "names no call of a message before"),
        ([USER, {"role": "tool", "content": "4"}], "message 2: `tool_call_id` is missing"),
        ('[{"role":"user","content":"a","content":"b"}]', "the key 'content' is there twice"),
        ('[{"role":"user","content":"a\\u0000b"}]', "a nul character"),
        ('[{"role":"user","content":"a\\ud800"}]', "half of a surrogate pair"),
        ("[" * 100_000, "nested too deep"),
        ('[{"role":"user","content":"a","x":' + "[" * 70 + "]" * 70 + "}]", "nested too deep"),
    ],
)
def test_a_conversation_that_cannot_go_on_is_told(folder: Path, messages: object, why: str) -> None:
    assert why in complaint(folder / "t.jsonl", {"messages": messages})


def shown(url: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://host/a.png", "not known to fetch"),
        ("http://host/a.png", "starts with https://"),
        ("a.png", "starts with https://"),
        ("data:text/plain;base64,AAAA", "starts with https://"),
        ("data:image/png;base64,A*AA", "base64 of a data URL is damaged"),
        ("data:image/png,AAAA", "starts with https://"),
    ],
)
def test_a_picture_in_messages_is_a_data_url_or_one_that_is_fetched(folder: Path, url: str, why: str) -> None:
    assert why in complaint(folder / "t.jsonl", {"messages": shown(url)})
    (task,) = read(as_jsonl(folder / "t.jsonl", [{"messages": shown("data:image/png;base64,AAAA")}]))
    assert task.prompt == ""


def test_messages_and_the_other_columns_do_not_contradict_each_other(folder: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    called = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "4", "tool_call_id": "c"},
    ]
    rows: list[dict[str, Any]] = [
        {"prompt": "x", "messages": TALK},
        {"prompt": " "},
        {"messages": TALK, "system": "s"},
        {"messages": called, "references": "a.jpg"},
        {"messages": called},
    ]
    found = problems(as_csv(folder / "t.csv", rows))
    assert [(row, column, message[:28]) for row, column, message in found] == [
        (1, "prompt", "both a prompt and messages; "),
        (2, "prompt", "neither a prompt nor message"),
        (3, "system", "the messages bring a system "),
        (4, "references", "pictures go along with what "),
    ]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"seed": 2**31}, "expected a whole number from 0"),
        ({"seed": "1.5"}, "expected a whole number from 0"),
        ({"stop": "[END]"}, 'in a list each text is in quotes: ["END"]'),
        ({"stop": [1]}, "expected a text or a list of texts"),
        ({"stop": ["a", ""]}, "expected a text or a list of texts"),
        ({"response_format": "json"}, 'such as {"type": "json_object"}'),
        ({"response_format": {"type": "json_schema"}}, "a JSON schema is needed"),
        ({"response_format": {"type": ["text"]}}, "`type` is text"),
        ({"tools": {"a": 1}}, "expected a list of tools"),
        ({"tools": [{"type": 1}]}, "expected a list of tools"),
        ({"tools": [{"type": "function", "function": {"name": " "}}]}, "a function has a `name`"),
        ({"tool_choice": "sometimes"}, "expected none, auto, required"),
        ({"tool_choice": {"function": {}}}, "expected none, auto, required"),
        ({"extra": "a=1"}, "expected a JSON object"),
        ({"extra": [1]}, "expected a JSON object"),
        ({"extra": {"stream": True}}, "--stream says it"),
        ({"extra": {"generationConfig": {"candidateCount": 2}}}, "`generationConfig.candidateCount`"),
        ({"extra": {"a": "\0"}}, "a nul character"),
        ({"extra": {"\0": 1}}, "a nul character"),
        ({"extra": '{"a": 1e999}'}, "this is not JSON"),
        ({"extra": '{"a": NaN}'}, "this is not JSON"),
        ({"extra": '{"a": {"b": 1, "b": 1}}'}, "the key 'b' is there twice"),
        ({"expect": "video"}, "expected image or text"),
        ({"aspect_ratio": ["16:9"]}, "expected a text such as 16:9"),
        ({"references": [1]}, "expected a list of paths"),
        ({"references": {"a": 1}}, "expected a list of paths"),
    ],
)
def test_a_cell_that_cannot_be_sent_is_told(folder: Path, row: dict[str, Any], why: str) -> None:
    assert why in complaint(folder / "t.jsonl", {"prompt": "x", **row})


def test_an_escaped_backslash_before_u0000_is_no_nul_character(folder: Path) -> None:
    text = '{"a":"\\\\u0000"}'
    (task,) = read(as_csv(folder / "t.csv", [{"prompt": "x", "extra": text}]))
    assert json.loads(task.params.extra or "") == {"a": "\\u0000"}


def test_columns_of_a_type_that_no_cell_can_use_are_told(folder: Path) -> None:
    table = pa.table(
        {
            "prompt": ["x"],
            "references": [1],
            "extra": pa.array([{"a": b"x"}], pa.struct([("a", pa.binary())])),
            "seed": [["1"]],
            "image_size": [1.5],
        }
    )
    pq.write_table(table, folder / "t.parquet")
    found = problems(folder / "t.parquet")
    assert [column for _, column, _ in found] == ["references", "image_size", "seed", "extra"]
    assert all(message.startswith("expected ") for _, _, message in found)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url"]) | ANYTHING},
    optional={"text": st.text(max_size=5) | ANYTHING, "image_url": st.just({"url": "https://h/"}) | ANYTHING},
)
CALLS = st.fixed_dictionaries(
    {"id": st.sampled_from("ab"), "type": st.just("function")},
    optional={"function": st.just({"name": "f", "arguments": "{}"}) | ANYTHING},
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(conversations.ROLES) | ANYTHING},
        optional={
            "content": st.text(max_size=5) | st.lists(PARTS, max_size=2) | ANYTHING,
            "tool_call_id": st.sampled_from("ab") | ANYTHING,
            "tool_calls": st.lists(CALLS, max_size=2) | ANYTHING,
        },
    ),
    max_size=4,
)


@settings(deadline=None, max_examples=200)
@given(value=MESSAGES | ANYTHING | st.text())
def test_messages_can_be_sent_or_are_told_whatever_they_are(value: object) -> None:
    try:
        said = conversations.conversation(value, urls=True)
    except InputError:
        return
    messages = json.loads(said.messages.sent)
    assert messages == (json.loads(value) if isinstance(value, str) else value)
    task = Task(
        key="k", id="i", variant=1, name="n", model="m", prompt=said.prompt, messages=said.messages.sent
    )
    attached = [Attached(mime="image/png", base64=b"AAAA")] if said.open else []
    for name, dialect in DIALECTS.items():
        if "messages" not in dialect.cannot(ImageOptions.NONE):
            body = dialect.request(task, attached, options=ImageOptions.NONE, stream=False).body
            assert msgspec.json.decode(b"".join(body)), name


@settings(deadline=None, max_examples=200)
@given(
    ours=st.sampled_from(list(structure.PARSERS)),
    value=ANYTHING | st.text() | ANYTHING.map(json.dumps) | st.lists(CALLS, max_size=2),
)
def test_what_has_structure_can_be_sent_or_is_told_whatever_it_is(ours: str, value: object) -> None:
    try:
        meant = structure.PARSERS[ours](value)
        text = None if meant is None else structure.written(meant)
    except InputError:
        return
    if text is not None:
        assert json.loads(text.sent) == json.loads(text.hashed) == meant
        assert "\0" not in text.sent
        assert structure.PARSERS[ours](json.loads(text.sent)) == meant


# Whole runs


class Bodies(Endpoint):
    """Keeps what it was sent."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float]) -> None:
        super().__init__(settings, clock=clock)
        self.bodies: list[dict[str, Any]] = []

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        if method == "POST":
            self.bodies.append(json.loads(body))
        return super().answer(method, path, headers, body)


@pytest.mark.virtual_time
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_run_sends_a_row_s_pictures_before_its_words_and_a_rerun_nothing(
    memory: Path, backend: str
) -> None:
    for name, start in (("a.jpg", JPEG), ("b.png", PNG)):
        (memory / name).write_bytes(start + name.encode())
    nights = Nights(memory, backend=backend, endpoint=Bodies)
    nights.write("id,prompt,references,image_size\none,paint it,b.png;a.jpg,2k\ntwo,plain,,\n")
    assert nights.run().bought == 2
    assert isinstance(nights.endpoint, Bodies)
    with_pictures = next(
        body for body in nights.endpoint.bodies if isinstance(body["messages"][-1]["content"], list)
    )
    parts = with_pictures["messages"][-1]["content"]
    urls = [part["image_url"]["url"] for part in parts[:2]]
    assert [url.partition(",")[0] for url in urls] == ["data:image/png;base64", "data:image/jpeg;base64"]
    assert [base64.b64decode(url.partition(",")[2])[-5:] for url in urls] == [b"b.png", b"a.jpg"]
    assert parts[2:] == [{"type": "text", "text": "paint it"}]
    assert with_pictures["extra_body"] == {"google": {"image_config": {"image_size": "2K"}}}
    assert nights.run().requests == 0
    (memory / "a.jpg").write_bytes(JPEG + b"repainted")
    assert nights.run().requests == 1, "another picture is another purchase"


OPENED: list[str] = []
"""Files that were opened while somebody listens; an audit hook cannot be taken back."""
LISTENING: list[Path] = []


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and LISTENING and str(arguments[0]).startswith(str(LISTENING[0])):
        OPENED.append(Path(arguments[0]).name)


@pytest.mark.virtual_time
def test_five_hundred_rows_that_share_twenty_pictures_open_each_once(memory: Path) -> None:
    shared = memory / "shared"
    shared.mkdir()
    for number in range(20):
        (shared / f"{number}.png").write_bytes(PNG + bytes([number]))
    nights = Nights(memory)
    text = "".join(f"p{n},shared/{n % 20}.png;shared/{(n + 7) % 20}.png\n" for n in range(500))
    nights.write("prompt,references\n" + text)
    OPENED.clear()
    sys.addaudithook(_listen)
    LISTENING.append(shared)
    try:
        assert nights.run(concurrency=64).bought == 500
    finally:
        LISTENING.clear()
    assert sorted(OPENED) == sorted(f"{number}.png" for number in range(20))
