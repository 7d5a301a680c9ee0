"""What does a task say, as a list of messages in OpenAI's format?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchgen.dialects.bodies import data_url, decoded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchgen.records import Attached, Task


def conversation(task: Task, attached: Sequence[Attached]) -> list[dict[str, Any]]:
    """
    The system prompt, what was said before, and what the user says now, pictures before words.

    :param attached: the task's references as they travel, in their order; marks stand for what they hold.
    """
    said: list[dict[str, Any]] = [{"role": "system", "content": task.system}] if task.system else []
    own = [{"role": "user", "content": task.prompt}] if task.messages is None else decoded(task.messages)
    while own[0]["role"] in {"system", "developer"}:  # what holds for all goes before all
        said.append(own.pop(0))
    said += [{"role": turn.role, "content": turn.text} for turn in task.history]
    said += own
    if attached:
        said[-1] = {**said[-1], "content": [*_pictures(attached), *_parts(said[-1]["content"])]}
    return said


def _pictures(attached: Sequence[Attached]) -> list[dict[str, Any]]:
    return [
        {"type": "image_url", "image_url": {"url": data_url(one, index)}}
        for index, one in enumerate(attached)
    ]


def _parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
