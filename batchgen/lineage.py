"""What goes along with a task that continues another?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from batchgen.manifest import Ancestry
from batchgen.records import Reference, Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchgen.ledger import Reader
    from batchgen.manifest import Manifest
    from batchgen.records import Task


class Lineage:
    """The tasks of one run that others continue: what they asked in the manifest, what came in the ledger."""

    def __init__(self, manifest: Manifest, reader: Reader, address: Callable[[str], str]) -> None:
        """:param address: how a picture of the run is named to whoever is to read it."""
        self._ancestry = Ancestry(manifest.path)
        self._reader = reader
        self._address = address

    def continued(self, task: Task, row: int, key: str) -> Task:
        """
        A task with the picture of its parent, which has one, before its own references, and with its history.

        Blocks.

        :param row: the parent's row, counted from 0.
        :param key: the parent's key.
        :raises StorageError: manifest or ledger cannot be read.
        """
        asked = self._ancestry.of(row, key)
        answered = self._reader.said([key for key, _ in asked])

        def turns() -> Iterator[Turn]:
            for ancestor, prompt in asked:
                yield Turn(role="user", text=prompt)
                # A picture without a word is no turn in words.
                if (said := answered.get(ancestor)) is not None and said.text:
                    yield Turn(role="assistant", text=said.text)

        image = answered[key].images[-1]
        picture = Reference(
            source=self._address(image.file_name), sha256=image.sha256, mime=image.mime, bytes=image.bytes
        )
        return msgspec.structs.replace(task, history=tuple(turns()), references=(picture, *task.references))
