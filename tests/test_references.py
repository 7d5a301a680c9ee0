"""A picture that goes along is the one that was looked at, read no more often than memory makes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pybase64
import pytest

from batchgen import references
from batchgen.errors import InputError
from batchgen.records import Attached, Reference
from batchgen.references import References

if TYPE_CHECKING:
    from pathlib import Path

PNG = b"\x89PNG\r\n\x1a\n"
STARTS = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff",
    "image/webp": b"RIFF\0\0\0\0WEBP",
    "image/heic": b"\0\0\0\x18ftypheic",
    "image/heif": b"\0\0\0\x18ftypmif1",
}


class Reads:
    """Counts what is read."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, path: Path) -> bytes:
        self.names.append(path.name)
        return path.read_bytes()


def test_the_type_is_that_of_the_content_whatever_the_name_says(tmp_path: Path) -> None:
    for mime, start in STARTS.items():
        path = tmp_path / "a.txt"
        path.write_bytes(start)
        assert References().look(str(path)).mime == mime


def test_a_picture_travels_as_it_was_looked_at_and_a_url_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    reads = Reads()
    kept = References(read=reads)
    reference = kept.look(str(path))
    path.unlink()
    assert kept.look(str(path)) == reference
    assert kept.attach(reference) == Attached(mime="image/png", base64=pybase64.b64encode(PNG))
    assert reads.names == ["a.png"]
    assert kept.attach(Reference(source="https://h/a.png", sha256="0")) == Attached(url="https://h/a.png")


def test_the_pictures_used_longest_ago_make_way_and_are_read_again(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(PNG + name.encode())
    reads = Reads()
    kept = References(room=2 * len(pybase64.b64encode(PNG + b"a")), read=reads)
    first, second, third = (kept.look(str(tmp_path / name)) for name in "abc")
    for reference in (third, second, third, first, third):
        found = kept.attach(reference)
        assert pybase64.b64decode(found.base64).endswith(reference.source[-1].encode())
    assert "".join(reads.names) == "abca"


def test_a_picture_that_became_another_is_not_sent_for_the_one_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG + b"before")
    kept = References(room=0)
    before = kept.look(str(path))
    (tmp_path / "b.png").write_bytes(PNG)
    kept.look(str(tmp_path / "b.png"))
    path.write_bytes(PNG + b"after")
    with pytest.raises(InputError, match=r"a\.png is no longer the picture that was looked at; run again"):
        kept.attach(before)
    path.unlink()
    with pytest.raises(InputError, match=r"a\.png: no such file"):
        kept.attach(before)


def test_what_is_known_of_files_is_bounded_and_each_is_sent_with_its_own_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "KNOWN", 2)
    path = tmp_path / "a.png"
    path.write_bytes(PNG + b"before")
    reads = Reads()
    kept = References(read=reads)
    before = kept.look(str(path))
    for name in "bc":
        (tmp_path / name).write_bytes(PNG + name.encode())
        kept.look(str(tmp_path / name))
    path.write_bytes(PNG + b"after")
    after = kept.look(str(path))
    assert reads.names == ["a.png", "b", "c", "a.png"]
    for reference, content in ((before, b"before"), (after, b"after")):
        assert pybase64.b64decode(kept.attach(reference).base64) == PNG + content
