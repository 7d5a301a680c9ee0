"""A job is resolved once, in the order of precedence, and says what is wrong with it in its owner's words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from batchgen import job as jobs
from batchgen.errors import InputError
from batchgen.imaging import Check
from batchgen.job import Job, OnUncertain

LOCAL = "http://127.0.0.1:9/v1"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def toml(folder: Path, text: str, name: str = "night.toml") -> str:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path.relative_to(folder))


def test_a_manifest_alone_is_a_job(folder: Path) -> None:
    job = jobs.resolve("prompts.csv", {})
    assert (job.manifest, jobs.directory(job)) == ("prompts.csv", Path("runs/prompts"))
    assert (job.concurrency, job.attempts, job.timeout, job.check) == (8, 5, 300.0, Check.FULL)


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("a/b.parquet", "runs/b"),
        ("a/b.csv.gz", "runs/b"),
        ("x.jsonl", "runs/x"),
        ("-", "runs/stdin"),
        (".csv", "runs/run"),
        ("my.prompts.tsv", "runs/my.prompts"),
    ],
)
def test_the_run_directory_is_named_after_the_source(folder: Path, source: str, output: str) -> None:
    assert jobs.directory(jobs.resolve(source, {})) == Path(output)


def test_what_is_given_goes_before_the_job_file_and_that_before_the_defaults(folder: Path) -> None:
    source = toml(folder, 'manifest = "p.csv"\nrpm = 10\nconcurrency = 3\non_uncertain = "skip"\n')
    job = jobs.resolve(source, {"rpm": 20})
    assert (job.rpm, job.concurrency, job.on_uncertain, job.attempts) == (20, 3, OnUncertain.SKIP, 5)
    assert job.output == "runs/night"


def test_paths_in_a_job_file_are_relative_to_it(folder: Path) -> None:
    source = toml(folder, 'manifest = "../p.csv"\noutput = "out"\nonly = "ids.txt"\n', "jobs/night.toml")
    job = jobs.resolve(source, {})
    assert (job.manifest, job.output, job.only) == ("p.csv", "jobs/out", "jobs/ids.txt")
    assert jobs.resolve(toml(folder, 'manifest = "-"'), {}).manifest == "-"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'manifest = "p.csv"\nconcurency = 3',
            r"night\.toml: unknown key 'concurency'; did you mean 'concurrency'\?",
        ),
        ("rpm = 3", r"night\.toml: no manifest; add `manifest = "),
        ("rpm = = 3", r"night\.toml: not valid TOML"),
        ('manifest = "p.csv"\nrpm = -3', r"night\.toml: rpm: expected a number above 0\.0, got -3"),
        ('manifest = "p.csv"\nrpm = "x"', r"night\.toml: rpm: expected a number, got 'x'"),
        ('manifest = "p.csv"\ncheck = "half"', r"night\.toml: check: invalid enum value 'half'"),
        ('manifest = "p.csv"\n[columns]\nprompt = 3', r"night\.toml: columns\["),
    ],
)
def test_a_job_file_is_refused_with_file_key_and_value(folder: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        jobs.resolve(toml(folder, text), {})


def test_a_flag_is_refused_under_its_own_name(folder: Path) -> None:
    with pytest.raises(InputError, match=r"--top-p: expected a number of at most 1\.0, got 2\.0"):
        jobs.resolve("p.csv", {"top_p": 2.0})


def test_a_job_file_that_is_not_there_is_told(folder: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.toml: no such file"):
        jobs.resolve("gone.toml", {})


def where(environment: dict[str, str] | None = None, **values: Any) -> jobs.Endpoint:
    return jobs.endpoint(
        Job(manifest="p.csv", **values), {"BATCHGEN_API_KEY": "k"} if environment is None else environment
    )


def test_the_key_comes_from_the_environment_and_is_never_shown() -> None:
    found = where({"CORE_TODAY_API_KEY": " cdt_secret\n"})
    assert found.key == "cdt_secret"
    assert "secret" not in repr(found)


def test_a_missing_key_is_told_with_its_variable_and_the_way_without_one() -> None:
    with pytest.raises(InputError, match=r"set BATCHGEN_API_KEY or CORE_TODAY_API_KEY.*--provider simulator"):
        where({})


def test_a_base_url_alone_has_no_prices_and_beside_a_provider_that_one_s() -> None:
    assert where({}, base_url=LOCAL).model.price is None
    found = where({}, base_url=LOCAL, provider="core-today")
    assert found.model.price is not None
    assert (found.provider.name, found.provider.base_url) == ("core-today", LOCAL)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8080/v1",
        "HTTP://LOCALHOST/v1",
        "http://127.0.0.1/v1",
        "http://127.8.9.10:1/v1",
        "http://[::1]:8080/v1",
        "https://anywhere.example/v1",
    ],
)
def test_the_way_to_ones_own_machine_and_an_encrypted_one_are_private(url: str) -> None:
    assert where(base_url=url).key == "k"


@pytest.mark.parametrize(
    "url",
    [
        "http://gateway.lan:4000/v1",
        "http://127.0.0.1.evil.com/v1",
        "http://localhost.evil.com/v1",
        "http://evil.com/localhost",
        "http://evil.com:80/127.0.0.1",
        "http://localhost./v1",
        "http://2130706433/v1",
        "http://0x7f000001/v1",
        "http://127.1/v1",
        "http://0177.0.0.1/v1",
        "http://0.0.0.0/v1",
        "http://127。0。0。1/v1",
        "http://１２７.0.0.1/v1",
        "http://ⓛocalhost/v1",
        "http://[::ffff:127.0.0.1]/v1",
        "http://[::1%25eth0]/v1",
        "http://10.0.0.1/v1",
    ],
)
def test_an_open_way_to_another_machine_is_refused_unless_it_is_meant(url: str) -> None:
    for environment in ({"BATCHGEN_API_KEY": "k"}, None):
        with pytest.raises(InputError, match=r"not encrypted.*use https://, or --allow-http"):
            jobs.endpoint(Job(manifest="p.csv", base_url=url), environment)
    assert where(base_url=url, allow_http=True).key == "k"


@pytest.mark.parametrize(
    "url", ["http://localhost@evil.com/v1", "http://127.0.0.1\\@evil.com/v1", "http://evil.com#@localhost/"]
)
def test_a_host_that_hides_behind_another_is_no_base_url(url: str) -> None:
    with pytest.raises(InputError, match="--base-url"):
        where(base_url=url, allow_http=True)


def test_a_key_file_goes_before_every_variable_and_is_no_matter_of_a_dry_run(folder: Path) -> None:
    (folder / "key").write_text("of-the-file\n")
    (folder / "key").chmod(0o600)
    both = {"BATCHGEN_API_KEY": "one", "CORE_TODAY_API_KEY": "other"}
    assert where(both, key_file="key").key == "of-the-file"
    assert where(both).key == "one"
    assert jobs.endpoint(Job(manifest="p.csv", key_file="gone"), None).key is None
    assert where({}, provider="simulator", key_file="gone").key == "simulated"


def test_a_key_file_of_a_job_file_is_beside_it_or_at_home(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder / "home"))
    source = toml(folder, 'manifest = "p.csv"\nkey_file = "key"\n', "jobs/a.toml")
    assert jobs.resolve(source, {}).key_file == "jobs/key"
    source = toml(folder, 'manifest = "p.csv"\nkey_file = "~/key"\n', "jobs/b.toml")
    assert jobs.resolve(source, {}).key_file == "home/key"


@pytest.mark.parametrize("value", [{"output": "runs/\udcff"}, {"system": "\ud800"}])
def test_a_text_that_no_file_could_hold_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="has bytes that are no UTF-8"):
        jobs.resolve("p.csv", value)
    with pytest.raises(InputError, match="has bytes that are no UTF-8"):
        jobs.checked(Job(**{"manifest": "p.csv", **value}))


def test_a_job_file_of_a_name_that_no_ledger_could_hold_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"SOURCE: .* has bytes that are no UTF-8"):
        jobs.resolve("\udcff.toml", {})


def test_a_server_of_ones_own_needs_no_key() -> None:
    assert where({}, base_url=LOCAL).key is None
    assert where({}, provider="simulator").key is not None
    assert jobs.endpoint(Job(manifest="p.csv"), None).key is None


def test_an_alias_is_sent_as_the_id_the_provider_sells_under() -> None:
    assert where(model="gemini-3-pro-image").model.id == "gemini-3-pro-image-preview"
    assert where(model="gemini-3-pro-image-preview", provider="google").model.id == "gemini-3-pro-image"


def test_an_unknown_model_is_told_with_the_nearest_one() -> None:
    with pytest.raises(InputError, match=r"has no 'gemini-3-pro-imag'; did you mean 'gemini-3-pro-image"):
        where(model="gemini-3-pro-imag")
    assert where(model="anything", base_url=LOCAL).model.price is None


def test_a_job_may_state_a_price_and_a_model_of_its_own() -> None:
    models = {"mine": {"price": {"input": 1, "text": 2, "image": 3}}}
    assert where(model="mine", models=models, base_url=LOCAL).model.price is not None
    with pytest.raises(InputError, match="unknown key"):
        where(models={"mine": {"prise": 1}})


def test_an_unknown_dialect_or_provider_is_told() -> None:
    with pytest.raises(InputError, match="--dialect: 'smoke' is unknown; known: 'chat'"):
        where(dialect="smoke")
    with pytest.raises(InputError, match="did you mean 'core-today'"):
        where(provider="core-toady")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"variants": -1}, "variants: expected a whole number of at least 1, got -1"),
        ({"concurrency": "8"}, "concurrency: expected a whole number, got '8'"),
        ({"temperature": 9.0}, "temperature"),
        ({"budget": -1.0}, "budget: expected a number above 0"),
        ({"budget": float("inf")}, "budget"),
        ({"check": "nope"}, "check: invalid enum value 'nope'"),
        ({"manifest": 3}, "manifest: expected a text"),
    ],
)
def test_a_job_that_a_program_made_is_checked_like_any_other(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        jobs.checked(Job(**{"manifest": "p.csv", **values}))


def test_paths_are_as_good_as_text() -> None:
    made = Job(manifest=Path("p.csv"), output=Path("out"))  # type: ignore[arg-type]
    assert (jobs.checked(made).manifest, jobs.checked(made).output) == ("p.csv", "out")


def test_a_folder_is_no_source(folder: Path) -> None:
    with pytest.raises(InputError, match="a folder; SOURCE is a job file"):
        jobs.resolve(str(folder), {})


def test_the_simulator_has_no_other_address() -> None:
    with pytest.raises(InputError, match="the simulator answers in this process"):
        where(provider="simulator", base_url=LOCAL)
