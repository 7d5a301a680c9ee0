"""
Which of many pictures looks like one before it?

Two look the same where at most `WITHIN` of the 64 bits of their hashes differ. Hashes that differ in three
bits differ in one at most in one of their halves; so each half is looked up as it is, and with each bit of it
turned: these few places hold every picture in question and hardly any others, unless very many pictures share
half of all bits (multi-index hashing: Norouzi, Punjani, Fleet, CVPR 2012,
https://www.cs.toronto.edu/~norouzi/research/papers/multi_index_hashing.pdf).
"""

from __future__ import annotations

from array import array
from typing import Final

WITHIN: Final = 3
"""
Bits that may differ. Of copies that were halved, or compressed to a file of a third, 97 of 100 stay within;
of a million unrelated pictures with evenly spread hashes, no two do.
"""

_EVEN: Final = (0x5555_5555_5555_5555, 0x3333_3333_3333_3333, 0x0F0F_0F0F_0F0F_0F0F, 0x00FF_00FF_00FF_00FF,
                0x0000_FFFF_0000_FFFF, 0x0000_0000_FFFF_FFFF)  # fmt: skip


class Alike:
    """
    The pictures so far that look like none before them, with their names.

    A picture is held against those alone: once all that look like another are gone, no two of those that stay
    look the same, and each that went looks like one of them. A picture takes 40 bytes and its name.
    """

    def __init__(self, most: int) -> None:
        """:param most: about how many pictures will come; more of them only take longer."""
        self._bits = min(26, max(8, most.bit_length() + 1))
        # Folding is linear: to turn a bit of a half is to turn one of its place, whatever else it holds.
        self._turns = sorted({0, *(self._place(1 << bit) for bit in range(32))})
        # By place: the last picture there, counted from 1; by picture, the one there before it.
        self._last = [array("I", bytes(4 << self._bits)) for _ in range(2)]
        self._before = [array("I"), array("I")]
        self._hashes = array("Q")
        self._names = bytearray()
        self._ends = array("Q")

    def first(self, phash: int, name: str) -> str | None:
        """
        Return the name of the first picture that looks like this one; None, and it is kept, where none does.

        :param phash: 64 bits.
        """
        found = self._found(phash)
        if found:
            start = self._ends[found - 2] if found > 1 else 0
            return self._names[start : self._ends[found - 1]].decode()
        self._hashes.append(phash)
        self._names += name.encode()
        self._ends.append(len(self._names))
        for half, last, before in zip(_halves(phash), self._last, self._before, strict=True):
            place = self._place(half)
            before.append(last[place])
            last[place] = len(self._hashes)
        return None

    def _found(self, phash: int) -> int:
        """The first that is near, counted from 1; 0 for none."""
        hashes, best = self._hashes, 0
        for half, last, before in zip(_halves(phash), self._last, self._before, strict=True):
            places = map(self._place(half).__xor__, self._turns)
            for latest in filter(None, map(last.__getitem__, places)):
                number = latest
                while number:
                    if (hashes[number - 1] ^ phash).bit_count() <= WITHIN and not 0 < best < number:
                        best = number
                    number = before[number - 1]
        return best

    def _place(self, half: int) -> int:
        """Half a hash, folded."""
        return (half ^ half >> self._bits) & (1 << self._bits) - 1


def _halves(phash: int) -> tuple[int, int]:
    """
    The bits at even and at odd places.

    Neighbours tell much the same, and a white margin nothing: so each half tells of all the picture.
    """
    return _gathered(phash), _gathered(phash >> 1)


def _gathered(bits: int) -> int:
    """Every second bit, without the gaps (Warren, Hacker's Delight, 7-2)."""
    bits &= _EVEN[0]
    for distance, mask in enumerate(_EVEN[1:]):
        bits = (bits | bits >> (1 << distance)) & mask
    return bits
