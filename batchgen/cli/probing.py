"""How is one request to an endpoint told: what it will be, what it showed, and what follows?"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import tempfile
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import anyio
import msgspec

from batchgen import inquiry as inquiries
from batchgen import job as jobs
from batchgen import probe, retyping
from batchgen.cli import running
from batchgen.cli.saying import say, say_json
from batchgen.cli.terminal import line
from batchgen.errors import InputError, StorageError
from batchgen.findings import advice
from batchgen.records import ErrorClass, Expect
from batchgen.redaction import Redactor
from batchgen.worker import UNKNOWN_COST

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from decimal import Decimal

    from batchgen.findings import Advice, Findings
    from batchgen.inquiry import Inquiry
    from batchgen.probe import Answered

_WORDS = 200
"""Characters of a text that are shown."""


class Telling(NamedTuple):
    """How it is to be told."""

    typed: Sequence[str]
    """The arguments that asked for it."""
    as_json: bool
    keys: set[str]
    """What no message may show; the key that is used is added."""


def tell(
    source: str | None, given: Mapping[str, object], telling: Telling, *, dry_run: bool, save: str | None
) -> int:
    """
    Send one request, or with `dry_run` only show it; the exit status.

    :raises InputError: the job, its manifest or the file to save to cannot be used; nothing was sent.
    """
    _check_table(source, given)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        job = jobs.resolve(source or str(inquiries.write_manifest(scratch)), given)
        inquiry = inquiries.prepare(job, None if dry_run else os.environ, scratch=scratch)
    if not inquiry.endpoint.provider.simulated:
        telling.keys.add(inquiry.endpoint.key or "")
    if dry_run:
        _show(inquiry, telling)
        return 0
    running.warn_of_environment(job)
    command = retyping.without_flag(running.command_line(job, telling.typed), "--save")
    with _claimed(save) as path:
        _announce(inquiry, telling)
        try:
            with _interrupted():
                answered = anyio.run(partial(probe.ask, inquiry))
        except KeyboardInterrupt as cause:
            sys.stderr.write("batchgen: interrupted: if the request had left, it may be billed\n")
            return 143 if isinstance(cause, _TerminatedError) else 130
        unkept = _keep(path, answered)
        follows = advice(answered.findings)
        _report(answered, follows, _next(command, source, answered, follows), as_json=telling.as_json)
    if unkept is not None:
        raise unkept
    return answered.exit_status


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM or SIGHUP came."""


@contextmanager
def _interrupted() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end it as Ctrl-C does: with a word, and nothing left behind."""

    def end(*_: object) -> None:
        raise _TerminatedError

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]  # nohup
    for number in heard:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number] or signal.SIG_DFL)


def _check_table(source: str | None, given: Mapping[str, object]) -> None:
    for name in ("template", "columns"):
        if source is None and given.get(name):
            raise InputError(
                f"--{name.removesuffix('s')}: takes a manifest to fill it from; name one as SOURCE"
            )


@contextmanager
def _claimed(save: str | None) -> Iterator[Path | None]:
    """Claim the name of the file for the picture before anything is paid; given up if it stays empty."""
    if save is None:
        yield None
        return
    path = Path(save)
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        raise InputError(f"--save: {save} is there already; nothing was sent") from None
    except OSError as cause:
        raise InputError(f"--save: {save}: {cause.strerror}; nothing was sent") from cause
    try:
        yield path
    finally:
        with suppress(FileNotFoundError):
            if not path.stat().st_size:
                path.unlink()


def _keep(path: Path | None, answered: Answered) -> StorageError | None:
    """Write the picture, if one came and is to be kept; a failure must not keep back what was found."""
    if path is None or answered.picture is None:
        return None
    try:
        path.write_bytes(answered.picture)
    except OSError as cause:
        return StorageError(f"--save: {path}: {cause.strerror}; the picture came and was not kept")
    return None


def _show(inquiry: Inquiry, telling: Telling) -> None:
    """Tell what would be sent."""
    request, redact = inquiries.shown(inquiry), Redactor(telling.keys)
    # A prompt may quote a key; within a text of JSON, what takes its place is JSON too.
    body = redact(msgspec.json.encode(request["body"]).decode())
    if telling.as_json:
        told = {**request, "body": msgspec.json.decode(body), "estimate_usd": inquiry.estimate_usd}
        say_json(told)
        return
    head = [f"{request['method']} {request['url']}"]
    head += [f"{name}: {value}" for name, value in request["headers"].items()]
    text = msgspec.json.decode(body) if isinstance(request["body"], str) else msgspec.json.format(body)
    price = f"nothing was sent; it would cost {_about(inquiry)}"
    say("\n".join([*map(line, head), "", text, "", price]))


def _announce(inquiry: Inquiry, telling: Telling) -> None:
    """Tell what is sent now and what it costs, before it is."""
    provider, params = inquiry.endpoint.provider, inquiry.task.params
    size = " ".join(filter(None, (params.aspect_ratio, params.image_size)))
    prompt = line(Redactor(telling.keys)(inquiry.task.prompt)[:_WORDS])
    what = "one answer" if inquiry.task.expect is Expect.TEXT else "one picture"
    lines = [
        f"asking {provider.title} for {what}: {line(inquiry.task.model)}{f', {size}' if size else ''},"
        f' "{prompt}"',
        f"  {_about(inquiry)}; one request, no retry; nothing is booked, no run directory is touched",
    ]
    if telling.as_json:
        sys.stderr.write("\n".join(lines) + "\n")
    else:
        say("\n".join(lines))


def _about(inquiry: Inquiry) -> str:
    if inquiry.estimate_usd is None:
        return "an unknown amount: no price is known for the model"
    simulated = " (simulated: no money)" if inquiry.endpoint.provider.simulated else ""
    return f"about ${inquiry.estimate_usd:.4f}{simulated}"


def _report(
    answered: Answered, follows: Sequence[Advice], commands: Mapping[str, list[str]], *, as_json: bool
) -> None:
    found = answered.findings
    if as_json:
        say_json(
            {
                **msgspec.structs.asdict(found),
                "advice": [msgspec.structs.asdict(one) for one in follows],
                "next": commands,
                "exit_status": answered.exit_status,
            }
        )
        return
    typed = ["next", *(f"  {shlex.join(command)}" for command in commands.values())]
    say("\n".join([*_facts(found), *_following(follows), *typed]))


def _facts(found: Findings) -> list[str]:
    """One line a fact; what the endpoint did not tell has none."""
    facts = {
        "models": f"GET {found.base_url}/models: {found.listing}",
        "request": f"POST {found.url}: {_arrived(found)}",
        "message": found.message,
        "picture": _picture(found),
        "shape": _shape(found),
        "words": _quoted(found.text),
        "thinking": _quoted(found.reasoning),
        "calls": _quoted(found.tool_calls or ""),
        "finished": found.finish_reason,
        "model": found.echoed,
        "usage": ", ".join(found.reported) or ("none reported" if found.status == 200 else None),
        "tokens": _tokens(found),
        "cost": _cost(found),
        "headers": ", ".join(f"{name}: {value}" for name, value in found.headers.items()),
        "id": found.request_id,
    }
    what = "words" if found.expect is Expect.TEXT and found.mime is None else "a sound picture"
    head = f"{what} came" if found.kind is None else f"no {what.removeprefix('a ')} came: {found.kind}"
    return [head, *(f"  {name:<9} {line(value)}" for name, value in facts.items() if value)]


def _arrived(found: Findings) -> str:
    status = "no answer" if found.status is None else f"HTTP {found.status}"
    head = f", its head after {found.headed:.1f} s" if found.headed is not None else ""
    stream = ", streamed" if found.streamed else ""
    return f"{status} after {found.latency:.1f} s{head}{stream}"


def _picture(found: Findings) -> str | None:
    if found.mime is None:
        return None if found.bytes is None else f"{found.bytes:,} bytes that are none"
    declared = f" (said to be {found.declared})" if found.declared not in {None, found.mime} else ""
    asked = " ".join(filter(None, (found.aspect_ratio, found.image_size)))
    as_asked = {None: "", True: f", as asked ({asked})", False: f", not as asked ({asked})"}[found.size_ok]
    return f"{found.mime}{declared}, {found.width} × {found.height}{as_asked}, {found.bytes:,} bytes"


def _shape(found: Findings) -> str | None:
    if found.mime is None and not found.shapes:
        return None
    drafts = f"; {found.drafts} draft{'s' if found.drafts > 1 else ''} before it" if found.drafts else ""
    link = f" ({found.link})" if found.link else ""
    return (" and ".join(found.shapes) or "one without a name") + link + drafts


def _quoted(text: str) -> str | None:
    if not text:
        return None
    return f'"{text[:_WORDS]}{"…" if len(text) > _WORDS else ""}"'


def _tokens(found: Findings) -> str | None:
    if not found.total_tokens:
        return None
    return (
        f"{found.prompt_tokens:,} in, {found.text_tokens:,} text out, {found.image_tokens:,} image out"
        f" ({found.quality.replace('_', ' ')})"
    )


def _cost(found: Findings) -> str:
    if found.kind is ErrorClass.UNREACHABLE:
        return "nothing: the request did not leave"
    if found.kind in UNKNOWN_COST:
        return "unknown: it may have been billed"
    if found.kind is not None and not found.total_tokens:
        return "none was reported"
    if found.simulated:
        return f"{_usd(found.cost_usd)}  (simulated: no money was spent)"
    billed = f", the endpoint says ${found.billed_usd:f}" if found.billed_usd is not None else ""
    own = f", {found.credits:,.1f} credits" if found.credits else ""
    return f"{_usd(found.cost_usd)}{billed}{own}"


def _usd(amount: Decimal | None) -> str:
    return "unknown" if amount is None else f"${amount:,.4f} by tokens and price"


def _following(follows: Sequence[Advice]) -> list[str]:
    lines = ["what follows" if follows else "what follows: use it as it is"]
    for one in follows:
        lines.append(f"  - {line(one.text)}")
        lines += [f"      job file: {name} = {_toml(value)}" for name, value in one.settings.items()]
    return lines


def _toml(value: str | float) -> str:
    return msgspec.json.encode(value).decode()


def _next(
    command: Sequence[str], source: str | None, answered: Answered, follows: Sequence[Advice]
) -> dict[str, list[str]]:
    """What to type next: the probe again, where settings are to be tried or a fault is mended; the run."""
    sound = answered.exit_status == 0
    commands = {}
    if sound:
        at = command.index("probe")
        run = ["run"] if source is not None else ["run", "prompts.csv"]
        commands["run"] = [*command[:at], *run, *command[at + 1 :]]
    settings = {name: value for one in reversed(follows) for name, value in one.settings.items()}
    again = [*command]
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            again = retyping.with_flags(again, flag)
        else:
            again = retyping.with_flags(retyping.without_flag(again, flag), flag, _plain(value))
    return {"probe": again, **commands} if settings or not sound else commands


def _plain(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"
