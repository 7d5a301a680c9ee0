"""A URL names one place in one bucket, and one directory of this machine stands for it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen import job as jobs
from batchgen.address import Address, is_url, parsed
from batchgen.errors import InputError
from batchgen.job import Job

if TYPE_CHECKING:
    from pathlib import Path

PARTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)


@settings(max_examples=25)
@given(
    st.sampled_from(["s3", "gs", "az", "S3"]),
    st.from_regex(r"[a-z0-9][a-z0-9.-]{1,30}[a-z0-9]", fullmatch=True),
    st.lists(PARTS, max_size=5),
)
def test_what_is_taken_apart_is_the_same_put_together_and_stays_below_runs(
    scheme: str, bucket: str, parts: list[str]
) -> None:
    url = "/".join([f"{scheme}://{bucket}", *parts])
    try:
        address = parsed(url)
    except InputError:
        return
    assert str(address) == f"{scheme.lower()}{url[len(scheme) :].rstrip('/')}"
    assert parsed(str(address)) == address
    assert address.local.parts[:3] == ("runs", scheme.lower(), bucket)
    assert ".." not in address.local.parts
    assert len(f"{address.prefix}/images/{'x' * 400}.jpeg".encode()) <= 1024, "a key of S3"


@given(st.text())
def test_anything_else_is_a_folder_or_refused(text: str) -> None:
    if is_url(text):
        with suppress(InputError):
            parsed(text)
    else:
        assert jobs.address(Job(manifest="x.csv", output=text or "x")) is None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://bucket/x", "a bucket is s3://"),
        ("s3:/bucket/x", "a bucket is s3://"),
        ("s3://", "no name of a bucket"),
        ("s3:///x", "no name of a bucket"),
        ("s3://b/x", "no name of a bucket"),
        ("s3://AKIA:verysecret@bucket/x", "keys come from the environment"),
        ("s3://localhost:9000/bucket/x", "AWS_ENDPOINT_URL"),
        ("s3://bucket/a//b", "between two slashes"),
        ("s3://bucket/a/../b", "between two slashes"),
        ("s3://bucket/a?versionId=3", "'?'"),
        ("s3://bucket/a%2Fb", "'%'"),
        (f"s3://bucket/{'x/' * 300}", "more than 400 bytes"),
    ],
)
def test_what_names_no_place_is_told_without_a_key(url: str, why: str) -> None:
    with pytest.raises(InputError) as refused:
        parsed(url)
    assert why in str(refused.value)
    assert "verysecret" not in str(refused.value)


def test_a_job_file_may_name_a_bucket(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text('manifest = "x.csv"\noutput = "s3://bucket/a/b"\n')
    job = msgspec.convert(jobs.read(path), Job)
    assert jobs.address(job) == Address(scheme="s3", bucket="bucket", prefix="a/b")
    assert jobs.place(job) == "s3://bucket/a/b"
