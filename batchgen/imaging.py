"""
Is this a whole picture, and what is it?

The bytes alone answer: what was declared with them is not asked. What follows the end of a picture (padding,
a gain map, a maker's trailer) is let pass: decoders ignore it, and to refuse it would buy the picture again.

Sources: PNG (W3C, third edition), JPEG (ITU-T T.81), WebP (RFC 9649), VP8 (RFC 6386), GIF89a (CompuServe).
"""

from __future__ import annotations

import re
import struct
import threading
import zlib
from bisect import bisect_right
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from io import BytesIO
from itertools import accumulate
from typing import IO, TYPE_CHECKING, NamedTuple, cast

from batchgen.errors import CorruptImageError
from batchgen.records import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from PIL.ImageFile import ImageFile

# Pillow's own MAX_IMAGE_PIXELS, above which it merely warns. Held here, before a decoder sees the picture:
# only a filter could make the warning an error, and filters belong to the whole process, not to a thread.
MAX_PIXELS = 1024**3 // 4 // 3

# No picture needs that many chunks, segments or scans. Each part takes microseconds here and in a decoder,
# each scan of a progressive JPEG a pass over all its pixels: a small file could take hours.
_MOST_PARTS = 65_536
_MOST_SCANS = 100
# Bytes a decoder is given at once: between two pieces it must take the interpreter back from other threads.
# Below the 128 KB from which on glibc asks the kernel for memory, and gives it back, with every piece.
_PIECE = 120 * 1024
# Above, pictures are decoded one at a time: a lossless WebP of a few bytes may take a gigabyte.
_LARGE = 20_000_000
_ONE_LARGE = threading.Lock()

_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# In a scan 0xFF is followed by 0x00, a restart or a fill byte; all else is the next marker (T.81, B.1.1.5).
_JPEG_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


EXTENSIONS = ("png", "jpg", "webp", "gif")
"""What `Picture.extension` may be."""


class Check(StrEnum):
    """
    How hard to look at a picture.

    `QUICK` walks the structure to its end. It sees a cut, foreign bytes and, in PNG, every flipped bit (CRC).
    It does not see flipped bits inside the pixels of JPEG, WebP and GIF, nor a PNG that was badly compressed.

    `FULL` also decodes every pixel of the (first) frame. What a decoder itself makes up for stays unseen:
    JPEG has no checksum, and libjpeg paints over a damaged scan as long as its markers are in order.
    """

    FULL = "full"
    QUICK = "quick"


class Picture(Value, frozen=True, kw_only=True):
    """What a picture is by its own bytes."""

    mime: str
    extension: str
    """One of `EXTENSIONS`."""
    width: int
    """Pixels as stored: an EXIF rotation is not applied."""
    height: int


class _Size(NamedTuple):
    width: int
    height: int


class _Format(NamedTuple):
    pillow: str
    mime: str
    extension: str
    measure: Callable[[memoryview], _Size]


def examine(data: bytes | bytearray | memoryview, check: Check) -> Picture:
    """
    Tell what picture `data` holds; `CorruptImageError` with the reason when it is none or not whole.

    Blocks: about 0.3 ms a megabyte for `QUICK`, 5–30 ms for `FULL` (lossy WebP 65), nearly all
    of it with the GIL released. Sets nothing global, so threads may call it at once.
    """
    with memoryview(data) as view:
        known = _sniff(view)
        try:
            size = known.measure(view)
        except (IndexError, struct.error) as error:
            raise _cut(view) from error
        if not (size.width > 0 and size.height > 0 and size.width * size.height <= MAX_PIXELS):
            raise CorruptImageError(f"a picture of {size.width} × {size.height} pixels is not plausible")
        if check is Check.FULL:
            whole = _Sewn(_png_sewn(view)) if known.pillow == "PNG" else data
            with opened(whole, size, known.pillow) as image:
                image.load()
                size = _Size(*image.size)
    return Picture(mime=known.mime, extension=known.extension, width=size.width, height=size.height)


def _sniff(view: memoryview) -> _Format:
    head = bytes(view[:16])
    for magic, known in _MAGIC:
        if magic.match(head):
            return known
    if not head:
        raise CorruptImageError("an empty body")
    raise CorruptImageError(f"no PNG, JPEG, WebP or GIF: it starts with {head!r}")


def _cut(view: memoryview) -> CorruptImageError:
    return CorruptImageError(f"cut off after {len(view)} bytes")


def _crowded(name: str) -> CorruptImageError:
    return CorruptImageError(f"a {name} of more than {_MOST_PARTS} parts is not plausible")


def _png(view: memoryview) -> _Size:
    size, pixels = _png_header(view), False
    for kind, at, end in _png_chunks(view):
        (crc,) = struct.unpack_from(">I", view, end - 4)
        if zlib.crc32(view[at + 4 : end - 4]) != crc:
            raise CorruptImageError(f"the checksum of PNG chunk {kind!r} at byte {at} is wrong")
        pixels = pixels or kind == b"IDAT"
    if not pixels:
        raise CorruptImageError("a PNG without pixels")
    return size


def _png_chunks(view: memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of each chunk, to the last."""
    end, kind = 8, b""
    for _ in range(_MOST_PARTS):
        at = end
        length, kind = struct.unpack_from(">I4s", view, at)
        end = at + 12 + length
        yield kind, at, end
        if kind == b"IEND":
            return
    raise _crowded("PNG")


def _png_sewn(view: memoryview) -> Iterator[bytes | memoryview]:
    """
    The same picture with its pixels in one chunk, whose checksums, already looked at, are left out.

    Where they are cut means nothing (W3C, 5.6), but a decoder is called once for each: encoders cut every
    8 or 64 KB, and with other threads at work that costs up to a fourth of a picture's CPU.
    """
    yield view[:8]
    sewn: list[memoryview] = []
    for kind, at, end in _png_chunks(view):
        if kind == b"IDAT":
            sewn.append(view[at + 8 : end - 4])
            continue
        if sewn:
            yield struct.pack(">I4s", sum(map(len, sewn)), b"IDAT")
            yield from sewn
            yield b"\0\0\0\0"
            sewn = []
        yield view[at:end]


def _png_header(view: memoryview) -> _Size:
    length, kind, width, height, depth, colour, packing, filtering, interlace = struct.unpack_from(
        ">I4sIIBBBBB", view, 8
    )
    known = depth in _PNG_DEPTHS.get(colour, ()) and packing == filtering == 0 and interlace <= 1
    if length != 13 or kind != b"IHDR" or not known:
        raise CorruptImageError("a PNG without a valid header")
    return _Size(width, height)


def _jpeg(view: memoryview) -> _Size:
    at, size, scans = 2, None, 0
    for _ in range(_MOST_PARTS):
        lead, marker = view[at], view[at + 1]
        if lead != 0xFF:
            raise CorruptImageError(f"a JPEG without a marker at byte {at}")
        if marker == 0xD9:
            break
        if marker == 0xFF or marker in _JPEG_BARE:
            at += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", view, at + 2)
        if marker < 0xC0 or marker == 0xD8 or length < 2:
            raise CorruptImageError(f"a JPEG with an impossible segment at byte {at}")
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", view, at + 5)
            size = _Size(width, height)
        at += 2 + length
        if marker == 0xDA:
            scans += 1
            at = _jpeg_scan_end(view, at)
    else:
        raise _crowded("JPEG")
    if scans > _MOST_SCANS:
        raise CorruptImageError(f"a JPEG of {scans} scans is not plausible")
    if size is None or not scans:
        raise CorruptImageError("a JPEG without pixels")
    return size


def _jpeg_scan_end(view: memoryview, at: int) -> int:
    found = _JPEG_SCAN_END.search(view, at)
    if found is None:
        raise _cut(view)
    return found.start()


def _webp(view: memoryview) -> _Size:
    (size,) = struct.unpack_from("<I", view, 4)
    end = 8 + size
    if end > len(view):
        raise _cut(view)
    canvas = pixels = None
    at = 12
    for _ in range(_MOST_PARTS):
        if at + 8 > end:
            break
        kind, length = struct.unpack_from("<4sI", view, at)
        body = view[at + 8 : at + 8 + length]
        at += 8 + length + (length & 1)
        if at - (length & 1) > end:
            raise CorruptImageError(f"WebP chunk {kind!r} is longer than its file")
        if kind == b"VP8X":
            canvas = _webp_canvas(body)
        elif kind in {b"VP8 ", b"VP8L"} and pixels is None:
            pixels = _vp8(body) if kind == b"VP8 " else _vp8l(body)
        elif kind == b"ANMF":
            pixels = canvas
    else:
        raise _crowded("WebP")
    if pixels is None:
        raise CorruptImageError("a WebP without pixels")
    return canvas or pixels


def _webp_canvas(body: memoryview) -> _Size:
    _flags, width, width_high, height, height_high = struct.unpack_from("<IHBHB", body)
    return _Size((width | width_high << 16) + 1, (height | height_high << 16) + 1)


def _vp8(body: memoryview) -> _Size:
    tag, tag_high, start, width, height = struct.unpack_from("<HB3sHH", body)
    first_partition = (tag | tag_high << 16) >> 5
    if tag & 1 or start != b"\x9d\x01\x2a" or 10 + first_partition > len(body):
        raise CorruptImageError("a WebP whose VP8 frame does not start as one")
    return _Size(width & 0x3FFF, height & 0x3FFF)


def _vp8l(body: memoryview) -> _Size:
    signature, bits = struct.unpack_from("<BI", body)
    if signature != 0x2F or bits >> 29:
        raise CorruptImageError("a WebP whose VP8L frame does not start as one")
    return _Size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)


def _gif(view: memoryview) -> _Size:
    width, height, flags = struct.unpack_from("<HHB", view, 6)
    at, framed = 13 + _gif_table(flags), False
    while (block := view[at]) != 0x3B:
        if block == 0x21:
            at = _gif_skip(view, at + 2)
            continue
        if block != 0x2C:
            raise CorruptImageError(f"a GIF with an unknown block at byte {at}")
        left, top, frame_width, frame_height, flags = struct.unpack_from("<HHHHB", view, at + 1)
        if not frame_width or not frame_height:
            raise CorruptImageError(f"a GIF with an empty frame at byte {at}")
        if not framed:
            # A first frame that juts out enlarges the picture, as decoders do it.
            width, height = max(width, left + frame_width), max(height, top + frame_height)
            framed = True
        at = _gif_skip(view, at + 11 + _gif_table(flags))
    if not framed:
        raise CorruptImageError("a GIF without pixels")
    return _Size(width, height)


def _gif_table(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _gif_skip(view: memoryview, at: int) -> int:
    while length := view[at]:
        at += 1 + length
    return at + 1


class _Sewn:
    """A file that lies in pieces, which no one has to hold as a whole; as much of one as decoders ask for."""

    def __init__(self, parts: Iterable[bytes | memoryview]) -> None:
        self._parts = [*parts]
        self._ends = [*accumulate(map(len, self._parts))]
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        """So many bytes, or as many as there are."""
        end = self._ends[-1] if size < 0 else min(self._at + size, self._ends[-1])
        found = []
        number = bisect_right(self._ends, self._at)
        while self._at < end:
            part, after = self._parts[number], self._ends[number]
            found.append(part[len(part) - (after - self._at) : len(part) - max(0, after - end)])
            self._at = min(after, end)
            number += 1
        return b"".join(found)

    def seek(self, offset: int, whence: int = 0) -> int:
        """As files have it."""
        self._at = max(0, offset + (0, self._at, self._ends[-1])[whence])
        return self._at

    def tell(self) -> int:
        """Where the next byte comes from."""
        return self._at


@contextmanager
def opened(
    data: bytes | bytearray | memoryview | _Sewn, size: tuple[int, int], *formats: str
) -> Iterator[ImageFile]:
    """
    Hold a picture in a decoder, which reads its pixels when they are asked for.

    :param size: its width and height in pixels: very large ones are held one at a time.
    :param formats: what it may be, in Pillow's words.
    :raises CorruptImageError: the decoder trips over it, here or while it is held.
    """
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415  a quick check does without

    # Pillow's plugins let through whatever their parsing trips over, and under `-W error` what they warn of.
    # A MemoryError is the machine's, not the picture's.
    failures = (
        ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError, SyntaxError, TypeError,
        ValueError, Warning, struct.error, zlib.error, Image.DecompressionBombError,
    )  # fmt: skip
    name = "/".join(formats)
    file = cast("IO[bytes]", data) if isinstance(data, _Sewn) else BytesIO(data)
    try:
        with (
            _ONE_LARGE if size[0] * size[1] > _LARGE else nullcontext(),
            Image.open(file, formats=formats) as image,
        ):
            image.decodermaxblock = _PIECE
            yield image
    except UnidentifiedImageError as error:
        # Its own message names an object in memory.
        raise CorruptImageError(f"a {name} that does not decode: its header makes no sense") from error
    except failures as error:
        raise CorruptImageError(f"a {name} that does not decode: {error}") from error


_GIF = _Format("GIF", "image/gif", "gif", _gif)
_MAGIC = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), _Format("PNG", "image/png", "png", _png)),
    (re.compile(rb"\xff\xd8\xff"), _Format("JPEG", "image/jpeg", "jpg", _jpeg)),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), _Format("WEBP", "image/webp", "webp", _webp)),
    (re.compile(rb"GIF8[79]a"), _GIF),
)
