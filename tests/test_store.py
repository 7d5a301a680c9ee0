"""Pictures reach the disk whole, under harmless names, or not at all and with a reason."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchgen import store as store_module
from batchgen.errors import StorageError
from batchgen.store import Store, safe_stem, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import BuiltinFunctionType, FrameType

DATA = bytes(range(256)) * 40
MARK = r"~[0-9a-f]{16}\Z"

CLEAN = [
    "sku-1",
    "shoes/sku-1",
    "a b (2), c",
    "v1.2",
    "-rf",
    "~root",
    "신발/빨강",
    "靴/赤い靴",
    "👩‍👩‍👧/🇰🇷",
    "می‌خواهم",
    "Ünï",
    "conx",
    "a/b/c/d/e/f/g/h",
    "x" * 100,
    "é" * 50,
    "a.png",
]
CLEANED = {
    "../../etc/passwd": "etc/passwd",
    "/etc/passwd": "etc/passwd",
    "a/../b": "a/b",
    "a//b": "a/b",
    "a/./b": "a/b",
    "a/": "a",
    "C:\\Windows\\x": "C__Windows_x",
    "a\0b\nc\x7f\x85": "a_b_c__",
    ".hidden": "hidden",
    "  spaced. ": "spaced",
    'a<>:"|?*b': "a_______b",
    "CON": "_CON",
    "nul.txt/Com1 .x/lpt²": "_nul.txt/_Com1 .x/_lpt²",
    "con" + " " * 120 + "x": "_con",
    "evil\u202egnp.exe": "evil_gnp.exe",
    "\ud800x\udcff": "_x_",
    "": "unnamed",
    "...": "unnamed",
    "/": "unnamed",
    " / . ": "unnamed",
    "a.png/b": "a_png/b",
    "A.BIN/b": "A_BIN/b",
    "x" * 96 + ".gif-/b": "x" * 96 + "_gif/b",
    "x" * 101: "x" * 83,
    "é" * 51: "é" * 41,
    "👟" * 30: "👟" * 20,
    "a/b/c/d/e/f/g/h/i/j": "a/b/c/d/e/f/g/j",
    "/".join(["x" * 90] * 8): "/".join([*["x" * 49] * 7, "x" * 32]),
    "sku~0123456789abcdef": "sku~0123456789abcdef",
}
HOSTILE = st.lists(
    st.one_of(
        st.text(st.characters(), max_size=12),
        st.sampled_from(
            ["..", ".", "", " ", "CON", "nul.a", "a" * 99, "é" * 60, "x.png", "~0123456789abcdef", "\\"]
        ),
    ),
    max_size=12,
).map("/".join) | st.text(st.sampled_from("ab/.~ :é\u0301"), max_size=30)


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_name_stays_as_it_is(name: str) -> None:
    assert safe_stem(name) == name


@pytest.mark.parametrize("name", CLEANED)
def test_what_is_altered_says_so(name: str) -> None:
    stem, mark, digits = safe_stem(name).rpartition("~")
    assert (stem, mark, len(digits)) == (CLEANED[name], "~", 16)


def test_composition_alone_makes_no_difference() -> None:
    assert safe_stem("u\u0308") == safe_stem("ü") == "ü"


@given(HOSTILE)
@example("con" + " " * 97 + "x/y")
def test_a_stem_is_harmless_whatever_the_name(name: str) -> None:
    stem = safe_stem(name)
    parts = stem.split("/")
    assert len(parts) <= 8
    assert len(stem.encode()) <= 400
    assert stem == unicodedata.normalize("NFC", stem)
    for part in parts:
        assert part == part.strip(". ")
        assert 0 < len(part.encode()) <= 100
        assert not set(part) & set('\\<>:"|?*')
        assert not any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in part)
        assert part.split(".")[0].strip().casefold() not in {"con", "prn", "aux", "nul", "com1", "lpt1"}
    assert not any(folder.endswith((".png", ".jpg", ".webp", ".gif", ".bin")) for folder in parts[:-1])
    assert os.path.normpath(f"/root/{stem}") == f"/root/{stem}"


@given(HOSTILE, HOSTILE)
@example("a?b", "a*b")
@example("a/b", "a//b")
@example("\ud800", "\ud801")
@example("x" * 200 + "1", "x" * 200 + "2")
def test_two_names_never_become_one_by_cleaning(one: str, other: str) -> None:
    twins = unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)
    assert twins or safe_stem(one) != safe_stem(other)


@given(HOSTILE)
def test_a_name_that_is_another_names_stem_becomes_a_third(name: str) -> None:
    stem = safe_stem(name)
    assert stem == unicodedata.normalize("NFC", name) or safe_stem(stem) != stem


def test_a_picture_is_found_where_its_name_says(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.put("shoes/red", "png", DATA) == "images/shoes/red.png"
    assert store.address("images/shoes/red.png") == str(tmp_path / "images" / "shoes" / "red.png")
    assert (tmp_path / "images/shoes/red.png").read_bytes() == DATA
    assert store.put("red-1", "jpg", DATA, folder="drafts") == "drafts/red-1.jpg"
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "drafts", "images", "red-1.jpg", "red.png", "shoes",
    ]  # fmt: skip


@pytest.mark.parametrize("data", [b"", bytearray(DATA), memoryview(DATA)[100:]])
def test_any_buffer_is_written_whole(tmp_path: Path, data: bytes | bytearray | memoryview) -> None:
    assert (tmp_path / Store(tmp_path).put("a", "png", data)).read_bytes() == bytes(data)


def test_a_later_picture_replaces_an_earlier_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("a", "png", b"old and longer")
    store.put("a", "png", b"new")
    assert (tmp_path / "images/a.png").read_bytes() == b"new"


@pytest.mark.parametrize("stem", [*CLEAN, *map(safe_stem, CLEANED)])
def test_every_safe_stem_can_be_put_and_set_aside(tmp_path: Path, stem: str) -> None:
    store = Store(tmp_path)
    assert store.size(store.put(stem, "webp", DATA)) is not None
    assert store.size(store.set_aside(stem, DATA)) is not None


def test_the_mode_of_a_file_is_the_umasks(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        Store(tmp_path).put("a", "png", DATA)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "images/a.png").stat().st_mode) == 0o640


CHANGES = frozenset({"mkdir", "write", "fsync", "replace"})


def calls(work: Callable[[], object], names: frozenset[str] = CHANGES) -> list[str]:
    """The calls into the kernel, by default those that decide what a crash leaves, in their order."""
    seen: list[str] = []

    def watch(_frame: FrameType, event: str, called: BuiltinFunctionType) -> None:
        if event == "c_call" and called.__module__ == "posix":
            seen.append(called.__name__)

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return [name for name in seen if name in names]


def test_the_order_on_disk_survives_a_power_cut(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put = ["write", "fsync", "replace", "fsync"]
    # The entries of the two new folders are on disk before the first file is.
    assert calls(lambda: store.put("shoes/a", "png", DATA)) == ["mkdir", "fsync", "mkdir", "fsync", *put]
    assert calls(lambda: store.put("shoes/b", "png", DATA)) == put
    # Another run finds the folders, but does not know whether they are on disk.
    assert calls(lambda: Store(tmp_path).put("shoes/c", "png", DATA)) == [
        "mkdir",
        "fsync",
        "mkdir",
        "fsync",
        *put,
    ]
    assert calls(lambda: store.set_aside("a", DATA)) == ["mkdir", "fsync", "write", "fsync", "fsync"]
    assert calls(lambda: write_whole(tmp_path / "job.json", b"{}")) == put


def test_the_kernel_may_forget_a_picture_once_it_is_on_disk_and_not_before(tmp_path: Path) -> None:
    store = Store(tmp_path)
    kept = calls(lambda: store.put("a", "png", DATA), CHANGES - {"mkdir"} | {"posix_fadvise"})
    assert kept[-5:] == ["write", "fsync", "posix_fadvise", "replace", "fsync"]
    assert (tmp_path / "images/a.png").read_bytes() == DATA


def test_a_folder_deleted_in_the_middle_of_the_run_is_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("shoes/a", "png", DATA)
    (tmp_path / "images/shoes/a.png").unlink()
    (tmp_path / "images/shoes").rmdir()
    assert calls(lambda: store.put("shoes/a", "png", DATA))[:2] == ["mkdir", "fsync"]
    assert store.size("images/shoes/a.png") is not None


def test_what_is_known_of_folders_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_FOLDERS_KNOWN", 3)
    store = Store(tmp_path)
    for number in range(10):
        store.put(f"{number}/a", "png", DATA)
        assert len(store._durable) <= 3
    assert len(list(tmp_path.rglob("*.png"))) == 10


def test_a_corrupt_picture_never_replaces_another(tmp_path: Path) -> None:
    store = Store(tmp_path)
    names = [store.set_aside("shoes/a", bytes([number])) for number in range(3)]
    assert names == ["corrupt/shoes/a.bin", "corrupt/shoes/a.2.bin", "corrupt/shoes/a.3.bin"]
    assert [(tmp_path / name).read_bytes() for name in names] == [b"\0", b"\1", b"\2"]


def test_what_is_removed_is_gone_and_may_have_been_gone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    name = store.put("shoes/a", "png", DATA)
    store.remove(name)
    assert store.size(name) is None
    store.remove(name)
    store.remove("images/never/was.png")


def test_what_is_no_plain_file_is_told_and_not_followed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("a/b", "png", DATA)
    (tmp_path / "images/link.png").symlink_to("a/b.png")
    assert (store.size("images/a/b.png"), store.irregular("images/a/b.png")) == (len(DATA), "")
    assert store.irregular("images/a") == "a folder"
    assert store.irregular("images/link.png") == "a symbolic link"
    assert (store.size("images/a/b.png/c.png"), store.irregular("images/none.png")) == (None, "")


@pytest.mark.parametrize(
    "name", ["../x", "images/../../x", "/etc/passwd", "x", "images//x", "images/./x", "a/x\0"]
)
def test_a_name_that_leads_out_of_the_store_is_refused(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    for use in (store.address, store.size, store.remove):
        with pytest.raises(StorageError, match="is not the name of a file in"):
            use(name)


def test_a_stem_that_leads_out_of_the_store_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    store.root.mkdir()
    with pytest.raises(StorageError, match="is not the name of a file in"):
        store.put("../../x", "png", DATA)
    with pytest.raises(StorageError, match="is not the name of a file in"):
        store.set_aside("../../x", DATA)
    assert list(tmp_path.rglob("*")) == [store.root]


@pytest.mark.parametrize("planted", ["images", "images/shoes"])
def test_no_symbolic_link_leads_a_write_out(tmp_path: Path, planted: str) -> None:
    outside, root = tmp_path / "outside", tmp_path / "run"
    outside.mkdir()
    (root / planted).parent.mkdir(parents=True)
    (root / planted).symlink_to(outside)
    store = Store(root)
    with pytest.raises(StorageError, match="symbolic link stands where a folder must be"):
        store.put("shoes/a", "png", DATA)
    with pytest.raises(StorageError, match="symbolic link stands where a folder must be"):
        store.remove("images/shoes/a.png")
    assert list(outside.iterdir()) == []


def test_links_in_place_of_files_are_replaced_not_followed(tmp_path: Path) -> None:
    store, precious = Store(tmp_path), tmp_path / "precious"
    precious.write_bytes(b"precious")
    store.put("other", "png", DATA)
    for planted in ("images/a.png", "images/.a.0.part"):
        (tmp_path / planted).symlink_to(precious)
    store.put("a", "png", DATA)
    assert precious.read_bytes() == b"precious"
    assert store.size("images/a.png") is not None


def test_the_litter_of_crashes_blocks_nothing_and_is_swept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for stem in ("shoes/a", "shoes/b", "shoes/a.0"):
        store.put(stem, "png", DATA)
    litter = [
        tmp_path / "images/shoes" / name for name in (".a.0.part", ".a.1.part", ".a.5.part", ".b.0.part")
    ]
    for path in litter:
        path.write_bytes(b"half a pic")
    store.put("shoes/a", "png", b"whole")
    assert store.sweep(["shoes/a", "shoes/never", "never/was"]) == 3
    assert sorted(path.name for path in (tmp_path / "images/shoes").iterdir()) == [
        ".b.0.part", "a.0.png", "a.png", "b.png",
    ]  # fmt: skip
    assert (tmp_path / "images/shoes/a.png").read_bytes() == b"whole"


def test_endless_litter_is_an_error_and_sweeping_its_cure(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("a", "png", b"old")
    for slot in range(8):
        (tmp_path / f"images/.a.{slot}.part").touch()
    with pytest.raises(StorageError, match=r"File exists; delete the hidden \.part files"):
        store.put("a", "png", b"new")
    assert store.sweep(["a"]) == 8
    store.put("a", "png", b"new")
    assert (tmp_path / "images/a.png").read_bytes() == b"new"


def test_a_file_in_place_of_a_folder_is_named_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(b"")
    with pytest.raises(StorageError) as caught:
        Store(tmp_path).put("a", "png", DATA)
    assert str(caught.value) == (
        f"{tmp_path}/images/a.png: Not a directory; a file or a symbolic link stands where a folder must be; "
        "move it away, then run the same command again"
    )
    with pytest.raises(StorageError, match="Not a directory"):
        Store(tmp_path).sweep(["a/b"])


def test_a_folder_in_place_of_a_file_is_named_and_leaves_no_litter(tmp_path: Path) -> None:
    (tmp_path / "images/a.png").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"a\.png: Is a directory; a folder stands where the file must be"):
        Store(tmp_path).put("a", "png", DATA)
    with pytest.raises(StorageError, match="Is a directory"):
        write_whole(tmp_path / "images", b"")
    assert [path.name for path in tmp_path.rglob("*")] == ["images", "a.png"]


def test_a_missing_run_directory_is_not_made_up(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(StorageError, match="check that the run directory is still there"):
        Store(gone).put("a", "png", DATA)
    with pytest.raises(StorageError, match="check that the run directory is still there"):
        write_whole(gone / "job.json", b"{}")
    assert not gone.exists()


def test_a_name_too_long_for_the_file_system_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("a", "png", DATA)
    for use in (store.size, store.remove):
        with pytest.raises(
            StorageError, match="File name too long; choose a run directory with a shorter path"
        ):
            use("images/" + "x" * 300)


LIMITED = """
import resource, signal, sys
from pathlib import Path
from batchgen.errors import StorageError
from batchgen.store import Store, write_whole
root = Path(sys.argv[1])
store = Store(root)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
before = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
data = b"x" * 150_000
for use in (
    lambda: store.put("a", "png", data),
    lambda: store.set_aside("a", data),
    lambda: write_whole(root / "job.json", data),
):
    try:
        use()
    except StorageError as error:
        print(error)
store.put("small", "png", data[:100_000])
resource.setrlimit(resource.RLIMIT_FSIZE, before)
"""


def test_a_write_cut_short_is_an_error_and_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    # The kernel takes 100,000 bytes of the one write without an error, like a disk that fills up; only the
    # next write fails.
    Store(tmp_path).put("a", "png", b"old")
    write_whole(tmp_path / "job.json", b"old")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    tail = "File too large; raise the file size limit (ulimit -f), then run the same command again"
    names = ("images/a.png", "corrupt/a", "job.json")
    assert done.stdout.splitlines() == [f"{tmp_path}/{name}: {tail}" for name in names]
    files = {path.relative_to(tmp_path).as_posix(): path.stat().st_size for path in tmp_path.rglob("*.*")}
    assert files == {"images/a.png": 3, "images/small.png": 100_000, "job.json": 3}


def test_a_file_system_that_cannot_sync_folders_is_borne(tmp_path: Path) -> None:
    # Pipes are refused by fsync with EINVAL, as folders are on such file systems.
    reader, writer = os.pipe()
    store_module._sync_folder(writer)
    os.close(reader)
    os.close(writer)
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        store_module._sync_folder(writer)
    assert caught.value.errno == errno.EBADF


def test_many_threads_put_at_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    bodies = {f"{number % 5}/{number % 3}/{number}": os.urandom(5_000) for number in range(200)}
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda stem: store.put(stem, "png", bodies[stem]), bodies))
    assert names == [f"images/{stem}.png" for stem in bodies]
    assert {stem: (tmp_path / name).read_bytes() for stem, name in zip(bodies, names, strict=True)} == bodies
    assert list(tmp_path.rglob("*.part")) == []


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("a/b", "png", DATA)
    (tmp_path / "images/file").touch()
    before = sorted(Path("/dev/fd").iterdir())
    for stem in ("a/b", "a/c", "file/x"):
        try:
            store.put(stem, "png", DATA)
        except StorageError:
            store.sweep([])
    store.set_aside("a/b", DATA)
    store.remove("images/a/b.png")
    assert sorted(Path("/dev/fd").iterdir()) == before


KILLED = """
import itertools, sys
from pathlib import Path
from batchgen.store import Store
store = Store(Path(sys.argv[1]))
for number in itertools.count():
    body = bytes([number % 256]) * 300_000
    print(store.put(f"shoes/{number % 4}", "png", body), flush=True)
"""


def test_a_killed_process_leaves_whole_pictures_and_what_a_sweep_removes(tmp_path: Path) -> None:
    for after in range(1, 6):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as run:
            assert run.stdout is not None
            for _ in range(after):
                run.stdout.readline()
            run.send_signal(signal.SIGKILL)
    for path in tmp_path.rglob("*.png"):
        body = path.read_bytes()
        assert (len(body), len(set(body))) == (300_000, 1)
    Store(tmp_path).sweep(f"shoes/{number}" for number in range(4))
    assert list(tmp_path.rglob("*.part")) == []


def test_write_whole_replaces_and_sweeps_what_an_earlier_crash_left(tmp_path: Path) -> None:
    target = tmp_path / "job.json"
    (tmp_path / ".job.json.0.part").write_bytes(b'{"half')
    write_whole(target, b"{}")
    write_whole(target, b'{"a": 1}')
    assert target.read_bytes() == b'{"a": 1}'
    assert list(tmp_path.iterdir()) == [target]


def test_only_a_plain_file_of_this_store_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    name = store.put("a/b", "png", b"bytes")
    assert store.read(name) == b"bytes"
    assert store.read("images/a/c.png") is None
    assert store.read("images/nowhere/c.png") is None
    (store.root / "images/link.png").symlink_to(store.root / name)
    os.mkfifo(store.root / "images/pipe.png")
    (store.root / "images/folder.png").mkdir()
    (store.root / "linked").symlink_to(store.root / "images")
    for no_file in ("images/link.png", "images/pipe.png", "images/folder.png", "linked/a/b.png"):
        with pytest.raises(StorageError):
            store.read(no_file)


def test_nothing_is_moved_onto_something_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, other = store.put("one", "png", b"1"), store.put("other", "png", b"2")
    with pytest.raises(StorageError, match="other"):
        store.move(one, other)
    assert (store.read(one), store.read(other)) == (b"1", b"2")
    store.move(one, "images/a/b/one.png")
    assert (store.read(one), store.read("images/a/b/one.png")) == (None, b"1")
    assert store.move_aside(other) == "corrupt/other.png"
    store.put("other", "png", b"3")
    assert store.move_aside(other) == "corrupt/other.2.png"


def test_every_file_is_named_and_no_link_is_followed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for stem in ("a", "b/c", "b/d/e"):
        store.put(stem, "png", b"x")
    (store.root / "images/f").symlink_to(store.root / "images/b")
    found = ["images/a.png", "images/b/c.png", "images/b/d/e.png", "images/f"]
    assert sorted(store.names("images")) == found
    assert list(store.names("nowhere")) == []
