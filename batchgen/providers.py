"""
Which endpoints and models are known, at which price?

The data is `models.toml` beside this module: dated, with its source. Nothing here is read from the network.
"""

from __future__ import annotations

import functools
import ipaddress
import tomllib
import urllib.parse
from decimal import Decimal, InvalidOperation
from importlib import resources
from typing import TYPE_CHECKING, Any

import msgspec

from batchgen.errors import InputError, nearest
from batchgen.records import Model, Price, Provider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

SIZES = ("512", "1K", "2K", "4K")
"""The picture sizes a model may have its tokens listed for."""

_LOOPBACK_4, _LOOPBACK_6 = ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Address("::1")
_PASTED = ("/chat/completions", "/images/generations", "/images/edits")
_PRICE_KEYS = tuple(field.name for field in msgspec.structs.fields(Price))
_PRICE_NEEDED = tuple(field.name for field in msgspec.structs.fields(Price) if field.required)
_MODEL_KEYS = tuple(field.name for field in msgspec.structs.fields(Model) if field.name != "id")
_MOST_USD = Decimal(1_000_000)


@functools.cache
def catalogue() -> Mapping[str, Provider]:
    """All known providers by name."""
    text = resources.files("batchgen").joinpath("models.toml").read_text(encoding="utf-8")
    raw = tomllib.loads(text)
    providers = _inherit(raw["providers"], raw["providers"])
    for name, table in providers.items():
        sold = {model["id"]: model for model in table["models"]}
        models = _inherit(sold, raw["models"]).values()
        own = [model | {"aliases": _without(model["aliases"], model["id"])} for model in models]
        providers[name] = table | {"name": name, "models": own}
    return msgspec.convert(providers, dict[str, Provider])


def find(name: str) -> Provider:
    """
    The known provider of this name, in any case.

    :raises InputError: There is none.
    """
    known = catalogue()
    found = known.get(name.strip().casefold())
    if found is None:
        raise InputError(
            f"unknown provider {name!r}{nearest(name, known) or '; known: ' + ', '.join(known)}"
            " (any other endpoint: --base-url)"
        )
    return found


def speaking(provider: Provider, dialect: str | None) -> Provider:
    """
    The provider as it is reached in a wire format; its own when None.

    :raises InputError: it is not known to speak it.
    """
    if dialect is None or dialect == provider.dialect:
        return provider
    way = provider.ways.get(dialect)
    if way is None:
        known = ", ".join(repr(name) for name in (provider.dialect, *provider.ways))
        raise InputError(f"--dialect: {provider.title} is not known to speak {dialect!r}; known: {known}")
    return msgspec.structs.replace(
        provider,
        dialect=dialect,
        base_url=way.base_url,
        key_header=way.key_header,
        image_options=way.image_options,
    )


def find_model(provider: Provider, name: str) -> Model | None:
    """The provider's model of this id or alias, in any case; an id goes before an alias."""
    wanted = name.strip().casefold()
    by_id = (model for model in provider.models if model.id.casefold() == wanted)
    by_alias = (model for model in provider.models if wanted in map(str.casefold, model.aliases))
    return next(by_id, None) or next(by_alias, None)


def model_of(provider: Provider, name: str) -> Model:
    """What is known of a model: of one the provider does not list, its name."""
    return find_model(provider, name) or Model(id=name.strip())


def models_of(provider: Provider) -> Callable[[str], Model]:
    """See `model_of`; each name is looked up once."""
    return functools.cache(functools.partial(model_of, provider))


def at_url(base_url: str, *, dialect: str | None = None) -> Provider:
    """
    The provider at a base URL: a known one if it is its address, else one without models and prices.

    :param dialect: the wire format; by None that of the address, or else `chat`.

    A trailing slash and a pasted path of a dialect (`/chat/completions`) are taken off.

    :raises InputError: It is no http(s) URL, or it holds a key, a query or a fragment.
    """
    url = _base(base_url)
    for provider in catalogue().values():
        for name in (provider.dialect, *provider.ways):
            known = speaking(provider, name)
            if known.base_url == url and dialect in {None, name}:
                return known
    return Provider(name="custom", title=url, base_url=url, dialect=dialect or "chat")


def is_loopback(base_url: str) -> bool:
    """
    Whether a base URL (of `at_url`) leads to this machine and nowhere else, whoever resolves it.

    Only `localhost`, 127.0.0.0/8 and ::1 in their usual notation: what merely looks so (`127.1`, a number,
    `localhost.` with a dot) is read differently by different programs.
    """
    host = urllib.parse.urlsplit(base_url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address == _LOOPBACK_6 or address in _LOOPBACK_4


def override(provider: Provider, models: Mapping[str, Mapping[str, object]]) -> Provider:
    """
    The provider with a job's `[models."id"]` tables laid over its models; unknown ids are added.

    A table may name a model by an alias, and may state a part of a known price.

    :raises InputError: A key is unknown, a value is of the wrong kind, or two models would share a name.
    """
    known = {model.id: model for model in provider.models}
    for name, table in models.items():
        where = f'[models."{name}"]'
        if not name.strip():
            raise InputError(f"{where}: a model needs a name")
        model = model_of(provider, name)
        known[model.id] = _changed(model, table, where)
    _check_names(known.values())
    return msgspec.structs.replace(provider, models=tuple(known.values()))


def _inherit(tables: Mapping[str, Any], parents: Mapping[str, Any]) -> dict[str, Any]:
    """Each table over the one it is `like`."""
    return {name: _over(table, parents) for name, table in tables.items()}


def _over(table: Mapping[str, Any], parents: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in table.items() if key != "like"}
    return {**parents[table["like"]], **own} if "like" in table else own


def _without(names: Iterable[str], one: str) -> tuple[str, ...]:
    return tuple(name for name in names if name != one)


def _base(text: str) -> str:
    try:
        parts = urllib.parse.urlsplit(text.strip())
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
        # Reading a port that is none raises.
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        raise InputError("--base-url: not a URL; it looks like https://host/v1") from None
    if "@" in text or parts.query or parts.fragment:
        # Not shown: it may hold a key.
        raise InputError(
            "--base-url: a URL without user, query and fragment is needed; keys belong into BATCHGEN_API_KEY"
        )
    if not usable or any(character.isspace() for character in parts.netloc + parts.path):
        raise InputError("--base-url: not an http(s) URL; it looks like https://host/v1")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    path = parts.path.rstrip("/")
    pasted = next((end for end in _PASTED if path.casefold().endswith(end)), "")
    path = path[: len(path) - len(pasted)].rstrip("/")
    return f"{parts.scheme}://{host}{port}{path}"


def _changed(model: Model, table: Mapping[str, object], where: str) -> Model:
    if not isinstance(table, dict):
        raise InputError(
            f"{where}: a table is needed, such as price = {{ input = 0.5, text = 3, image = 60 }}"
        )
    _check_keys(table, _MODEL_KEYS, where)
    changes = dict(table)
    if "price" in changes:
        changes["price"] = _price(model.price, changes["price"], f"{where} price")
    if "image_tokens" in changes:
        changes["image_tokens"] = _image_tokens(changes["image_tokens"], f"{where} image_tokens")
    for key in ("max_output_tokens", "context_tokens", "max_references", "reference_tokens"):
        if key in changes:
            changes[key] = _whole(changes[key], f"{where} {key}")
    try:
        return msgspec.convert({**msgspec.structs.asdict(model), **changes}, Model)
    except msgspec.ValidationError as error:
        raise InputError(f"{where}: {error}") from error


def _check_keys(table: Mapping[str, object], known: Iterable[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise InputError(
                f"{where}: unknown key {key!r}{nearest(key, known) or '; known: ' + ', '.join(known)}"
            )


def _price(old: Price | None, value: object, where: str) -> Price:
    if not isinstance(value, dict):
        raise InputError(
            f"{where}: a table is needed: {{ input = 0.5, text = 3, image = 60 }} (USD per million tokens)"
        )
    _check_keys(value, _PRICE_KEYS, where)
    stated = {key: _money(amount, f"{where}.{key}") for key, amount in value.items()}
    parts = (msgspec.structs.asdict(old) if old is not None else {}) | stated
    missing = [key for key in _PRICE_NEEDED if key not in parts]
    if missing:
        raise InputError(f"{where}: {', '.join(missing)} missing (USD per million tokens)")
    return Price(**parts)


def _money(value: object, where: str) -> Decimal:
    try:
        # By way of its text, so that 0.1 is a tenth.
        amount = Decimal(str(value)) if isinstance(value, int | float | str | Decimal) else Decimal("NaN")
    except InvalidOperation:
        amount = Decimal("NaN")
    if isinstance(value, bool) or not amount.is_finite() or not 0 <= amount <= _MOST_USD:
        raise InputError(f"{where}: {value!r} is no price in USD per million tokens")
    return amount


def _image_tokens(value: object, where: str) -> dict[str, int]:
    if not isinstance(value, dict):
        raise InputError(f'{where}: a table is needed: {{ "1K" = 1120, "2K" = 1680 }}')
    _check_keys(value, SIZES, where)
    return {size: _whole(tokens, f"{where}.{size}") for size, tokens in value.items()}


def _whole(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 10**9:
        raise InputError(f"{where}: {value!r} is no whole number above 0")
    return value


def _check_names(models: Iterable[Model]) -> None:
    owners: dict[str, str] = {}
    for model in models:
        for name in {name.casefold() for name in (model.id, *model.aliases)}:
            other = owners.setdefault(name, model.id)
            if other != model.id:
                raise InputError(f'[models."{model.id}"]: the name {name!r} already belongs to {other!r}')
