"""
What is one run told to do?

A job is resolved once, from a job file, the environment and the flags, into one frozen value. Its fields are
the names of the flags and of the keys in a job file.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping  # noqa: TC003  msgspec reads the annotations at run time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote, urlsplit

import msgspec

from batchgen import credentials, providers
from batchgen.address import is_url, parsed
from batchgen.dialects import DIALECTS
from batchgen.errors import InputError, nearest
from batchgen.imaging import Check
from batchgen.layout import JOB, LEDGER, MANIFEST, TABLE
from batchgen.records import Expect, ImageOptions, Model, Provider, Value
from batchgen.redaction import SHORT, without_likely_keys

if TYPE_CHECKING:
    from batchgen.address import Address

__all__ = [
    "JOB",
    "LEDGER",
    "MANIFEST",
    "MANIFESTS",
    "TABLE",
    "Endpoint",
    "Job",
    "OnDailyQuota",
    "OnUncertain",
    "address",
    "checked",
    "directory",
    "endpoint",
    "missing",
    "name",
    "place",
    "read",
    "resolve",
]

MANIFESTS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".pq")

_WORDS = {
    "str of length >= 1": "a text",
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "a table",
    "array": "a list",
    " >= ": " of at least ",
    " <= ": " of at most ",
    " > ": " above ",
}
"""What msgspec says, as a person would."""
_Count = Annotated[int, msgspec.Meta(ge=1)]
_Rate = Annotated[float, msgspec.Meta(gt=0, le=1e12)]
_Text = Annotated[str, msgspec.Meta(min_length=1)]


class OnUncertain(StrEnum):
    """What a rerun does with requests that may have been billed without an answer."""

    RETRY = "retry"
    SKIP = "skip"


class OnDailyQuota(StrEnum):
    """What a run does once the day's quota is used up."""

    WAIT = "wait"
    STOP = "stop"


class Job(Value, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything one run is told."""

    manifest: _Text
    """Path of the table of prompts; '-' is CSV on standard input."""
    output: _Text | None = None
    """
    The run directory, or the URL of a place in a bucket; `runs/<name of the manifest or the job file>` when
    not given.
    """
    provider: str | None = None
    """`core-today` unless a base URL is given."""
    base_url: str | None = None
    """
    Another endpoint; ends before `/chat/completions`. Beside a provider it takes over that one's models and
    prices, alone it has none: nothing is priced by guess.
    """
    allow_http: bool = False
    """Whether the key and every prompt may travel unencrypted to another machine."""
    key_file: _Text | None = None
    """
    A file with the API key alone in it, the user's own and closed to everybody else; `~` is the home folder.
    Goes before `BATCHGEN_API_KEY` and the provider's own variable.
    """
    dialect: str | None = None
    """The wire format; the provider's own when not given."""
    image_options: ImageOptions | None = None
    """How the endpoint wants to be told of aspect ratio and size; as the provider does when not given."""
    stream: bool = False
    """Whether answers come as server-sent events: past proxies that cut what is silent for long."""
    allow_outside: bool = False
    """Whether references may lie outside the manifest's folder."""
    model: _Text = "gemini-3.1-flash-image-preview"
    models: Mapping[str, Mapping[str, Any]] = {}
    """Prices and facts that override the catalogue's, by model id."""

    template: str | None = None
    columns: Mapping[str, str] = {}
    """Our column name to the manifest's."""
    name: str | None = None
    system: str | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    max_tokens: _Count | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | None = None
    stop: tuple[_Text, ...] = ()
    aspect_ratio: _Text | None = None
    image_size: _Text | None = None
    response_format: Mapping[str, Any] | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    extra: Mapping[str, Any] | None = None
    """Laid over the body of every request, table by table."""
    expect: Expect | None = None
    """What completes a row; words do where JSON or tools are asked for, else it takes a picture."""
    variants: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1

    concurrency: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 8
    rpm: _Rate | None = None
    """Requests a minute; where none is stated (in files and flags also as `auto`), it is found out."""
    ipm: _Rate | None = None
    tpm: _Rate | None = None
    attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 5
    hedge: bool = False
    """Whether a late request is asked once more when nothing else is left to do; the first picture counts."""
    timeout: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 300.0
    """Seconds a request may take."""
    drain: Annotated[float, msgspec.Meta(ge=0, le=86_400)] | None = None
    """Seconds for what is in flight to land after a signal; as long as a request may take when not given."""
    max_failure_rate: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    """The share of the last hundred tasks that may fail for good before the run stops."""
    budget: _Rate | None = None
    """USD spent in this run directory, ever, at most."""
    on_daily_quota: OnDailyQuota = OnDailyQuota.STOP
    ray: _Text | None = None
    """Address of the Ray cluster whose nodes make the attempts, or `auto`; `local` is this machine alone."""
    check: Check = Check.FULL
    embed: bool = False
    """Whether each picture's file tells its origin (XMP): prompt, model, request, how it was made."""
    quality: bool = False
    """Whether pictures are looked at after the buying: which are blank, which look the same."""
    log_file: _Text | None = None
    """A file to which the run's events are appended, one JSON object a line."""

    limit: _Count | None = None
    only: str | None = None
    """A table of ids; the other rows are left alone."""
    again: bool = False
    retry_failed: bool = False
    on_uncertain: OnUncertain = OnUncertain.RETRY

    simulator: Mapping[str, Any] = {}
    """How the simulator behaves, for `provider = "simulator"`."""


class Endpoint(Value, frozen=True, kw_only=True):
    """Where the requests go, with what, and in whose name."""

    provider: Provider
    model: Model
    """Sent where a row names none."""
    key: str | None = None

    def __repr__(self) -> str:
        return f"Endpoint({self.provider.name!r}, {self.model.id!r}, key={'…' if self.key else None!r})"


def read(path: Path) -> dict[str, Any]:
    """
    Read a job file: its keys as they stand, paths made relative to the current folder.

    :raises InputError: it cannot be read, or it has a key that no job has.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise missing(path) from None
    except OSError as cause:
        raise InputError(f"{path}: {cause.strerror}") from cause
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
        raise InputError(f"{path}: not valid TOML: {cause}") from cause
    for key in values:
        if key.lower().replace("-", "_") in credentials.MISPLACED:
            raise InputError(f"{path}: {key}: a key does not belong into a job file; {credentials.ADVICE}")
        if key not in Job.__struct_fields__:
            raise InputError(f"{path}: unknown key {key!r}{nearest(key, Job.__struct_fields__)}")
    if "manifest" not in values:
        raise InputError(f'{path}: no manifest; add `manifest = "prompts.csv"`')
    for key in ("manifest", "output", "only", "key_file", "log_file"):
        if isinstance(values.get(key), str) and values[key] not in {"-", ""} and not is_url(values[key]):
            given = Path(values[key])
            values[key] = os.path.relpath(path.parent / (given.expanduser() if key == "key_file" else given))
    return values


def missing(path: Path) -> InputError:
    """Say that a job file or a manifest is not there, and what is."""
    try:
        beside = sorted(other.name for other in path.parent.iterdir())
    except OSError:
        return InputError(f"{path}: no such file, nor a folder {str(path.parent)!r}")
    hint = nearest(path.name, beside)
    fit = [name for name in beside if name.lower().removesuffix(".gz").endswith((*MANIFESTS, ".toml"))]
    if not hint and fit:
        hint = f"; there are {', '.join(map(repr, fit[:3]))}"
    return InputError(f"{path}: no such file{hint}")


def resolve(source: str, given: Mapping[str, object]) -> Job:
    """
    Make the job of a SOURCE (a job file or a manifest) and what was given beside it.

    :param given: what flags and environment say; goes before the job file.
    :raises InputError: a value is missing, unknown or out of range.
    """
    try:
        if Path(source).is_dir():
            raise InputError(f"{source}: a folder; SOURCE is a job file (.toml) or a manifest")
    except OSError as cause:  # a folder on the way to it is closed
        raise InputError(f"{source}: {cause.strerror}; name one that you can read") from cause
    is_job = source.lower().endswith(".toml")
    if is_job and not _is_utf8(source):  # the ledger keeps the command that names it
        raise InputError(f"SOURCE: {source!r} has bytes that are no UTF-8; give it another name")
    stated = read(Path(source)) if is_job else {"manifest": source}
    values: dict[str, object] = {**stated, **given}
    if values.get("rpm") == "auto":
        values["rpm"] = None
    if is_job and values.get("output") is None:
        values["output"] = str(Path("runs") / name(source))
    try:
        return _writable(msgspec.convert(values, Job))
    except msgspec.ValidationError as cause:
        raise InputError(_explained(source, stated, given, str(cause))) from cause


def checked(job: Job) -> Job:
    """
    Return the job with its values checked, for jobs that a program made.

    :raises InputError: a value is of the wrong kind or out of range.
    """
    values = {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in _items(job)
    }
    try:
        return _writable(msgspec.convert(values, Job))
    except msgspec.ValidationError as cause:
        raise InputError(_explained("Job", values, {}, str(cause))) from cause


def _writable(job: Job) -> Job:
    """The same job, if a file can hold it: arguments and file names may be of any bytes."""
    for name, value in _items(job):
        if isinstance(value, str) and not _is_utf8(value):
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"{flag}: {value!r} has bytes that are no UTF-8; give it another name")
    return job


def _is_utf8(text: str) -> bool:
    return text.encode(errors="ignore").decode() == text


def _items(job: Job) -> Iterable[tuple[str, object]]:
    return msgspec.structs.asdict(job).items()


def directory(job: Job) -> Path:
    """
    Where the run keeps what it has on this machine: as the job says, or `runs/<name of the manifest>`.

    :raises InputError: it is to go to a URL that names no place in a bucket.
    """
    bucket = address(job)
    if bucket is not None:
        return bucket.local
    return Path(job.output) if job.output is not None else Path("runs") / name(job.manifest)


def address(job: Job) -> Address | None:
    """
    The place in a bucket where pictures and table go; None where they go into the directory.

    :raises InputError: there is no such kind of place.
    """
    return parsed(job.output) if job.output is not None and is_url(job.output) else None


def place(job: Job) -> str:
    """How its owner calls where the run goes: a run directory or a URL."""
    return str(address(job) or directory(job))


def endpoint(job: Job, environment: Mapping[str, str] | None) -> Endpoint:
    """
    Find out where the job's requests go, and the key from the environment.

    :param environment: None when nothing will be sent and no key is needed.
    :raises InputError: provider or model are unknown, there is no key, or the way to them is open to others.
    """
    if job.dialect is not None and job.dialect not in DIALECTS:
        known = ", ".join(map(repr, DIALECTS))
        raise InputError(
            f"--dialect: {job.dialect!r} is unknown{nearest(job.dialect, DIALECTS) or f'; known: {known}'}"
        )
    provider = _provider(job)
    no_stream = DIALECTS[provider.dialect].cannot(provider.image_options).get("stream")
    if job.stream and no_stream is not None:
        raise InputError(f"--stream: {no_stream}; leave it out")
    model = providers.find_model(provider, job.model)
    if model is None and provider.models:
        names = [name for known in provider.models for name in (known.id, *known.aliases)]
        raise InputError(
            f"--model: {provider.title} has no {job.model!r}{nearest(job.model, names)}"
            " (`batchgen models` lists them)"
        )
    model = model or Model(id=job.model)
    key = None if environment is None else _key(job, provider, environment)
    if not provider.simulated:
        _check_way(job, provider.base_url, key)
    return Endpoint(provider=provider, model=model, key=key)


def _provider(job: Job) -> Provider:
    found = _found(job)
    if job.image_options is not None:
        found = msgspec.structs.replace(found, image_options=job.image_options)
    return providers.override(found, job.models)


def _found(job: Job) -> Provider:
    if job.base_url is not None and job.provider is None:
        return providers.at_url(job.base_url, dialect=job.dialect)
    known = providers.speaking(providers.find(job.provider or "core-today"), job.dialect)
    if job.base_url is None:
        return known
    if known.simulated:
        raise InputError("--base-url: the simulator answers in this process; leave out one of the two")
    at = providers.at_url(job.base_url, dialect=known.dialect)
    return msgspec.structs.replace(known, base_url=at.base_url)


def _key(job: Job, provider: Provider, environment: Mapping[str, str]) -> str | None:
    if provider.simulated:
        return "simulated"
    if job.key_file is not None:
        return credentials.from_file(job.key_file)
    key = credentials.from_environment(provider.key_variables, environment)
    if key is not None or providers.is_loopback(provider.base_url):
        return key  # a server of one's own often wants none
    variables = " or ".join(provider.key_variables)
    raise InputError(
        f"no API key for {provider.title}: set {variables}, as in `export {provider.key_variables[0]}=…`,"
        " or name a file with --key-file (without a key: `--provider simulator`)"
    )


def _check_way(job: Job, base_url: str, key: str | None) -> None:
    """Refuse a way to the endpoint on which the key or the prompts would be seen by others."""
    stated = key is not None and len(key) >= SHORT and key in unquote(base_url)
    if stated or without_likely_keys(base_url) != base_url:
        raise InputError(f"--base-url: there is a key in it; {credentials.ADVICE}")
    if base_url.startswith("http:") and not providers.is_loopback(base_url) and not job.allow_http:
        raise InputError(
            f"--base-url: the way to http://{urlsplit(base_url).netloc} is not encrypted: the key and every"
            " prompt could be read on it; use https://, or --allow-http in a network of your own"
        )


def name(source: str) -> str:
    """What a run, or a job file, is called after its manifest or job file."""
    if source == "-":
        return "stdin"
    name = Path(source).name
    for ending in (".gz", ".toml", *MANIFESTS):
        name = name.removesuffix(ending)
    return name or "run"


def _explained(source: str, stated: Mapping[str, object], given: Mapping[str, object], message: str) -> str:
    """A msgspec message in the words of whoever wrote the value; of a container, what it is and no more."""
    match = re.fullmatch(r"(?P<what>.*) - at `\$\.(?P<key>\w+)(?P<rest>.*)`", message)
    if match is None:
        return f"{source}: {message}"
    key, value = match["key"], given.get(match["key"], stated.get(match["key"]))
    what, _, got = match["what"].replace("`", "").replace(" | null", "").partition(", got ")
    flag = f"--{key.replace('_', '-')}"
    where = f"{source}: {key}{match['rest']}" if key not in given else flag
    for technical, plain in _WORDS.items():
        what, got = what.replace(technical, plain), got.replace(technical, plain)
    shown = got if isinstance(value, dict | list) else repr(value)
    return f"{where}: {what[:1].lower()}{what[1:]}, got {shown}"
