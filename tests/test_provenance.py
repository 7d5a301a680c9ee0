"""A picture tells where it comes from, and is to the last pixel what was sent."""

from __future__ import annotations

import logging
import struct
import sys
import zlib
from hashlib import sha256
from io import BytesIO
from typing import TYPE_CHECKING, Any, NoReturn
from xml.etree import ElementTree as ET

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from batchgen import imaging
from batchgen.errors import CorruptImageError
from batchgen.provenance import MAX_TEXT, Kept, Labels, Origin, embed, packet
from batchgen.records import Reference, Task
from batchgen.simulator import Settings
from batchgen.verify import verify
from batchgen.version import __version__
from tests.crashing import _apart, _watch
from tests.nights import Nights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ORIGIN = Origin(
    prompt="a cat",
    model="gemini-3-pro-image-preview",
    provider="core-today",
    simulated=False,
    request_id="req-1",
    made=1_800_000_000.5,
    composed=False,
)
SPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "ext": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
}


def told(xmp: bytes) -> dict[str, str]:
    """What a packet says, by property."""
    (about,) = ET.fromstring(xmp).iter(f"{{{SPACES['rdf']}}}Description")
    short = {f"{{{uri}}}": f"{name}:" for name, uri in SPACES.items()}
    found = {}
    for cell in about:
        uri, _, name = cell.tag.rpartition("}")
        found[short[uri + "}"] + name] = "".join(cell.itertext())
    return found


def of(**changes: Any) -> dict[str, str]:
    return told(packet(msgspec.structs.replace(ORIGIN, **changes)))


# The packet


def test_a_packet_says_what_is_known_in_the_words_of_the_standard() -> None:
    assert of() == {
        "dc:description": "a cat",
        "xmp:CreatorTool": f"batchgen {__version__}",
        "xmp:CreateDate": "2027-01-15T08:00:00Z",
        "photoshop:DateCreated": "2027-01-15T08:00:00Z",
        "photoshop:Credit": "gemini-3-pro-image-preview via core-today",
        "photoshop:TransmissionReference": "req-1",
        "ext:DigitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
        "ext:AIPromptInformation": "a cat",
        "ext:AISystemUsed": "gemini-3-pro-image-preview via core-today",
    }
    composed = of(composed=True, request_id=None)
    assert composed["ext:DigitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    assert "photoshop:TransmissionReference" not in composed


def test_a_simulated_picture_says_so_and_names_no_model() -> None:
    found = of(simulated=True, composed=True)
    assert found["photoshop:Credit"] == "simulated picture, no AI model was asked"
    assert found["ext:DigitalSourceType"].endswith("/algorithmicMedia")
    assert "ext:AISystemUsed" not in found
    assert not any("gemini" in said for said in found.values())


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(), max_size=60), st.text(st.characters(), max_size=20))
@example("]]> <?xpacket end='w'?> </rdf:li> &amp; &#0;", "<!--")
@example("a\0b\x1b\ud800c\udfff\ufffe\u202eö\U0001f600", "\r\n\t")
def test_any_prompt_comes_back_but_for_what_xml_cannot_hold(prompt: str, model: str) -> None:
    written = packet(msgspec.structs.replace(ORIGIN, prompt=prompt, model=model, request_id=prompt))
    assert written.count(b"<?xpacket") == 2
    found = told(written)
    legal = "".join(
        c if c in "\t\n\r" or " " <= c < "\ud800" or "\ue000" <= c <= "\ufffd" or c > "\uffff" else "\ufffd"
        for c in prompt
    )
    assert found["dc:description"] == found["ext:AIPromptInformation"] == legal


@pytest.mark.parametrize("piece", ["x", "&", "ö", "\U0001f600", "\0", "\r", "a&ö<"])
def test_a_prompt_of_a_megabyte_is_cut_and_says_so(piece: str) -> None:
    written = packet(
        msgspec.structs.replace(ORIGIN, prompt=piece * (2**20 // len(piece)), model=piece * 9999)
    )
    assert len(written) <= 60_000, "a JPEG segment has room for 65,504"
    said = told(written)["dc:description"]
    assert said.endswith("…")
    kept = said.removesuffix("…")
    assert (piece.replace("\0", "\ufffd") * MAX_TEXT).startswith(kept)
    assert len(kept) > MAX_TEXT / 6


# The file


def made(kind: str, mode: str, size: tuple[int, int], seed: int, **options: Any) -> bytes:
    count = len(Image.new(mode, (1, 1)).getbands())
    raw = b"".join(sha256(f"{seed} {n}".encode()).digest() for n in range(size[0] * size[1] * 4 // 32 + 1))
    whole = size[0] * size[1]
    bands = [Image.frombytes("L", size, raw[n * whole // 2 :][:whole]) for n in range(count)]
    image = bands[0].convert(mode) if count == 1 else Image.merge(mode, bands)
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
KINDS: dict[str, tuple[str, list[str], list[dict[str, Any]]]] = {
    "jpg": ("JPEG", ["L", "RGB", "CMYK"], [{}, {"progressive": True}, {"comment": b"hi"}, {"dpi": (72, 72)}]),
    "png": ("PNG", ["1", "L", "LA", "P", "RGB", "RGBA"], [{}, {"dpi": (72, 72)}]),
    "webp": ("WEBP", ["RGB", "RGBA"], [{}, {"lossless": True}, {"quality": 5}]),
}


@st.composite
def pictures(draw: st.DrawFn) -> tuple[str, bytes]:
    extension = draw(st.sampled_from(sorted(KINDS)))
    kind, modes, options = KINDS[extension]
    chosen = dict(draw(st.sampled_from(options)))
    chosen |= draw(st.sampled_from([{}, {"exif": EXIF}, {"icc_profile": PROFILE}]))
    size = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    return extension, made(kind, draw(st.sampled_from(modes)), size, draw(st.integers(0, 9)), **chosen)


@settings(max_examples=60, deadline=None)
@given(pictures(), st.sampled_from(["a cat", "a", "ö" * 30_000]))
def test_the_pixels_and_all_else_of_a_picture_stay_what_they_were(
    picture: tuple[str, bytes], prompt: str
) -> None:
    extension, data = picture
    origin = msgspec.structs.replace(ORIGIN, prompt=prompt)
    labelled = embed(data, extension, origin)
    assert imaging.examine(labelled, imaging.Check.FULL) == imaging.examine(data, imaging.Check.FULL)
    with Image.open(BytesIO(data)) as before, Image.open(BytesIO(labelled)) as after:
        assert (after.mode, after.size, after.tobytes()) == (before.mode, before.size, before.tobytes())
        assert after.info.pop("xmp") == packet(origin)
        # Pillow names it twice in a PNG, and of any WebP in the extended format it says how it moves.
        left = {"XML:com.adobe.xmp", "background", "loop", "timestamp", "duration"}
        assert {k: v for k, v in after.info.items() if k not in left} == {
            k: v for k, v in before.info.items() if k not in left
        }
    with pytest.raises(Kept, match="XMP of its own"):
        embed(labelled, extension, origin)


def test_what_follows_the_end_of_a_picture_stays_there() -> None:
    for extension, (kind, _, _) in KINDS.items():
        labelled = embed(made(kind, "RGB", (9, 9), 1) + b"a gain map", extension, ORIGIN)
        assert labelled.endswith(b"a gain map")
        assert imaging.examine(labelled, imaging.Check.FULL).width == 9


def test_a_webp_without_its_last_padding_byte_is_whole_afterwards() -> None:
    for seed in range(60):
        data = made("WEBP", "RGB", (9, 9), seed, lossless=True)
        (length,) = struct.unpack_from("<I", data, 16)
        if length % 2:
            cut = data[:4] + struct.pack("<I", 12 + length) + data[8 : 20 + length]
            assert Image.open(BytesIO(embed(cut, "webp", ORIGIN))).info["xmp"] == packet(ORIGIN)
            return
    pytest.fail("no picture of odd length")


def test_the_segment_goes_behind_exif_and_before_what_counts_from_itself() -> None:
    data = made("JPEG", "RGB", (9, 9), 1, exif=EXIF, icc_profile=PROFILE)
    labelled = embed(data, "jpg", ORIGIN)
    order = [
        labelled.index(mark) for mark in (b"JFIF", b"Exif\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_")
    ]
    assert order == sorted(order)
    offsets = b"\xff\xe2\0\x08MPF\0\0\0"
    shuffled = embed(data[:20] + offsets + data[20:], "jpg", ORIGIN)
    assert shuffled.index(b"http://ns.adobe.com/xap/1.0/\0") < shuffled.index(offsets)


def test_a_transparent_webp_stays_transparent() -> None:
    data = made("WEBP", "RGBA", (9, 9), 1, lossless=True)
    assert data[12:16] == b"VP8L"
    labelled = embed(data, "webp", ORIGIN)
    assert (labelled[12:16], labelled[20]) == (b"VP8X", 0b10100), "XMP, and transparency"


# What is left alone


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def signed(extension: str) -> bytes:
    """A picture with a place for a C2PA manifest, as the vendors' have it."""
    data = made(KINDS[extension][0], "RGB", (9, 9), 1)
    if extension == "png":
        return data[:33] + chunk(b"caBX", b"jumb") + data[33:]
    if extension == "jpg":
        return data[:2] + b"\xff\xeb\0\x0aJP\0\x01jumb" + data[2:]
    (size,) = struct.unpack_from("<I", data, 4)
    return data[:4] + struct.pack("<I", size + 12) + data[8:] + b"C2PA\x04\0\0\0jumb"


@pytest.mark.parametrize("extension", sorted(KINDS))
def test_a_signed_picture_is_left_as_it_came(extension: str) -> None:
    with pytest.raises(Kept, match="signed"):
        embed(signed(extension), extension, ORIGIN)


def test_what_is_left_as_it_came_is_told_once_for_each_reason(caplog: pytest.LogCaptureFixture) -> None:
    labels = Labels(provider="p", simulated=False, wall=lambda: 1.0)
    task = Task(key="k", id="a", variant=1, name="a", model="m", prompt="a cat")
    gif = made("GIF", "L", (9, 9), 1)
    with caplog.at_level(logging.WARNING, "batchgen"):
        for _ in range(3):
            assert labels.on(gif, "gif", stem="a", task=task, request_id=None) is gif
            labels.on(signed("png"), "png", stem="b", task=task, request_id=None)
    assert [record.message.split(": ")[0] for record in caplog.records] == ["images/a.gif", "images/b.png"]


def test_a_task_that_brings_pictures_along_is_a_composite() -> None:
    labels = Labels(provider="p", simulated=False, wall=lambda: 1.0)
    task = Task(key="k", id="a", variant=1, name="a", model="m", prompt="a cat")
    task = msgspec.structs.replace(task, references=(Reference(source="a.jpg", sha256="0"),))
    data = labels.on(made("PNG", "L", (9, 9), 1), "png", stem="a", task=task, request_id=None)
    assert b"/compositeWithTrainedAlgorithmicMedia<" in data


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_a_damaged_picture_is_labelled_or_left_but_nothing_else_happens(
    extension: str, data: st.DataObject
) -> None:
    whole = bytearray(made(KINDS[extension][0], "RGB", (9, 9), 1))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    del whole[data.draw(st.integers(1, len(whole))) :]
    try:
        imaging.examine(whole, imaging.Check.QUICK)
    except CorruptImageError:
        return
    try:
        labelled = embed(whole, extension, ORIGIN)
    except Kept:
        return
    assert imaging.examine(labelled, imaging.Check.QUICK) == imaging.examine(whole, imaging.Check.QUICK)


# A run


@pytest.mark.blocks
def test_a_run_puts_it_into_every_picture_and_its_table_tells_of_the_file_as_it_is(memory: Path) -> None:
    nights = Nights(memory, Settings(paint=False))
    nights.rows(3)
    nights.run(embed=True)
    for row in nights.table():
        data = (nights.directory / row["file_name"]).read_bytes()
        assert (row["images"][-1]["sha256"], row["images"][-1]["bytes"]) == (
            sha256(data).hexdigest(),
            len(data),
        )
        said = told(Image.open(BytesIO(data)).info["xmp"])
        assert (said["dc:description"], said["photoshop:TransmissionReference"]) == (
            row["prompt"],
            row["request_id"],
        )
        assert said["photoshop:Credit"].startswith("simulated")
    assert verify(nights.directory).problems == {}
    assert nights.run(embed=True).requests == 0


@pytest.mark.blocks
def test_without_the_flag_a_picture_is_what_was_sent(memory: Path) -> None:
    nights = Nights(memory, Settings(paint=False))
    nights.rows(1)
    nights.run()
    (row,) = nights.table()
    assert b"xpacket" not in (nights.directory / row["file_name"]).read_bytes()


@pytest.mark.blocks
@pytest.mark.parametrize("again", [False, True])
def test_a_picture_whose_answer_a_kill_swallowed_is_given_to_its_row(memory: Path, again: bool) -> None:
    if again:
        first = Nights(memory, Settings(seed=7, paint=False))
        first.rows(1)
        first.run(embed=True)

    def work(die: Callable[[Any], NoReturn]) -> None:
        nights = Nights(memory, Settings(paint=False))
        nights.rows(1)
        _watch(lambda name: die(nights.endpoint.account.seen) if name == "return Store.put" else None)
        nights.run(embed=True, again=again)
        sys.setprofile(None)
        die(-1)

    assert _apart(work) == 1
    nights = Nights(memory, Settings(paint=False))
    summary = nights.run(embed=True)
    (row,) = nights.table()
    data = (nights.directory / row["file_name"]).read_bytes()
    assert (summary.requests, row["status"]) == (0, "succeeded")
    assert row["images"][-1]["sha256"] == sha256(data).hexdigest()
    assert b"<dc:description>" in data
    assert verify(nights.directory).problems == {}
