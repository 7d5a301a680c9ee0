"""Whole pictures are told by their own bytes; everything else is corrupt, whatever it is."""

from __future__ import annotations

import itertools
import random
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from batchgen import imaging
from batchgen.errors import CorruptImageError
from batchgen.imaging import MAX_PIXELS, Check, Picture, examine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import BuiltinFunctionType, FrameType

WIDTH, HEIGHT = 23, 17


def picture(kind: str, mode: str = "RGB", **options: bool | int | bytes) -> bytes:
    canvas = Image.linear_gradient("L").resize((WIDTH, HEIGHT)).convert(mode)
    out = BytesIO()
    canvas.save(out, kind, **options)
    return out.getvalue()


def frames(kind: str) -> bytes:
    colours = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "green", "blue")]
    out = BytesIO()
    colours[0].save(out, kind, save_all=True, append_images=colours[1:], duration=100)
    return out.getvalue()


PNG = picture("PNG")
JPEG = picture("JPEG")
WEBP = picture("WEBP")
GIF = picture("GIF")
PICTURES = {
    "png": PNG,
    "png palette": picture("PNG", "P"),
    "png transparent": picture("PNG", "RGBA"),
    "png 16 bit": picture("PNG", "I;16"),
    "png animated": frames("PNG"),
    "jpg": JPEG,
    "jpg progressive": picture("JPEG", progressive=True),
    "jpg restarts": picture("JPEG", restart_marker_blocks=1),
    "jpg grey": picture("JPEG", "L"),
    "jpg cmyk": picture("JPEG", "CMYK"),
    "webp": WEBP,
    "webp lossless": picture("WEBP", lossless=True),
    "webp transparent": picture("WEBP", "RGBA", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"),
    "webp animated": frames("WEBP"),
    "gif": GIF,
    "gif animated": frames("GIF"),
}
MIMES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp", "gif": "image/gif"}
BOTH = pytest.mark.parametrize("check", Check)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and body of each chunk of a PNG."""
    at = 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length


def recut(data: bytes, cuts: list[int], *, between: bytes = b"") -> bytes:
    """A PNG whose pixels are cut into chunks at these places, with a chunk more behind the first."""
    parts = [*chunks(data)]
    first = next(number for number, (kind, _) in enumerate(parts) if kind == b"IDAT")
    pixels = b"".join(body for kind, body in parts if kind == b"IDAT")
    places = [0, *sorted(cut % (len(pixels) + 1) for cut in cuts), len(pixels)]
    cut = [chunk(b"IDAT", pixels[start:end]) for start, end in itertools.pairwise(places)]
    others = [chunk(kind, body) if kind != b"IDAT" else b"" for kind, body in parts]
    return png(*others[:first], cut[0], between, *cut[1:], *others[first:])


def decodes(data: bytes) -> bool:
    """What the decoder says of a file as it is."""
    try:
        with Image.open(BytesIO(data)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def header(width: int = WIDTH, height: int = HEIGHT, tail: bytes = b"\x08\x02\0\0\0") -> bytes:
    return chunk(b"IHDR", struct.pack(">II", width, height) + tail)


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP"
    for kind, data in chunks:
        body += kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) & 1)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif(*blocks: bytes, screen: tuple[int, int] = (1, 1)) -> bytes:
    return b"GIF89a" + struct.pack("<HH", *screen) + b"\0\0\0" + b"".join(blocks)


def gif_frame(left: int, top: int, width: int, height: int) -> bytes:
    palette = b"\0\0\0\xff\xff\xff"
    return b"," + struct.pack("<HHHHB", left, top, width, height, 0x80) + palette + b"\x02\x02\x4c\x01\0"


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def reason(data: bytes, check: Check = Check.QUICK) -> str:
    with pytest.raises(CorruptImageError) as caught:
        examine(data, check)
    return str(caught.value)


def accepts(data: bytes, check: Check) -> Picture | None:
    try:
        return examine(data, check)
    except CorruptImageError:
        return None


@BOTH
@pytest.mark.parametrize("name", PICTURES)
def test_a_whole_picture_is_told_by_its_bytes(name: str, check: Check) -> None:
    extension = name.split(maxsplit=1)[0]
    expected = Picture(mime=MIMES[extension], extension=extension, width=WIDTH, height=HEIGHT)
    assert examine(PICTURES[name], check) == expected


@BOTH
@pytest.mark.parametrize("name", PICTURES)
def test_any_buffer_will_do_and_none_is_held(name: str, check: Check) -> None:
    buffer = bytearray(PICTURES[name])
    assert examine(buffer, check) == examine(memoryview(buffer), check) == examine(bytes(buffer), check)
    buffer.clear()


def test_a_refused_buffer_is_not_held() -> None:
    buffer = bytearray(PNG[:-3])
    with pytest.raises(CorruptImageError) as caught:
        examine(buffer, Check.QUICK)
    buffer.clear()
    assert str(caught.value) == f"cut off after {len(PNG) - 3} bytes"


@BOTH
@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("trailer", [b"\0" * 100, b"\r\n", JPEG[:50], b"\xff" * 7])
def test_what_follows_the_end_does_not_make_a_picture_corrupt(
    name: str, trailer: bytes, check: Check
) -> None:
    assert examine(PICTURES[name] + trailer, check) == examine(PICTURES[name], check)


@BOTH
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_cut_anywhere_is_corrupt(name: str, check: Check) -> None:
    data = PICTURES[name]
    assert [cut for cut in range(len(data)) if accepts(data[:cut], check)] == []


@BOTH
def test_every_flipped_bit_of_a_png_is_found(check: Check) -> None:
    missed = []
    for bit in range(len(PNG) * 8):
        flipped = bytearray(PNG)
        flipped[bit // 8] ^= 1 << bit % 8
        if accepts(bytes(flipped), check):
            missed.append(bit)
    assert missed == []


@BOTH
@pytest.mark.parametrize(
    "body",
    [
        b"<!DOCTYPE html><title>502 Bad Gateway</title>",
        b'{"error": {"code": 500}}',
        b"BM" + b"\0" * 60,
        b"II*\0" + b"\0" * 60,
        b"RIFF\x10\0\0\0WAVEfmt " + b"\0" * 60,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b" " + PNG,
    ],
)
def test_what_is_no_known_picture_is_named_by_its_beginning(body: bytes, check: Check) -> None:
    assert reason(body, check) == f"no PNG, JPEG, WebP or GIF: it starts with {body[:16]!r}"


@BOTH
def test_an_empty_body_is_corrupt(check: Check) -> None:
    assert reason(b"", check) == "an empty body"


IMPLAUSIBLE = {
    "png without width": png(header(0, 5), chunk(b"IDAT", b""), chunk(b"IEND", b"")),
    "png bomb": png(header(30_000, 30_000), chunk(b"IDAT", zlib.compress(b"\0")), chunk(b"IEND", b"")),
    "png over 2³¹": png(header(1 << 31, 1), chunk(b"IDAT", b""), chunk(b"IEND", b"")),
    "jpg without height": JPEG.replace(struct.pack(">HH", HEIGHT, WIDTH), struct.pack(">HH", 0, WIDTH)),
    "jpg bomb": JPEG.replace(struct.pack(">HH", HEIGHT, WIDTH), b"\xff\xff\xff\xff"),
    "webp bomb": riff((b"VP8X", b"\0\0\0\0" + b"\xff" * 6), (b"VP8L", b"\x2f" + b"\0" * 9)),
    "webp without width": riff((b"VP8 ", b"\0\0\0\x9d\x01\x2a\0\0\x05\0")),
    "gif bomb": gif(gif_frame(65_535, 65_535, 65_535, 65_535), b";"),
}


@BOTH
@pytest.mark.parametrize("name", IMPLAUSIBLE)
def test_implausible_sizes_are_refused_before_anything_is_decoded(name: str, check: Check) -> None:
    assert reason(IMPLAUSIBLE[name], check).endswith("pixels is not plausible")


def test_the_largest_picture_has_no_more_pixels_than_the_decoder_takes_silently() -> None:
    assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS
    whole = (chunk(b"IDAT", b""), chunk(b"IEND", b""))
    assert examine(png(header(MAX_PIXELS, 1), *whole), Check.QUICK).width == MAX_PIXELS
    assert "not plausible" in reason(png(header(MAX_PIXELS + 1, 1), *whole))


PIXELS = (chunk(b"IDAT", zlib.compress(b"\0" * HEIGHT * (WIDTH * 3 + 1))), chunk(b"IEND", b""))
START = b"\xff\xd8"
FRAME = segment(0xC0, b"\x08\0\x05\0\x05\x01\x01\x11\0")
SCAN = segment(0xDA, b"\x01\x01\0\0\x3f\0") + b"\x55"
END = b"\xff\xd9"
BROKEN = {
    "png whose first chunk is another": (
        png(chunk(b"iHDR", header()[8:21]), *PIXELS),
        "without a valid header",
    ),
    "png of an unknown colour type": (png(header(tail=b"\x08\x07\0\0\0"), *PIXELS), "without a valid header"),
    "png of an impossible depth": (png(header(tail=b"\x04\x02\0\0\0"), *PIXELS), "without a valid header"),
    "png of an unknown filter": (png(header(tail=b"\x08\x02\0\x01\0"), *PIXELS), "without a valid header"),
    "png of an unknown interlace": (png(header(tail=b"\x08\x02\0\0\x02"), *PIXELS), "without a valid header"),
    "png without pixels": (png(header(), PIXELS[1]), "PNG without pixels"),
    "png with a wrong checksum": (
        png(header(), PIXELS[0][:-1] + b"?", PIXELS[1]),
        "chunk b'IDAT' at byte 33",
    ),
    "jpg without pixels": (START + FRAME + END, "JPEG without pixels"),
    "jpg without a frame": (START + SCAN + END, "JPEG without pixels"),
    "jpg with stray bytes": (START + FRAME + b"??" + SCAN + END, "without a marker at byte 15"),
    "jpg with a short segment": (START + b"\xff\xe0\0\x01" + FRAME + SCAN + END, "impossible segment"),
    "jpg within a jpg": (START + START + FRAME + SCAN + END, "impossible segment"),
    "jpg with a reserved marker": (START + FRAME + SCAN + b"\xff\x42\0\x02" + END, "impossible segment"),
    "jpg of an endless scan": (START + FRAME + SCAN + b"\xff\0" * 9, "cut off"),
    "webp without pixels": (riff((b"EXIF", b"abc")), "WebP without pixels"),
    "webp animated without a canvas": (riff((b"ANMF", b"\0" * 30)), "WebP without pixels"),
    "webp that starts between key frames": (
        riff((b"VP8 ", b"\x01\0\0\x9d\x01\x2a\x05\0\x05\0")),
        "VP8 frame",
    ),
    "webp without a start code": (riff((b"VP8 ", b"\0\0\0\x9d\x01\x2b\x05\0\x05\0")), "VP8 frame"),
    "webp with a short partition": (riff((b"VP8 ", b"\xe0\0\0\x9d\x01\x2a\x05\0\x05\0")), "VP8 frame"),
    "webp of an unknown version": (riff((b"VP8L", b"\x2f\0\0\0\xe0")), "VP8L frame"),
    "webp without a signature": (riff((b"VP8L", b"\x2e\0\0\0\0")), "VP8L frame"),
    "webp with a chunk too long": (
        riff((b"EXIF", b"ab")).replace(b"\x02\0\0\0", b"\x09\0\0\0"),
        "longer than",
    ),
    "gif without pixels": (gif(b";"), "GIF without pixels"),
    "gif with an unknown block": (gif(b"?;"), "unknown block at byte 13"),
    "gif with a frame of no width": (gif(gif_frame(0, 0, 0, 5), b";"), "empty frame"),
    "gif with a frame of no height": (gif(gif_frame(0, 0, 5, 0), b";"), "empty frame"),
    "png with a long header": (png(chunk(b"IHDR", header()[8:21] + b"?"), *PIXELS), "without a valid header"),
}


@BOTH
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_structure_is_named(name: str, check: Check) -> None:
    data, part = BROKEN[name]
    assert part in reason(data, check)


@BOTH
@pytest.mark.parametrize("padding", [b"\xff", b"\xff\xff", b"\xff\xd0\xff"])
def test_fill_bytes_and_bare_markers_belong_to_a_jpeg(padding: bytes, check: Check) -> None:
    assert examine(JPEG[:2] + padding + JPEG[2:], check) == examine(JPEG, check)


def test_no_reason_names_an_object_in_memory() -> None:
    assert (
        reason(START + b"\xff\x01" + JPEG[2:], Check.FULL)
        == "a JPEG that does not decode: its header makes no sense"
    )


@BOTH
def test_a_thumbnails_end_is_not_the_pictures(check: Check) -> None:
    embedded = JPEG[:2] + segment(0xE1, b"Exif\0\0" + JPEG) + JPEG[2:]
    assert examine(embedded, check).width == WIDTH
    assert "cut off" in reason(embedded[:-2], check)


@BOTH
def test_a_first_gif_frame_that_juts_out_enlarges_the_picture(check: Check) -> None:
    assert examine(
        gif(gif_frame(2, 3, 1, 1), b"!\xfe\x02hi\0", gif_frame(90, 90, 1, 1), b";"), check
    ) == Picture(mime="image/gif", extension="gif", width=3, height=4)


def test_the_first_webp_frame_is_the_picture() -> None:
    one, other = (b"VP8L", b"\x2f\x04\0\0\0"), (b"VP8L", b"\x2f\x08\0\0\0")
    assert examine(riff(one, other), Check.QUICK).width == 5


UNDECODABLE = {
    "png of too few pixels": png(header(), chunk(b"IDAT", zlib.compress(b"\0" * 9)), PIXELS[1]),
    "png that is not compressed": png(header(), chunk(b"IDAT", b"\0" * 99), PIXELS[1]),
    "jpg without tables": START + FRAME + SCAN + END,
    "webp of nothing": riff((b"VP8L", b"\x2f\0\0\0\0")),
    "gif of a wrong code": gif(gif_frame(0, 0, 1, 1).replace(b"\x02\x02\x4c\x01", b"\x0f\x02\xff\xff"), b";"),
}


@pytest.mark.parametrize("name", UNDECODABLE)
def test_pixels_that_do_not_decode_are_seen_by_the_full_check_alone(name: str) -> None:
    assert accepts(UNDECODABLE[name], Check.QUICK)
    assert "does not decode" in reason(UNDECODABLE[name], Check.FULL)


STILL = ["png", "png palette", "png transparent", "png 16 bit"]


@settings(max_examples=20)
@given(name=st.sampled_from(STILL), cuts=st.lists(st.integers(0, 10_000), max_size=30))
def test_where_the_pixels_of_a_png_are_cut_means_nothing(name: str, cuts: list[int]) -> None:
    assert examine(recut(PICTURES[name], cuts), Check.FULL) == examine(PICTURES[name], Check.FULL)


@settings(max_examples=40)
@given(
    name=st.sampled_from(STILL),
    cuts=st.lists(st.integers(0, 10_000), min_size=1, max_size=5),
    place=st.integers(0, 10_000),
    wrong=st.integers(0, 255),
    between=st.sampled_from([b"", chunk(b"tEXt", b"a\0b")]),
)
def test_a_png_with_true_checksums_is_what_its_decoder_says_however_it_is_cut(
    name: str, cuts: list[int], place: int, wrong: int, between: bytes
) -> None:
    parts = [*chunks(PICTURES[name])]
    pixels = bytearray(b"".join(body for kind, body in parts if kind == b"IDAT"))
    pixels[place % len(pixels)] ^= wrong
    rest = [(kind, body) for kind, body in parts if kind != b"IDAT"]
    whole = png(*(chunk(*part) for part in [*rest[:-1], (b"IDAT", bytes(pixels)), rest[-1]]))
    # A decoder that gets the last bytes apart may not look at them: as little cut as can be is what counts.
    least = (
        recut(whole, [min(cut % (len(pixels) + 1) for cut in cuts)], between=between) if between else whole
    )
    assert (accepts(recut(whole, cuts, between=between), Check.FULL) is not None) == decodes(least)


def test_a_decoder_is_called_a_few_times_however_small_the_chunks_of_a_png() -> None:
    noise = BytesIO()
    Image.frombytes("RGB", (300, 300), random.Random(1).randbytes(270_000)).save(noise, "PNG")
    data = recut(noise.getvalue(), [*range(0, 270_000, 100)])
    called: list[str] = []

    def watch(_frame: FrameType, event: str, function: BuiltinFunctionType) -> None:
        if event == "c_call":
            called.append(f"{type(function.__self__).__name__}.{function.__name__}")

    sys.setprofile(watch)
    try:
        examine(data, Check.FULL)
    finally:
        sys.setprofile(None)
    assert called.count("ImagingDecoder.decode") == 3


def test_a_warning_made_an_error_does_not_escape() -> None:
    no_frames = chunk(b"acTL", struct.pack(">II", 0, 0))
    assert "Invalid APNG" in reason(png(header(), no_frames, *PIXELS), Check.FULL)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A picture with some bits flipped and some bytes lost, doubled or overwritten."""
    data = bytearray(draw(st.sampled_from(sorted(PICTURES.values()))))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data) - 1))
        length = draw(st.integers(0, 8))
        data[start : start + length] = draw(st.binary(max_size=8))
        data = data or bytearray(b"?")
    return bytes(data)


def full_implies_quick(data: bytes) -> None:
    full, quick = accepts(data, Check.FULL), accepts(data, Check.QUICK)
    assert full is None or full == quick


@given(damaged())
@settings(max_examples=400, deadline=None)
def test_whatever_is_damaged_the_full_check_accepts_nothing_that_the_quick_one_refuses(data: bytes) -> None:
    full_implies_quick(data)


@given(st.sampled_from([PNG[:8], START, WEBP[:12], GIF[:6], PNG[:33], JPEG[:-200]]), st.binary(max_size=200))
@settings(deadline=None)
def test_noise_after_a_good_beginning_is_corrupt_or_a_picture(beginning: bytes, noise: bytes) -> None:
    full_implies_quick(beginning + noise)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"PLTE", b"tRNS", b"IDAT", b"acTL", b"fcTL", b"iCCP", b"zTXt", b"eXIf"]),
            st.binary(max_size=40),
        ),
        max_size=5,
    )
)
@settings(deadline=None)
def test_png_chunks_with_true_checksums_and_senseless_content_are_corrupt_or_a_picture(
    chunks: list[tuple[bytes, bytes]],
) -> None:
    full_implies_quick(png(header(), *(chunk(*one) for one in chunks), *PIXELS))


def test_the_quick_check_does_without_a_decoder() -> None:
    script = (
        "import sys; from batchgen.imaging import *\n"
        "print(examine(sys.stdin.buffer.read(), Check.QUICK).width, 'PIL' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], input=PNG, capture_output=True, check=True)
    assert done.stdout.split() == [str(WIDTH).encode(), b"False"]


def test_the_first_pictures_may_come_in_many_threads_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.webp").write_bytes(WEBP)
    (tmp_path / "b.png").write_bytes(PNG)
    script = (
        "import sys; from pathlib import Path; from concurrent.futures import ThreadPoolExecutor as Pool\n"
        "from batchgen.imaging import *\n"
        "data = [Path(name).read_bytes() for name in sys.argv[1:]] * 8\n"
        "print([p.width for p in Pool(8).map(lambda d: examine(d, Check.FULL), data)] == [23] * 16)"
    )
    names = [str(tmp_path / "a.webp"), str(tmp_path / "b.png")]
    done = subprocess.run([sys.executable, "-c", script, *names], capture_output=True, check=True)
    assert done.stdout == b"True\n"


def test_threads_do_not_disturb_each_other() -> None:
    bodies = [*PICTURES.values(), PNG[:-9], JPEG[:-9]] * 20
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda body: accepts(body, Check.FULL), bodies))
    assert together == [accepts(body, Check.FULL) for body in bodies]


def parts(name: str, count: int) -> bytes:
    """A whole picture with so many empty parts more."""
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, name)
    data = file.getvalue()
    if name == "PNG":
        empty = struct.pack(">I", 0) + b"teSt" + struct.pack(">I", zlib.crc32(b"teSt"))
        return data[:-12] + empty * count + data[-12:]
    if name == "JPEG":
        return data[:2] + b"\xff\xfe\x00\x02" * count + data[2:]
    body = data[8:] + b"ABCD\0\0\0\0" * count
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
def test_a_picture_of_too_many_parts_is_refused_before_it_costs_a_minute(name: str) -> None:
    assert examine(parts(name, 5000), Check.FULL).width == 8
    data = parts(name, 2_000_000)
    began = time.process_time()
    assert "parts is not plausible" in reason(data, Check.FULL)
    assert time.process_time() - began < 0.5


def test_a_progressive_jpeg_of_too_many_scans_is_refused_before_it_is_decoded() -> None:
    file = BytesIO()
    Image.new("L", (64, 64)).save(file, "JPEG", progressive=True)
    whole = file.getvalue()
    scan = whole[whole.rfind(b"\xff\xda") : -2]
    assert examine(whole[:-2] + scan * 50 + b"\xff\xd9", Check.FULL).width == 64
    assert "of 106 scans is not plausible" in reason(whole[:-2] + scan * 100 + b"\xff\xd9")


def test_large_pictures_are_decoded_one_at_a_time() -> None:
    """Four at once would take four times the memory: a gigabyte each, of a lossless WebP."""
    file = BytesIO()
    Image.new("1", (5000, 5000)).save(file, "PNG")
    with ThreadPoolExecutor(2) as pool:
        with imaging._ONE_LARGE:
            large = pool.submit(examine, file.getvalue(), Check.FULL)
            assert pool.submit(examine, parts("PNG", 0), Check.FULL).result(10).width == 8
            with pytest.raises(TimeoutError):
                large.result(0.3)
        assert large.result(10).width == 5000
