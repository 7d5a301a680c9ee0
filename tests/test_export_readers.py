"""What readers of the world see in an export: `datasets` and `webdataset` as they are."""

from __future__ import annotations

import importlib
import json
import os
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
import webdataset

from batchgen import results
from batchgen.export import Kind
from batchgen.ledger import Reader
from batchgen.manifest import Manifest
from tests.exported import COLUMNS, HOSTILE_IDS, exported, hostile, plain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.nights import Nights

pytestmark = [
    pytest.mark.blocks,
    # Of `webdataset`, which leaves its tars to the collector.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    return hostile(tmp_path_factory.mktemp("hostile"))


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package, without a network and with a cache of its own."""
    cache = tmp_path / "cache"
    for name, value in {
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }.items():
        monkeypatch.setenv(name, value)
    package = importlib.import_module("datasets")
    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", str(cache))
    package.disable_progress_bars()
    yield package
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def wanted(nights: Nights) -> list[dict[str, Any]]:
    """What the run's own table says of the rows with a picture."""
    reader = Reader(nights.directory / "ledger.db")
    lines = results.lines(Manifest(nights.directory / "manifest.parquet"), reader)
    rows = [row for _, _, piece in lines for row in piece.to_pylist() if row["status"] == "succeeded"]
    reader.close()
    return [row for row in rows if row["images"]]


def test_datasets_sees_every_row_with_its_own_bytes(night: Nights, datasets: Any) -> None:
    rows = wanted(night)
    assert len({row["images"][-1]["mime"] for row in rows}) == 3
    out = night.directory / "export" / "hf"
    summary = exported(night, Kind.HF, shard_bytes=12_000)
    assert summary.files > 2
    for opened in (
        datasets.load_dataset(str(out), split="train"),
        datasets.load_dataset("parquet", data_files=f"{out}/data/*.parquet", split="train"),
    ):
        assert isinstance(opened.features["image"], datasets.Image)
        check(opened, rows, night, datasets)
        assert opened[0]["image"].size == (rows[0]["images"][-1]["width"], rows[0]["images"][-1]["height"])
    exported(night, Kind.IMAGEFOLDER)
    table = night.directory / "export/imagefolder/metadata.parquet"
    check(datasets.load_dataset("imagefolder", data_files=str(table), split="train"), rows, night, datasets)


def check(opened: Any, rows: list[dict[str, Any]], nights: Nights, datasets: Any) -> None:
    """Every row of an opened dataset is the run's."""
    found = opened.cast_column("image", datasets.Image(decode=False)).to_list()
    assert len(found) == len(rows)
    for row, told in zip(found, rows, strict=True):
        data = row["image"]["bytes"]
        if data is None:
            data = (nights.directory / "export/imagefolder" / row["image"]["path"]).read_bytes()
        assert sha256(data).hexdigest() == row["sha256"] == told["images"][-1]["sha256"]
        for name in (
            "id",
            "variant",
            "prompt",
            "cost_usd",
            "finished_at",
            "request_id",
            "price",
            "tags",
            "kind",
        ):
            assert row[name] == told[name], name
        assert row["manifest_image"] == told["image"]
        assert row["manifest_sha256"] == told["sha256"]
        assert row["exact"] == "2023-11-14 22:13:20.000000001"


def test_datasets_opens_a_plain_folder(tmp_path: Path, datasets: Any) -> None:
    nights = plain(tmp_path, 3)
    exported(nights, Kind.IMAGEFOLDER)
    opened = datasets.load_dataset("imagefolder", data_dir=str(nights.directory / "export/imagefolder"))
    assert opened["train"]["id"][:] == ["row-0", "row-1", "row-2"]


def test_webdataset_sees_every_row_with_its_own_bytes(night: Nights) -> None:
    rows = wanted(night)
    out = night.directory / "export/webdataset"
    summary = exported(night, Kind.WEBDATASET, shard_bytes=12_000)
    tars = sorted(map(str, out.glob("*.tar")))
    assert [path.rpartition("/")[2] for path in tars] == [f"{n:06}.tar" for n in range(summary.files)]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert len({sample["__key__"] for sample in samples}) == len(rows) == summary.rows
    for sample, told in zip(samples, rows, strict=True):
        row = json.loads(sample["json"])
        extension = told["file_name"].rpartition(".")[2]
        assert sha256(sample[extension]).hexdigest() == row["sha256"] == told["images"][-1]["sha256"]
        assert sample["txt"].decode() == row["prompt"] == told["prompt"]
        assert (row["id"], row["variant"], row["cost_usd"]) == (
            told["id"], told["variant"], f"{told['cost_usd']:f}",
        )  # fmt: skip
        assert set(COLUMNS) - {"file_name", "status", "sha256"} <= set(row)
    assert {json.loads(sample["json"])["id"] for sample in samples} <= set(HOSTILE_IDS)


def test_rows_without_a_picture_go_out_where_they_are_asked_for(night: Nights) -> None:
    assert {row["status"] for row in night.table()} > {"succeeded"}
    total = len(night.table())
    for kind in Kind:
        out = night.directory / "all" / kind
        assert exported(night, kind, out, statuses=("all",)).rows == total
    images = pq.read_table(night.directory / "all/hf/data")["image"].to_pylist()
    assert images.count(None) == total - len(wanted(night))
    names = pq.read_table(night.directory / "all/imagefolder/metadata.parquet")["file_name"].to_pylist()
    assert names.count(None) == images.count(None)
    samples = list(
        webdataset.WebDataset(str(night.directory / "all/webdataset/000000.tar"), shardshuffle=False)
    )
    bare = [sample for sample in samples if not {"jpg", "png", "webp"} & set(sample)]
    assert len(bare) == images.count(None)
    assert all(json.loads(sample["json"])["file_name"] is None for sample in bare)
