"""
How do pictures look: blank, or like one another?

After the buying, every picture that nobody has looked at yet is decoded once more, small, and how it looks is
kept in the ledger by its content. Nothing is judged: the table says which pictures are blank and which look
like one before them (`alike`), and whether that is a fault is for its owner to say.
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from batchgen import imaging
from batchgen.errors import CorruptImageError, StorageError
from batchgen.records import Look, Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchgen.ledger import Ledger, Reader
    from batchgen.records import Image
    from batchgen.store import Pictures

logger = logging.getLogger("batchgen")

BLANK: Final = 4
"""
Of 255: a picture is blank where no colour channel varies by more over its 36 × 36 means. Noise is gone in the
mean of some hundred pixels (of a megapixel, up to a deviation of 10), while a line of a pixel's width, a
faint gradient, or the shadow of something white on white are not.
"""

_SIDES: Final = (36, 36)
_HASHED: Final = (9, 4)
_THREADS: Final = min(4, max(2, os.cpu_count() or 1))
"""Each holds one picture and what it decodes to."""
_AT_ONCE: Final = 64
"""Pictures between two commits, and between two questions whether to go on."""
_NAMED: Final = 20
_PLAIN: Final = frozenset({"RGB", "L", "CMYK"})
"""Modes of which means can be taken as they are."""


class Seen(Value, frozen=True, kw_only=True):
    """What came of looking at the pictures of a run directory."""

    looked_at: int
    unreadable: int
    """Pictures that are gone, or are no longer what was bought."""
    left: int
    """Pictures not come to."""


def look_at_all(
    reader: Reader,
    ledger: Ledger,
    store: Pictures,
    *,
    on_look: Callable[[int, int], None] | None,
    stopped: Callable[[], bool],
) -> Seen:
    """
    Look at every picture of a run directory that nobody has looked at; one that cannot be read is named.

    :param on_look: called with how many of how many are done.
    :param stopped: whether to leave the rest for another time; what is looked at is kept.
    :raises StorageError: the ledger cannot be read or written.
    """
    total, after, done, unreadable = reader.count_unseen(), "", 0, 0
    with ThreadPoolExecutor(_THREADS) as threads:
        while not stopped() and (page := reader.unseen(after=after, most=_AT_ONCE)):
            found = {}
            pictures = [image for _, image in page]
            looks = threads.map(lambda image: _looked(store, image), pictures)
            for image, seen in zip(pictures, looks, strict=True):
                if isinstance(seen, Look):
                    found[image.sha256] = seen
                    continue
                unreadable += 1
                if unreadable <= _NAMED:
                    logger.warning("%s: it was not looked at: %s", image.file_name, seen)
            ledger.looked(found)
            after, done = page[-1][0], done + len(page)
            if on_look is not None:
                on_look(done, max(done, total))
    if unreadable > _NAMED:
        logger.warning("… and %d more pictures", unreadable - _NAMED)
    # Content that one row has lost and another has not is seen and unreadable.
    left = max(0, reader.count_unseen() - unreadable) if stopped() else 0
    return Seen(looked_at=done - unreadable, unreadable=unreadable, left=left)


def _looked(store: Pictures, image: Image) -> Look | str:
    """How a picture looks, or why nobody can tell."""
    try:
        data = store.read(image.file_name)
    except StorageError as cause:
        return str(cause)
    if data is None:
        return "it is gone"
    if sha256(data).hexdigest() != image.sha256:
        return "it was changed after it was bought"
    try:
        return look(data, image.width, image.height)
    except CorruptImageError as cause:
        return str(cause)


def look(data: bytes, width: int, height: int) -> Look:
    """
    Tell how a picture looks; where it is transparent, before white.

    Its hash is dHash (Neal Krawetz, "Kind of Like That",
    https://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html), half of it along the
    rows, half along the columns (Ben Hoyt, https://benhoyt.com/writings/duplicate-image-detection/): of 9 × 4
    means of grey each, a bit for every two neighbours, set where the second is brighter by more than a level,
    so that what is flat stays flat under noise. It knows no colours.

    Blocks: 1–4 ms for a JPEG of a megapixel, which is decoded at an eighth of its size, 6–25 ms for others.

    :raises CorruptImageError: it does not decode.
    """
    from PIL import Image as Pillow  # noqa: PLC0415  a run that does not look pays nothing for it
    from PIL import ImageStat  # noqa: PLC0415

    with imaging.opened(data, (width, height), "PNG", "JPEG", "WEBP", "GIF") as image:
        # The smallest of its sizes that has at least two pixels for each mean.
        image.draft("RGB", (2 * _SIDES[0], 2 * _SIDES[1]))
        seen = image if image.mode in _PLAIN else image.convert("RGBA")
        means = seen.resize(_SIDES, Pillow.Resampling.BOX)
        if means.mode == "RGBA":
            means = Pillow.alpha_composite(Pillow.new("RGBA", _SIDES, "white"), means)
        means = means.convert("RGB")
        grey = means.convert("L")
    phash = 0
    for turned in (grey, grey.transpose(Pillow.Transpose.TRANSPOSE)):
        cells = turned.resize(_HASHED, Pillow.Resampling.BOX).tobytes()
        for place in range(len(cells)):
            if place % _HASHED[0]:
                phash = phash << 1 | (cells[place] > cells[place - 1] + 1)
    spread = max(highest - lowest for lowest, highest in ImageStat.Stat(means).extrema)
    return Look(phash=phash, blank=spread <= BLANK)
