"""Which wire formats are spoken? One module each, of pure functions, beside what they share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from batchgen.dialects import chat, images

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchgen.records import Attached, Expect, Failure, Generation, ImageOptions, Request, Task


class Dialect(Protocol):
    """How a task becomes a request, and how an answer is read. Its modules are that, without any I/O."""

    def request(
        self, task: Task, attached: Sequence[Attached], *, options: ImageOptions, stream: bool
    ) -> Request:
        """
        Write a request.

        :param attached: the task's references as they travel, in their order.
        :param options: how the endpoint wants to be told of shape and size.
        :param stream: whether the answer is to come as server-sent events.
        :raises InputError: a reference cannot travel in this format; says why.
        """

    def read(
        self,
        status: int,
        headers: Mapping[str, str],
        body: bytes | bytearray,
        *,
        now: float,
        expect: Expect = ...,
    ) -> Generation | Failure:
        """
        Read an answer. Nothing an endpoint sends makes this raise.

        :param status: HTTP status. An error inside a 2xx is an error all the same.
        :param headers: Names in lower case.
        :param body: The whole body, as received.
        :param now: Seconds since 1970, for waits given as a time of day.
        :param expect: What completes the task.
        """

    def cannot(self, options: ImageOptions) -> Mapping[str, str]:
        """Which of a manifest's columns and of a job's keys this format has no place for, and why."""


DIALECTS: Mapping[str, Dialect] = {"chat": chat, "images": images}
"""By the name that `--dialect` knows."""
