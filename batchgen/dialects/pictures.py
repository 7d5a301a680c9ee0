"""
Which pictures does a piece of an answer hold, however the gateway wrote them down?

Pictures come as data URLs (alone, in Markdown, in prose), as plain base64, or as links. What decodes and
opens with the signature of a picture counts; the full decode is done elsewhere. Strings of 30 MB are searched
with `str.find` and linear patterns only.
"""

from __future__ import annotations

import re
import urllib.parse
from typing import TYPE_CHECKING, Any

import pybase64

from batchgen.dialects.lenient import string
from batchgen.records import EncodedImage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_DATA = "data:image/"
# A data URL, or the bare base64 of Gemini's `inlineData` and of the Images API's `b64_json`.
_BEFORE_PAYLOAD = re.compile(
    rb'data(?::image/[a-z0-9.+-]{1,40};base64,|"\s{0,9}:\s{0,9}"(?=iVBORw0KGgo|/9j/|UklGR|R0lGOD))'
    rb'|"b64_json"\s{0,9}:\s{0,9}"'
)
BASE64_OPENINGS = ("iVBORw0KGgo", "/9j/", "UklGR", "R0lGOD")
_BARE_LENGTH = 1000
_URL_LENGTH = 8192
_ALT_LENGTH = 1000
_DEPTH = 5
_MOST = 64
_MOST_LINKS = 1000

# A data URL in prose ends at the first delimiter, or goes on in wrapped lines.
_RUN = r"[A-Za-z0-9+/=_-]"
_PLAIN_DATA = re.compile(rf"[^\s\"'<>()\[\]]*(?:(?:\r?\n{_RUN}{{40,}})+(?:\r?\n{_RUN}+)?)?")
_LINK = re.compile(r"https?://[^\s/?#\"'<>\\]+[^\s\"'<>\\]*", re.IGNORECASE)
_LINK_TARGET = re.compile(
    r"<?(http[^\s()<>]*(?:\([^\s()<>]*\)[^\s()<>]*)*)>?(?:\s+[\"'(][^\"')]{0,1000}[\"')]\s*)?\)"
)
_TITLE = re.compile(r"\s+[\"'].*", re.DOTALL)
_PERCENT = (
    ("%2B", "+"),
    ("%2b", "+"),
    ("%2F", "/"),
    ("%2f", "/"),
    ("%3D", "="),
    ("%3d", "="),
    ("%0A", ""),
    ("%0D", ""),
)
_URL_SAFE = str.maketrans("-_", "+/")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")
_FOREIGN_TYPES = ("audio/", "video/", "text/")
_CARRIERS = ("image_url", "image", "inline_data", "inlineData", "file_data", "fileData", "source")
_PICTURE_KEYS = (*_CARRIERS, "b64_json", "base64", "data", "result", "url", "file_uri", "fileUri")
_TYPE_KEYS = ("mimeType", "mime_type", "media_type")


class Pictures:
    """The distinct pictures of one answer, gathered piece by piece in its order."""

    def __init__(self, lifted: Mapping[str, bytes]) -> None:
        """:param lifted: what `lift` took out of the answer."""
        self._lifted = lifted
        self.broken = False
        """Something stood where a picture belongs and was none."""
        self._inline: list[
            tuple[bytes, bool]
        ] = []  # no dict: to hash a picture takes longer than to decode it
        self._links: dict[str, bool] = {}

    def text(self, text: str, *, draft: bool = False) -> str:
        """
        Take the pictures out of a text and return what is left of it.

        A link counts when it is a Markdown image or the whole text, never inside prose.
        """
        whole = text.strip()
        if len(whole) <= _URL_LENGTH and _LINK.fullmatch(whole):
            self._link(whole, draft=draft)
            return ""
        if self._bare(whole, draft=draft):
            return ""
        return self._cut_links(self._cut_data(text, draft=draft), draft=draft).strip()

    def entry(self, value: object, *, draft: bool = False, depth: int = 0) -> None:
        """Take the pictures of a value that stands where a picture belongs: string, object or array."""
        if isinstance(value, str):
            self._value(value, draft=draft)
        elif depth < _DEPTH and isinstance(value, list):
            for item in value[:_MOST]:
                self.entry(item, draft=draft, depth=depth + 1)
        elif depth < _DEPTH and isinstance(value, dict) and not _is_foreign(value):
            marked = draft or value.get("thought") is True
            for key in _PICTURE_KEYS:
                if value.get(key) is not None:
                    self.entry(value[key], draft=marked, depth=depth + 1)

    def found(self, *, promote: bool) -> tuple[EncodedImage, ...]:
        """
        All pictures in order, links only when there is no final picture among the bytes.

        :param promote: Let the last draft be the picture when there is nothing else: endpoints mark their
            only picture so. False after a refusal, whose drafts are no answer.
        """
        images = [EncodedImage(data=data, draft=draft) for data, draft in self._inline]
        if all(image.draft for image in images):
            images += [EncodedImage(url=url, draft=draft) for url, draft in self._links.items()]
        if images and all(image.draft for image in images):
            if not promote:
                return ()
            images[-1] = EncodedImage(data=images[-1].data, url=images[-1].url)
        return tuple(images)

    def _value(self, value: str, *, draft: bool) -> None:
        value = value.strip()
        if value[:5].lower() == "data:":
            self._data_url(value, 0, len(value), draft=draft)
        elif value[:4].lower() == "http":
            self._link(value, draft=draft)
        else:
            self._add(self._decoded(value), draft=draft)

    def _data_url(self, text: str, start: int, end: int, *, draft: bool) -> None:
        comma = text.find(",", start, min(end, start + _ALT_LENGTH))
        encoded = comma >= 0 and "base64" in text[start:comma].lower()
        self._add(self._decoded(text[comma + 1 : end]) if encoded else b"", draft=draft)

    def _decoded(self, payload: str, *, clean: bool = False) -> bytes:
        return self._lifted.get(payload) or unbase64(payload, clean=clean)

    def _bare(self, whole: str, *, draft: bool) -> bool:
        """Take a text that is nothing but base64, or one data URL of whatever type."""
        header = whole[:_ALT_LENGTH].find(",") + 1 if whole.startswith("data:") else 0
        if header == 0 and (len(whole) < _BARE_LENGTH or not whole.startswith(BASE64_OPENINGS)):
            return False
        data = self._decoded(whole[header:], clean=header > 0)
        prose = header > 0 or " " in whole[:_BARE_LENGTH]
        if prose and not is_picture(data):
            return False
        self._add(data, draft=draft)
        return True

    def _add(self, data: bytes, *, draft: bool) -> None:
        """Keep a picture once, at the last place where it stands as a final one."""
        if not is_picture(data):
            self.broken = True
        elif len(self._inline) < _MOST and not (draft and any(data == known for known, _ in self._inline)):
            self._inline = [(known, marked) for known, marked in self._inline if known != data]
            self._inline.append((data, draft))

    def _link(self, url: str, *, draft: bool) -> None:
        if len(url) > _URL_LENGTH or not _is_link(url):
            self.broken = True
        elif len(self._links) < _MOST and (not draft or url not in self._links):
            self._links.pop(url, None)
            self._links[url] = draft

    def _cut_data(self, text: str, *, draft: bool) -> str:
        kept, position = [], 0
        for _ in range(_MOST):
            at = text.find(_DATA, position)
            if at < 0:
                break
            start, stop, end = _data_span(text, at)
            kept.append(text[position : max(start, position)])
            self._data_url(text, at, stop, draft=draft)
            position = end
        return "".join([*kept, text[position:]]) if kept else text

    def _cut_links(self, text: str, *, draft: bool) -> str:
        kept, position = [], 0
        for _ in range(_MOST_LINKS):
            at = text.find("](", position)
            if at < 0:
                break
            target = _LINK_TARGET.match(text, at + 2)
            opening = text.rfind("[", max(position, at - _ALT_LENGTH), at)
            end = target.end() if target is not None else at + 2
            if target is not None and opening > position - 1 and text[max(0, opening - 1) : opening] == "!":
                kept.append(text[position : opening - 1])
                self._link(target[1], draft=draft)
            else:
                kept.append(text[position:end])
            position = end
        return "".join([*kept, text[position:]]) if kept else text


def lift(body: bytes | bytearray) -> tuple[bytes | bytearray, dict[str, bytes]]:
    """
    Take large pictures out of the text of an answer before it is read as JSON.

    So 30 MB need not become a string, and that one its parts. Only pictures in the standard form of base64,
    up to a quote or a bracket, are taken: they mean the same either way. All else stays where it is.

    :return: the text with a name in the place of each payload, and the decoded payloads by name.
    """
    parts: list[bytes | bytearray] = []
    lifted: dict[str, bytes] = {}
    position = 0
    for start, end in _payloads(body):
        try:
            with memoryview(body) as whole, whole[start:end] as payload:
                data = pybase64.b64decode(payload, validate=True)
        except ValueError:
            continue
        name = f"lifted-{len(lifted)}"
        lifted[name] = data
        parts += [body[position:start], name.encode()]
        position = end
    return (b"".join([*parts, body[position:]]) if lifted else body), lifted


def _payloads(body: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Where the payloads of data URLs and of the Images API start and end that are worth the trouble."""
    position = 0
    for _ in range(_MOST):
        opening = _BEFORE_PAYLOAD.search(body, position)
        end = body.find(b'"', opening.end()) if opening is not None else -1
        if opening is None or end < 0:
            return
        bracket = body.find(b")", opening.end(), end)
        position = end if bracket < 0 else bracket
        if position - opening.end() >= _BARE_LENGTH:
            yield opening.end(), position


def unbase64(text: str, *, clean: bool = False) -> bytes:
    """
    The bytes of base64 as gateways write it: wrapped, percent-encoded, unpadded, URL-safe; b'' for none.

    :param text: What should be base64.
    :param clean: Take nothing but the standard form.
    """
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError:
        if clean:
            return b""
    if "%" in text:
        for coded, sign in _PERCENT:
            text = text.replace(coded, sign)
    text = "".join(text.split())
    text = text.translate(_URL_SAFE).rstrip("=")
    try:
        return pybase64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return b""


def is_picture(data: bytes) -> bool:
    """Tell whether bytes open with the signature of PNG, JPEG, GIF, WebP, HEIC or AVIF."""
    if data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")):
        return True
    if data.startswith(b"RIFF"):
        return data[8:12] == b"WEBP"
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS


def _is_link(url: str) -> bool:
    try:
        return bool(_LINK.fullmatch(url)) and bool(urllib.parse.urlsplit(url).hostname)
    except ValueError:
        return False


def _is_foreign(value: Mapping[str, Any]) -> bool:
    return any(string(value.get(key)).lower().startswith(_FOREIGN_TYPES) for key in _TYPE_KEYS)


def _data_span(text: str, at: int) -> tuple[int, int, int]:
    """Where what surrounds the data URL at `at` starts, where the URL stops, where its surroundings end."""
    if not text[max(0, at - 3) : at].endswith(("](", "](<")):
        plain = _PLAIN_DATA.match(text, at)
        stop = plain.end() if plain is not None else at
        return at, stop, stop
    close = text.find(")", at)
    close = len(text) if close < 0 else close
    title = _TITLE.search(text, max(at, close - _ALT_LENGTH), close)
    stop = title.start() if title is not None else close
    stop -= text.startswith(">", stop - 1)
    opening = text.rfind("[", max(0, at - _ALT_LENGTH), at)
    start = opening if opening >= 0 else at
    if start > 0 and text[start - 1] == "!":
        start -= 1
    return start, stop, min(close + 1, len(text))
