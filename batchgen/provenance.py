"""
How does a picture say where it comes from?

As an XMP packet in its own file: prompt, model, provider, request, date, and IPTC's word for how it was made.
The packet goes between the parts of the file, so that no pixel is touched and nothing else of it is lost.

Sources: IPTC Photo Metadata Standard 2025.1 and its user guide
(https://www.iptc.org/std/photometadata/documentation/userguide/#_guidance_for_using_digital_source_type);
XMP parts 1 and 3 (ISO 16684-1, Adobe 2020); PNG (W3C, third edition); WebP (RFC 9649).
"""

from __future__ import annotations

import html
import logging
import re
import struct
import zlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from batchgen.records import Value
from batchgen.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchgen.records import Task

logger = logging.getLogger("batchgen")

MAX_TEXT = 24_000
"""Bytes of a text in a packet, escaped. A JPEG segment has 64 KB in all, and the prompt is told twice."""

_MAX_NAME = 2_000
_SOURCES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_PACKET = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
   <dc:description><rdf:Alt><rdf:li xml:lang="x-default">{prompt}</rdf:li></rdf:Alt></dc:description>
   <xmp:CreatorTool>{software}</xmp:CreatorTool>
   <xmp:CreateDate>{date}</xmp:CreateDate>
   <photoshop:DateCreated>{date}</photoshop:DateCreated>
   <photoshop:Credit>{credit}</photoshop:Credit>
{request}\
   <Iptc4xmpExt:DigitalSourceType>{source}</Iptc4xmpExt:DigitalSourceType>
   <Iptc4xmpExt:AIPromptInformation>{prompt}</Iptc4xmpExt:AIPromptInformation>
{system}\
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""
_REQUEST = "   <photoshop:TransmissionReference>{}</photoshop:TransmissionReference>\n"
_SYSTEM = "   <Iptc4xmpExt:AISystemUsed>{}</Iptc4xmpExt:AISystemUsed>\n"
# What XML 1.0 cannot hold, escaped or not (https://www.w3.org/TR/xml/#charsets).
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_CUT_ENTITY = re.compile("&[^;]*$")

_IN_JPEG, _MORE_IN_JPEG = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
_IN_PNG = b"XML:com.adobe.xmp\0"
_BARE = frozenset({0x01, 0xFF, *range(0xD0, 0xD8)})
_SIGNED = "it is signed (C2PA), and any change would break that"
_TOLD = "it brings XMP of its own"


class Origin(Value, frozen=True, kw_only=True):
    """Where a picture comes from."""

    prompt: str
    """Of any length and content; what a packet cannot hold becomes U+FFFD, what is too long ends in `…`."""
    model: str
    """As it was sent."""
    provider: str
    simulated: bool
    request_id: str | None
    made: float
    """Seconds since 1970."""
    composed: bool
    """Whether other pictures went along with the prompt."""


class Labels:
    """Puts the origin of a run's pictures into them; what is left as it came is told once for each reason."""

    def __init__(self, *, provider: str, simulated: bool, wall: Callable[[], float]) -> None:
        """:param wall: seconds since 1970."""
        self._provider = provider
        self._simulated = simulated
        self._wall = wall
        self._told: set[str] = set()

    def on(
        self, data: bytes | bytearray, extension: str, *, stem: str, task: Task, request_id: str | None
    ) -> bytes | bytearray:
        """
        Return the picture of a task with its origin in it, or as it is; from any thread.

        :param stem: its file name, without extension.
        :param request_id: of the answer that brought it; no key in it.
        """
        origin = Origin(
            prompt=task.prompt,
            model=task.model,
            provider=self._provider,
            simulated=self._simulated,
            request_id=request_id,
            made=self._wall(),
            composed=bool(task.references),
        )
        try:
            return embed(data, extension, origin)
        except Kept as reason:
            if str(reason) not in self._told:
                self._told.add(str(reason))
                logger.warning(
                    "images/%s.%s: its origin was not put into it: %s; others like it will not be told of",
                    *(stem, extension, reason),
                )
            return data


class Kept(Exception):  # noqa: N818  a reason, not a defect
    """The picture is to stay as it was sent; says why."""


def embed(data: bytes | bytearray, extension: str, origin: Origin) -> bytes:
    """
    Return the file of a picture with its origin in it, its pixels and all its other parts as they were.

    :param data: a whole picture, as `imaging.examine` lets pass.
    :param extension: what it was found to be.
    :raises Kept: it brings provenance of its own, which is not touched, or there is no place for ours.
    """
    if extension not in _WRITERS:
        raise Kept(f"a {extension.upper()} is left as it came")
    with memoryview(data) as view:
        try:
            return b"".join(_WRITERS[extension](view, packet(origin)))
        except (IndexError, struct.error) as cause:
            raise Kept("its parts are not where they ought to be") from cause


def packet(origin: Origin) -> bytes:
    """The XMP packet: UTF-8, read-only, 60,000 bytes at most."""
    made = datetime.fromtimestamp(origin.made, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    if origin.simulated:
        # No model was asked: the painter is a plain algorithm, and the vocabulary has a word for that.
        source, credit, system = "algorithmicMedia", "simulated picture, no AI model was asked", None
    else:
        source = "compositeWithTrainedAlgorithmicMedia" if origin.composed else "trainedAlgorithmicMedia"
        credit = system = f"{origin.model} via {origin.provider}"
    return _PACKET.format(
        prompt=_text(origin.prompt, MAX_TEXT),
        software=f"batchgen {__version__}",
        date=made,
        credit=_text(credit, _MAX_NAME),
        request=_REQUEST.format(_text(origin.request_id, _MAX_NAME)) if origin.request_id else "",
        source=_SOURCES + source,
        system=_SYSTEM.format(_text(system, _MAX_NAME)) if system else "",
    ).encode()


def _text(text: str, most: int) -> str:
    """Any text as XML may hold it, of so many bytes at most."""
    escaped = html.escape(_NOT_XML.sub("\ufffd", text[: most + 1]), quote=False).replace("\r", "&#13;")
    encoded = escaped.encode()
    if len(encoded) <= most and len(text) <= most:
        return escaped
    return _CUT_ENTITY.sub("", encoded[: most - 3].decode(errors="ignore")) + "…"


def _jpeg(view: memoryview, xmp: bytes) -> Iterator[bytes | memoryview]:
    """As an APP1 segment behind JFIF and Exif, and before APP2, whose offsets count from itself."""
    place, leading = 2, True
    for marker, start, end in _segments(view):
        head = bytes(view[start + 4 : min(end, start + 40)])
        if marker == 0xE1 and head.startswith((_IN_JPEG, _MORE_IN_JPEG)):
            raise Kept(_TOLD)
        if marker == 0xEB and head.startswith(b"JP"):
            raise Kept(_SIGNED)
        leading = leading and marker in {0xE0, 0xE1}
        place = end if leading else place
    yield from (view[:place], struct.pack(">BBH", 0xFF, 0xE1, 2 + len(_IN_JPEG) + len(xmp)), _IN_JPEG, xmp)
    yield view[place:]


def _segments(view: memoryview) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of what comes before the first scan (ITU-T T.81, B.1.1)."""
    at = 2
    while view[at + 1] != 0xDA:
        marker = view[at + 1]
        if marker in _BARE:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + struct.unpack_from(">H", view, at + 2)[0]
        yield marker, at, end
        at = end


def _png(view: memoryview, xmp: bytes) -> Iterator[bytes | memoryview]:
    """As an uncompressed iTXt chunk right behind the header."""
    at, kind, header = 8, b"", 33
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", view, at)
        body = view[at + 8 : at + 8 + min(length, 64)]
        if kind == b"iTXt" and bytes(body).startswith(_IN_PNG):
            raise Kept(_TOLD)
        if kind == b"caBX":
            raise Kept(_SIGNED)
        at += 12 + length
    # No compression, no language, no translated keyword.
    chunk = b"".join((b"iTXt", _IN_PNG, b"\0\0\0\0", xmp))
    yield from (view[:header], struct.pack(">I", len(chunk) - 4), chunk, struct.pack(">I", zlib.crc32(chunk)))
    yield view[header:]


def _webp(view: memoryview, xmp: bytes) -> Iterator[bytes | memoryview]:
    """As the last chunk, in the extended format; a plain file gets that format's header."""
    end, at, extended, pixels = 8 + struct.unpack_from("<I", view, 4)[0], 12, None, None
    while at + 8 <= end:
        kind, length = struct.unpack_from("<4sI", view, at)
        if kind == b"XMP ":
            raise Kept(_TOLD)
        if kind == b"C2PA":
            raise Kept(_SIGNED)
        if kind == b"VP8X" and extended is None:
            extended = at
        if kind in {b"VP8 ", b"VP8L"} and pixels is None:
            pixels = at
        at += 8 + length + (length & 1)
    if extended is None:
        head, body = _extended(view, pixels or 12), view[12:end]
    else:
        flags = extended + 8
        head, body = b"".join((view[12:flags], bytes([view[flags] | 4]))), view[flags + 1 : end]
    # Every chunk begins at an even place; the last byte of an odd one may be missing at the end of a file.
    pad, after = b"\0" * (len(xmp) & 1), b"\0" * (end & 1)
    size = 4 + len(head) + len(body) + len(after) + 8 + len(xmp) + len(pad)
    yield from (b"RIFF", struct.pack("<I", size), b"WEBP", head, body, after)
    yield from (b"XMP ", struct.pack("<I", len(xmp)), xmp, pad, view[end:])


def _extended(view: memoryview, at: int) -> bytes:
    """The header of the extended format for a file that is one frame (RFC 9649, 2.7)."""
    if bytes(view[at : at + 4]) == b"VP8L":
        (bits,) = struct.unpack_from("<I", view, at + 9)
        width, height, alpha = bits & 0x3FFF, bits >> 14 & 0x3FFF, bits >> 28 & 1
    else:
        wide, high = struct.unpack_from("<HH", view, at + 14)
        width, height, alpha = (wide & 0x3FFF) - 1, (high & 0x3FFF) - 1, 0
    size = struct.pack("<HBHB", width & 0xFFFF, width >> 16, height & 0xFFFF, height >> 16)
    return b"".join((b"VP8X", struct.pack("<II", 10, 4 | alpha << 4), size))


_WRITERS = {"jpg": _jpeg, "png": _png, "webp": _webp}
