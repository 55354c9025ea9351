"""Settings: the table of the HTTP contract, the order of the sources, and one clear line for every mistake."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from jobpipe.cli import main
from jobpipe.settings.server import KINDS, BadSetting, Settings, env_names, masked

DEFAULTS: dict[str, object] = {
    "workers": 4,
    "queue_size": 64,
    "processes": None,
    "max_tasks_per_process": 0,
    "max_rss": None,
    "pool": True,
    "queues": None,
    "host": "127.0.0.1",
    "port": 8080,
    "allowed_hosts": frozenset(),
    "api_keys_file": "",
    "api_keys": "",
    "key_rate": float("inf"),
    "store": "sqlite:///jobpipe.db",
    "max_queues": 1000,
    "max_retries": 3,
    "max_lost": 3,
    "handler_wait": 3600.0,
    "retry_base": 0.2,
    "retry_jitter": 0.1,
    "retry_cap": 300.0,
    "timeout": 3600.0,
    "lease": 30.0,
    "shutdown_grace": 25.0,
    "retention": 86400.0,
    "retention_failed": 604800.0,
    "max_body": 1024 * 1024,
    "max_batch_body": 16 * 1024 * 1024,
    "enqueue_status": 202,
    "fast_lane": True,
    "loop": "auto",
    "app_dir": "",
    "log_level": "INFO",
    "log_format": "text",
    "otel": False,
    "simulate_min": 0.1,
    "simulate_max": 0.5,
    "simulate_failures": 0.2,
}


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    def shown(self, name: str) -> Any:
        return json.loads(self.out)[name]["value"]

    def source(self, name: str) -> Any:
        return json.loads(self.out)[name]["source"]


Config = Callable[..., Ended]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder and none of our variables."""
    monkeypatch.chdir(tmp_path)
    for name in KINDS:
        for variable in env_names(name):
            monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def config(capsys: pytest.CaptureFixture[str]) -> Config:
    def run(*flags: str) -> Ended:
        code = main(["config", "-o", "json", *flags])
        return Ended(code, *capsys.readouterr())

    return run


def refused(ended: Ended) -> str:
    """The one line that a refused start says."""
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("jobpipe: error: ")
    assert ended.err.count("\n") == 1
    assert ended.err.endswith("\n")
    return ended.err


# The table


def test_the_defaults_are_those_of_the_contract() -> None:
    assert dataclasses.asdict(Settings()) == DEFAULTS


def test_every_field_has_its_kind_and_its_place_in_the_same_order() -> None:
    assert [field.name for field in dataclasses.fields(Settings)] == list(KINDS)


def test_the_inherited_variables_need_no_prefix_and_all_others_have_it() -> None:
    assert env_names("workers") == ["WORKERS", "JOBPIPE_WORKERS"]
    assert env_names("queue_size") == ["QUEUE_SIZE", "JOBPIPE_QUEUE_SIZE"]
    others = set(KINDS) - {"workers", "queue_size"}
    assert all(env_names(name) == [f"JOBPIPE_{name.upper()}"] for name in others)


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().workers = 5  # type: ignore[misc]


CHANGED: dict[str, tuple[str, object]] = {
    "workers": ("8", 8),
    "queue_size": ("1000000", 1_000_000),
    "processes": ("2", 2),
    "max_tasks_per_process": ("100", 100),
    "max_rss": ("512MiB", 512 * 1024**2),
    "pool": ("false", False),
    "queues": ("a,b.c", ["a", "b.c"]),
    "host": ("::1", "::1"),
    "port": ("0", 0),
    "allowed_hosts": ("Example.org,b.example", ["b.example", "example.org"]),
    "api_keys_file": ("/etc/jobpipe/keys", "/etc/jobpipe/keys"),
    "api_keys": (f"ci:enqueue,read:{'ab' * 32}; ops:admin:{'cd' * 32}:rate=5/s", "***"),
    "key_rate": ("0.5", 0.5),
    "store": ("memory:", "memory:"),
    "max_queues": ("5", 5),
    "max_retries": ("0", 0),
    "max_lost": ("2", 2),
    "handler_wait": ("60", 60.0),
    "retry_base": ("0", 0.0),
    "retry_jitter": ("1e-3", 0.001),
    "retry_cap": (".5", 0.5),
    "timeout": ("inf", "inf"),
    "lease": ("5", 5.0),
    "shutdown_grace": ("0", 0.0),
    "retention": ("inf", "inf"),
    "retention_failed": ("0", 0.0),
    "max_body": ("64KiB", 65536),
    "max_batch_body": ("1 gib", 1024**3),
    "enqueue_status": ("201", 201),
    "fast_lane": ("false", False),
    "loop": ("asyncio", "asyncio"),
    "app_dir": ("src", "src"),
    "log_level": ("warning", "WARNING"),
    "log_format": ("JSON", "json"),
    "otel": ("true", True),
    "simulate_min": ("0", 0.0),
    "simulate_max": ("2.5", 2.5),
    "simulate_failures": ("1", 1.0),
}


@pytest.mark.parametrize("name", KINDS)
def test_each_setting_is_a_flag(name: str, config: Config) -> None:
    text, value = CHANGED[name]
    flag = name.replace("_", "-")
    switched = [f"--{flag}"] if value is True else [f"--no-{flag}"] if value is False else [f"--{flag}", text]
    ended = config(*switched)
    assert (ended.shown(name), ended.source(name)) == (value, "flag")


@pytest.mark.parametrize(("name", "variable"), [(name, env) for name in KINDS for env in env_names(name)])
def test_each_setting_is_a_variable(
    name: str, variable: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, value = CHANGED[name]
    monkeypatch.setenv(variable, text)
    ended = config()
    assert (ended.shown(name), ended.source(name)) == (value, f"environment {variable}")


@pytest.mark.parametrize(("name", "variable"), [(name, env) for name in KINDS for env in env_names(name)])
def test_each_setting_is_a_line_of_dotenv(name: str, variable: str, config: Config) -> None:
    text, value = CHANGED[name]
    Path(".env").write_text(f'# a comment\nexport {variable}="{text}"\nSOMEBODY_ELSES=1\n')
    ended = config()
    assert (ended.shown(name), ended.source(name)) == (value, ".env")


@pytest.mark.parametrize("text", ["hunter2", "ci:read:hunter2", "ci:hunter2:" + "ab" * 32, "hunter2!:read:x"])
def test_a_key_in_the_place_of_its_hash_is_not_repeated(
    text: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBPIPE_API_KEYS", text)
    ended = config()
    assert ended.code == 2
    assert "entry 1" in ended.err
    assert "hunter2" not in ended.err


@pytest.mark.parametrize("name", KINDS)
def test_each_setting_is_a_key_of_the_toml(name: str, config: Config) -> None:
    text, value = CHANGED[name]
    bare = isinstance(value, (int, float)) and name not in ("max_body", "max_batch_body", "max_rss")
    native = {
        "pool": "false",
        "fast_lane": "false",
        "timeout": "inf",
        "retention": "inf",
        "retry_cap": "0.5",
    }.get(name, text if bare else json.dumps(text))
    Path("jobpipe.toml").write_text(f"{name} = {native}\n")
    ended = config()
    assert (ended.shown(name), ended.source(name)) == (value, "jobpipe.toml")


# The order of the sources


def test_flags_win_over_environment_over_dotenv_over_toml_over_defaults(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (config().shown("workers"), config().source("workers")) == (4, "default")
    Path("jobpipe.toml").write_text("workers = 5\nqueue-size = 50\n")
    assert config().shown("workers") == 5
    Path(".env").write_text("WORKERS=6\n")
    assert config().shown("workers") == 6
    monkeypatch.setenv("JOBPIPE_WORKERS", "7")
    assert config().shown("workers") == 7
    ended = config("--workers", "8")
    assert ended.shown("workers") == 8
    assert ended.shown("queue_size") == 50


def test_the_short_variable_wins_over_the_long_one(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBPIPE_WORKERS", "7")
    monkeypatch.setenv("WORKERS", "3")
    assert config().source("workers") == "environment WORKERS"
    Path(".env").write_text("JOBPIPE_QUEUE_SIZE=1\nQUEUE_SIZE=2\n")
    assert config().shown("queue_size") == 2


def test_lists_may_be_arrays_in_the_toml(config: Config) -> None:
    Path("jobpipe.toml").write_text('queues = ["b", "a"]\nallowed_hosts = ["x.example"]\n')
    assert config().shown("queues") == ["a", "b"]
    assert config().shown("allowed_hosts") == ["x.example"]


def test_dotenv_values_are_taken_as_written(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X", "expanded")
    Path(".env").write_text("JOBPIPE_STORE='sqlite:///${X}.db'\n")
    assert config().shown("store") == "sqlite:///${X}.db"


# Mistakes

NOT_WHOLE = ["nan", "inf", "1.5", "1_000", "0x10", "", " 5", "5 ", "\u0665", "true", "1e3", "9" * 5000, "-1"]
NOT_SECONDS = ["nan", "-inf", "-1", "1_0", "0x1", "", "1s", "1e999", "infinity", "Inf", "."]


@pytest.mark.parametrize("text", NOT_WHOLE)
@pytest.mark.parametrize("name", ["workers", "queue_size", "port", "max_retries"])
def test_what_is_no_whole_number_is_refused(
    name: str, text: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = "--" + name.replace("_", "-")
    line = refused(config(f"{flag}={text}"))
    assert flag in line
    assert text[:50] in line
    monkeypatch.setenv(f"JOBPIPE_{name.upper()}", text)
    assert f"environment JOBPIPE_{name.upper()}" in refused(config())


@pytest.mark.parametrize("text", NOT_SECONDS)
@pytest.mark.parametrize("name", ["timeout", "retry_base", "lease", "retention", "shutdown_grace"])
def test_what_is_no_duration_is_refused(name: str, text: str, config: Config) -> None:
    assert repr(text) in refused(config(f"--{name.replace('_', '-')}={text}"))


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--workers", "0"),
        ("--workers", "10001"),
        ("--queue-size", "0"),
        ("--max-queues", "0"),
        ("--max-retries", "1001"),
        ("--max-lost", "1"),
        ("--port", "65536"),
        ("--lease", "4.9"),
        ("--lease", "3601"),
        ("--lease", "inf"),
        ("--timeout", "0"),
        ("--timeout", "1e18"),
        ("--retry-base", "inf"),
        ("--retry-jitter", "inf"),
        ("--retry-cap", "inf"),
        ("--shutdown-grace", "inf"),
        ("--simulate-failures", "1.01"),
        ("--simulate-max", "inf"),
        ("--enqueue-status", "204"),
        ("--log-level", "TRACE"),
        ("--log-format", "xml"),
        ("--max-body", "0"),
        ("--max-body", "1MB"),
        ("--max-body", "1.5MiB"),
        ("--max-body", "2GiB"),
        ("--queues", "a,,b"),
        ("--queues", "*,a"),
        ("--queues", "a/b"),
        ("--queues", "q" * 101),
        ("--allowed-hosts", "example.org:80"),
        ("--host", "a b"),
        ("--store", "mysql://host/db"),
        ("--store", "jobpipe.db"),
        ("--store", "sqlite:///"),
        ("--store", "sqlite://relative.db"),
    ],
)
def test_values_out_of_bounds_are_refused_by_name(flag: str, text: str, config: Config) -> None:
    line = refused(config(flag, text))
    assert f"{flag}: must be " in line
    assert repr(text)[1:60] in line


def test_auto_leaves_the_choice_to_the_program(config: Config) -> None:
    Path("jobpipe.toml").write_text('processes = 2\nmax_rss = "auto"\n')
    ended = config("--processes", "auto")
    assert (ended.shown("processes"), ended.shown("max_rss")) == ("auto", "auto")
    line = refused(config("--processes", "some"))
    assert "must be a whole number from 0 to 1000, or auto (1 with an app, else 0), not 'some'" in line
    assert config("--max-rss", "0").shown("max_rss") == 0
    assert config("--max-rss", "64GiB").shown("max_rss") == 64 * 1024**3


def test_each_process_has_a_worker_at_least(config: Config) -> None:
    assert "--processes: must be at most workers (4), not '5'" in refused(config("--processes", "5"))
    assert config("--processes", "5", "--workers", "5").code == 0


def test_the_bounds_of_simulate_are_compared(config: Config) -> None:
    line = refused(config("--simulate-min", "0.9"))
    assert "simulate_max: must be at least simulate_min (0.9), not '0.5' (default)" in line
    assert "--simulate-max: must be" in refused(config("--simulate-max", "0.05"))
    assert config("--simulate-min", "1", "--simulate-max", "1").code == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("workers = ", "jobpipe.toml"),
        ("workers = 5\nworkers = 6", "jobpipe.toml"),
        ('workers = "5"', "'5' (a string in jobpipe.toml)"),
        ("workers = 5.0", "(a float in jobpipe.toml)"),
        ("workers = true", "'true' (a boolean in jobpipe.toml)"),
        ("workers = 0", "'0' (jobpipe.toml)"),
        ("workers = [1]", "(an array in jobpipe.toml)"),
        ("lease = 2026-01-01", "(a time in jobpipe.toml)"),
        ("timeout = nan", "'nan' (jobpipe.toml)"),
        ("pool = 1", "(an integer in jobpipe.toml)"),
        ('enqueue_status = "201"', "(a string in jobpipe.toml)"),
        ('queues = ["a,b"]', "(an array in jobpipe.toml)"),
        ("queues = []", "queues"),
        ("worker = 5", "unknown setting 'worker', did you mean workers?"),
        ("zzz = 5", "unknown setting 'zzz'"),
        ("queue-size = 1\nqueue_size = 2", "queue_size: is given twice"),
        ("[serve]\nworkers = 5", "has no table [serve]"),
        ('["a\\nb"]\nworkers = 5', "has no table"),
        ("[workers]\nn = 5", "workers: must be"),
    ],
)
def test_mistakes_in_the_toml_are_named(content: str, said: str, config: Config) -> None:
    Path("jobpipe.toml").write_text(content)
    assert said in refused(config())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("WORKERS=x", "workers: must be a whole number from 1 to 10000, not 'x' (.env)"),
        ("WORKERS=", "not '' (.env)"),
        ("WORKERS", "not '' (.env)"),
        ("\nA='open", ".env: line"),
    ],
)
def test_mistakes_in_dotenv_are_named(content: str, said: str, config: Config) -> None:
    Path(".env").write_text(content)
    assert said in refused(config())


@pytest.mark.parametrize("name", [".env", "jobpipe.toml"])
def test_a_file_that_cannot_be_read_stops_the_start(name: str, config: Config) -> None:
    Path(name).mkdir()
    assert f"{name}: cannot be read" in refused(config())
    Path(name).rmdir()
    Path(name).write_bytes(b"\xff")
    assert f"{name}: is not UTF-8" in refused(config())


def test_a_mistake_in_a_file_is_told_even_when_a_flag_wins(config: Config) -> None:
    Path("jobpipe.toml").write_text("workers = true")
    refused(config("--workers", "2"))


def test_an_error_is_one_line_whatever_the_value_holds(config: Config) -> None:
    line = refused(config("--host", "a\nb\x1b[31m\u2028"))
    assert r"a\nb\x1b[31m\u2028" in line
    assert len(refused(config("--host", "h" * 10_000))) < 300


# Settings built in Python


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": True},
        {"workers": 0},
        {"workers": 1.0},
        {"workers": "4"},
        {"timeout": math.nan},
        {"timeout": "inf"},
        {"queues": frozenset()},
        {"queues": {"a"}},
        {"pool": 1},
        {"log_level": "info"},
        {"enqueue_status": True},
        {"store": None},
        {"simulate_min": 1.0},
    ],
)
def test_no_settings_with_a_wrong_value_can_be_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadSetting):
        Settings(**wrong)


# Passwords


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://user:secret@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:se/cr?e@t@host:5432/db", "postgresql://user:***@host:5432/db"),
        ("postgresql://user@host:5432/db", "postgresql://user@host:5432/db"),
        ("postgresql://host:5432/db", "postgresql://host:5432/db"),
        ("postgresql://host/db?password=secret&x=1", "postgresql://host/db?password=***&x=1"),
        ("postgresql://:secret@host/db", "postgresql://:***@host/db"),
        ("postgresql://u:hun#ter@h/d", "postgresql://u:***@h/d"),
        (
            "postgresql://h/d?p%61ssword=hunter&sslmode=require",
            "postgresql://h/d?password=***&sslmode=require",
        ),
        ("postgresql://h/d?password=hun#ter@2&x=1", "postgresql://h/d?password=***&x=1"),
        (
            "postgresql://u:a@h/d?sslpassword=hunter&PassFile=/h",
            "postgresql://u:***@h/d?sslpassword=***&PassFile=***",
        ),
        ("postgresql://h1:5,h2/d?direct=postgresql://u:hunter@h/d", "postgresql://h1:5,h2/d?direct=***"),
        ("postgresql://u@h/d?dir%65ct=postgresql%3A%2F%2Fu%3Ahunter%40h", "postgresql://u@h/d?direct=***"),
        ("postgresql://u:hun?x=ter@h/d", "postgresql://***"),
        ("postgresql://u:12?x=hunter@h/d", "postgresql://***"),
        ("postgresql://u:p@hun?x=ter@h/d", "postgresql://***"),
        ("postgresql://u:p@h/d?hunter", "postgresql://***"),
        ("postgresql://h/d?pass word=hunter", "postgresql://***"),
        ("postgresql:u:hunter@h/d", "***"),
        ("host=h password=hunter", "***"),
        ("sqlite:////data/a:b@c.db", "sqlite:////data/a:b@c.db"),
        ("sqlite://u:hunter@h/d", "sqlite://u:***@h/d"),
        ("http://u:hunter@h:port", "http://u:***@h:port"),
        ("u:hunter@h:8080", "***"),
        ("memory:", "memory:"),
        ("plain text", "plain text"),
    ],
)
def test_passwords_are_masked(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_no_answer_shows_the_password_of_the_store(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = config("--store", "postgresql://user:secret@host/db")
    assert ended.shown("store") == "postgresql://user:***@host/db"
    assert config("--store", "postgres://user:secret@host/db").shown("store") == "postgres://user:***@host/db"
    assert "secret" not in refused(config("--store", "postgre://user:secret@host/db"))
    monkeypatch.setenv("JOBPIPE_STORE", "pg://user:secret@host/db")
    assert "secret" not in refused(config())
    monkeypatch.delenv("JOBPIPE_STORE")
    Path("jobpipe.toml").write_text('store = ["postgresql://user:secret@host/db"]')
    assert "secret" not in refused(config())
    with pytest.raises(BadSetting) as caught:
        Settings(store="pg://user:secret@host/db")
    assert "secret" not in str(caught.value)
