"""
May a run be carried out here, and what is left of it when it has ended?

Whether what the job asks for can be had, what its manifest says, whether there is room for its pictures.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from batchgen import disk, pricing, providers
from batchgen import job as jobs
from batchgen import manifest as manifests
from batchgen.budget import Estimate
from batchgen.dialects import DIALECTS
from batchgen.errors import InputError
from batchgen.records import ZERO, Expect, Params, Value
from batchgen.selection import Fate, fates, left_alone

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchgen.job import Endpoint, Job
    from batchgen.ledger import Reader
    from batchgen.manifest import Finished, Manifest
    from batchgen.records import Provider
    from batchgen.references import References
    from batchgen.simulator import Settings
    from batchgen.simulator.transport import SimulatorTransport

logger = logging.getLogger("batchgen")

Kind: TypeAlias = tuple[str, Expect]
"""What a task costs goes by its model, and by whether words are enough."""


def checked(job: Job, environment: Mapping[str, str] | None) -> Endpoint:
    """
    Where pictures come from, if what the job asks for can be had there.

    :raises InputError: it cannot: a budget has no price to go by, a key is missing or misplaced.
    """
    endpoint = jobs.endpoint(job, environment)
    if job.budget is not None and endpoint.model.price is None:
        raise InputError(
            f"--budget: {endpoint.model.id!r} has no known price, so nothing could keep it; state one in"
            f' a job file: [models."{endpoint.model.id}"] price = {{ input = …, text = …, image = … }}'
        )
    _check_asked(job, endpoint)
    return endpoint


def _check_asked(job: Job, endpoint: Endpoint) -> None:
    """Refuse what the job's own model or the wire format would not take, before any row is read."""
    params = _params(job)
    for name in ("aspect_ratio", "image_size"):
        value = getattr(params, name)
        why = None if value is None else manifests.unfit(endpoint.model, name, value)
        if why is not None:
            raise InputError(f"{_flag(name)}: {why}")
    for name, why in _cannot(endpoint.provider).items():
        if name == "expect" and job.expect is not Expect.TEXT:
            continue
        # Zero is a seed, and false is no wish.
        value = getattr(job, name, None)
        if value is not None and value is not False and value != ():
            raise InputError(f"{_flag(name)}: {why}")


def _params(job: Job) -> Params:
    """
    What the job asks for where a row does not say it.

    :raises InputError: it cannot be sent.
    """
    said: dict[str, str | None] = {}
    for name in manifests.PARSERS:
        value = getattr(job, name)
        try:
            said[name] = None if value in (None, ()) else manifests.stated(name, value)
        except InputError as cause:
            raise InputError(f"{_flag(name)}: {cause}") from cause
    return Params(
        temperature=job.temperature,
        top_p=job.top_p,
        max_tokens=job.max_tokens,
        seed=job.seed,
        stop=job.stop,
        aspect_ratio=job.aspect_ratio and manifests.shape("aspect_ratio", job.aspect_ratio),
        image_size=job.image_size and manifests.shape("image_size", job.image_size),
        response_format=said["response_format"],
        tools=said["tools"],
        tool_choice=said["tool_choice"],
        extra=said["extra"],
    )


def _cannot(provider: Provider) -> Mapping[str, str]:
    return DIALECTS[provider.dialect].cannot(provider.image_options)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def transport(job: Job, endpoint: Endpoint) -> SimulatorTransport | None:
    """The simulator in this process, where it is the provider."""
    if not endpoint.provider.simulated:
        return None
    from batchgen import simulator  # noqa: PLC0415  only painted where asked for
    from batchgen.simulator.transport import SimulatorTransport  # noqa: PLC0415

    return SimulatorTransport(simulator.Endpoint(settings(job), clock=time.monotonic))


def settings(job: Job) -> Settings:
    """
    How the job wants the simulator to be.

    :raises InputError: it cannot be so.
    """
    from batchgen import simulator  # noqa: PLC0415

    try:
        return msgspec.convert(job.simulator, simulator.Settings)
    except msgspec.ValidationError as cause:
        raise InputError(f"[simulator]: {cause}") from cause


def check_not_mixed(place: str, endpoint: Endpoint, reader: Reader) -> None:
    """
    A painted picture must never pass for one that was bought, nor the other way round.

    :param place: how the run directory is called.
    """
    last = reader.last_run()
    if last is not None and last.simulated != endpoint.provider.simulated:
        held, wanted = ("simulated", "real") if last.simulated else ("real", "simulated")
        raise InputError(
            f"{place} holds {held} pictures, and this job makes {wanted} ones;"
            f" choose another run directory: -o {place}-{wanted}"
        )


def read_manifest(job: Job, endpoint: Endpoint, snapshot: Path, references: References) -> Manifest:
    """
    Check the whole manifest and write the checked copy that a run works from.

    :param references: looks at the pictures that rows bring along.
    :raises ManifestError: what is wrong with it.
    """
    provider = endpoint.provider
    # An endpoint of one's own takes any model, unless a budget needs to know each one's price.
    priced = [model for model in provider.models if job.budget is None or model.price is not None]
    names = {name.casefold(): model.id for model in priced for name in (*model.aliases, model.id)}
    reading = manifests.Reading(
        model=endpoint.model.id,
        models=names if provider.models or job.budget is not None else None,
        columns=job.columns,
        unknown="unknown model" if job.budget is None else "--budget: no price is known for the model",
        template=job.template,
        name=job.name,
        system=job.system,
        params=_params(job),
        expect=job.expect,
        variants=job.variants,
        provider=provider,
        cannot=_cannot(provider),
        folder=Path() if job.manifest == "-" else Path(job.manifest).parent,
        allow_outside=job.allow_outside,
    )
    return manifests.read(
        job.manifest, reading, snapshot=snapshot, look=references.look, stdin=sys.stdin.buffer
    )


def _wanted(
    job: Job, manifest: Manifest, reader: Reader, only: frozenset[str] | None, finished: Finished
) -> tuple[Counter[Fate], dict[Kind, int]]:
    """How many unfinished tasks meet which fate, and how many of each kind are to be bought."""
    counts: Counter[Fate] = Counter()
    kinds: Counter[Kind] = Counter()
    for batch, met in fates(job, manifest, reader, only, without=finished):
        asked, expects = batch.models, batch.expects
        counts.update(what for _, _, what in met)
        kinds.update((asked[index], expects[index]) for index, _, what in met if what is Fate.BUY)
    return counts, kinds


def _pictures(kinds: Mapping[Kind, int]) -> int:
    """So many of these tasks are to bring a picture."""
    return sum(count for (_, expect), count in kinds.items() if expect is Expect.IMAGE)


def _about(kinds: Mapping[Kind, int], each: Callable[[str, Expect], Decimal | None]) -> Decimal | None:
    """So many tasks of each kind, at what one of it costs; None as soon as that is not known."""
    total = ZERO
    for (name, expect), count in kinds.items():
        price = each(name, expect)
        if price is None and count:
            return None
        total += (price or ZERO) * count
    return total


def check_only(job: Job, manifest: Manifest, only: frozenset[str] | None) -> None:
    """
    Warn of chosen ids that no row has.

    :raises InputError: no row has any of them.
    """
    strangers = set(only or ())
    for batch in manifest.batches() if strangers else ():
        strangers.difference_update(batch.ids)
        if not strangers:
            break
    if not only or not strangers:
        return
    told = f"{job.only}: {len(strangers):,} of its {len(only):,} ids are no row's of {job.manifest}, such as"
    if len(strangers) == len(only):
        raise InputError(f"--only {told} {min(strangers)!r}; is it another table's?")
    logger.warning("%s %r", told, min(strangers))


def space_for(
    endpoint: Endpoint,
    manifest: Manifest,
    reader: Reader | None,
    directory: Path,
    *,
    shipped: bool = False,
    look: Callable[[Path], disk.Free] = disk.free,
) -> disk.Space:
    """
    What pictures, ledger and table take; `directory` is on the file system that must hold them.

    :param shipped: whether pictures go elsewhere.
    """
    seen = reader.picture_bytes(most=100) if reader is not None else None
    guess = disk.SIMULATED if endpoint.provider.simulated else disk.PICTURE
    return disk.Space(
        directory=directory,
        picture=seen or guess,
        reserve=disk.reserve(tasks=manifest.tasks, manifest=manifest.path.stat().st_size, shipped=shipped),
        look=look,
        shipped=shipped,
    )


def check_room(
    job: Job,
    endpoint: Endpoint,
    manifest: Manifest,
    reader: Reader,
    only: frozenset[str] | None,
    *,
    finished: Finished,
    space: disk.Space,
) -> None:
    """
    Refuse a run whose pictures cannot all be written; they are counted only where it is tight.

    :param finished: what is none of the run's.
    :raises InputError: there is too little room.
    """
    most = min(manifest.tasks - finished.tasks, job.limit or manifest.tasks)
    if space.fitting(most)[1] is not None:
        _, kinds = _wanted(job, manifest, reader, only, finished)
        told = shortage(space, affordable(job, endpoint, reader, _pictures(kinds)))
        if told is not None:
            raise InputError(told)


def shortage(space: disk.Space, pictures: int) -> str | None:
    """What so many pictures have too little room for, and what to do about it."""
    fit, missing = space.fitting(pictures)
    if missing is None or not pictures:
        return None
    part = f", or buy only a part of the rows with --limit ({fit:,} more fit)" if fit else ""
    return f"{missing}, choose another disk with -o{part}"


def affordable(job: Job, endpoint: Endpoint, reader: Reader | None, pictures: int) -> int:
    """So many of these pictures as the budget allows: it may end a run before the disk does."""
    usual = pricing.usual(endpoint.model)
    if job.budget is None or not usual:
        return pictures
    spent = reader.totals().counted_usd if reader is not None else ZERO
    return min(pictures, max(0, math.ceil((Decimal(str(job.budget)) - spent) / usual)))


class Left(Value, frozen=True, kw_only=True):
    """What a run did not come to."""

    tasks: int = 0
    waiting: int = 0
    """Tasks that continue one without a picture, which the run was not about."""
    usd: Decimal | None = ZERO
    """About, at what the like have cost so far."""
    most_usd: Decimal = ZERO
    """Hardly more, at what the dearest have."""


def left(
    job: Job, endpoint: Endpoint, manifest: Manifest, reader: Reader, only: frozenset[str] | None
) -> Left:
    """What is still to be bought, now that the run has ended."""
    # What this run was to buy anew is pending until it has been.
    job = msgspec.structs.replace(job, again=False, retry_failed=False)
    counts, kinds = _wanted(job, manifest, reader, only, left_alone(job, manifest, reader, None))
    costs = {kind: reader.costs(*kind, most=Estimate.RECENT) for kind in kinds}

    def usual(name: str, expect: Expect) -> Decimal | None:
        paid = costs[name, expect]
        return (
            sum(paid, ZERO) / len(paid)
            if paid
            else pricing.usual(providers.model_of(endpoint.provider, name), expect)
        )

    def dear(kind: Kind) -> Decimal:
        careful = pricing.careful(providers.model_of(endpoint.provider, kind[0])) or ZERO
        return Estimate(careful, costs[kind]).likely

    about = _about(kinds, usual)
    most = sum((dear(kind) * count for kind, count in kinds.items()), ZERO)
    return Left(
        tasks=counts[Fate.BUY],
        waiting=counts[Fate.WAIT],
        usd=None if about is None else round(about, 2),
        most_usd=most,
    )
