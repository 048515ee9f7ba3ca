"""Acceptance of the production profile: whatever is killed, nothing acknowledged is lost."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import psycopg
import pytest

from infra.composition import PROJECTORS
from infra.event_store.codec import Codec, Stored
from infra.event_store.postgres import PostgresLog
from infra.postgres.reads import open_engine as open_postgres
from infra.read_store import digest, open_engine
from infra.vault import Vault
from projections.projector import project_all
from tests.e2e.installation import until
from tests.production import Acknowledged, Clients, Production
from tests.servers.fixtures import Private

SEED = 20261122
CLIENTS = 4
VICTIMS = ("api", "relay", "projector-1", "projector-2", "worker", "postgres", "kafka", "redis")
HEAVY = {"api": 0.4, "kafka": 0.2, "postgres": 0.5}
"""How often a victim that starts slowly is chosen, against the others."""


@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(60, marks=pytest.mark.timeout(900)),
        pytest.param(1_000, marks=[pytest.mark.long, pytest.mark.timeout(14_400)]),
    ],
    ids=["ci", "long"],
)
def test_whatever_is_killed_under_load_nothing_acknowledged_is_lost(
    tmp_path: Path,
    private_postgres: Private,
    private_kafka: Private,
    private_redis: Private,
    record_property: Callable[[str, object], None],
    rounds: int,
) -> None:
    production = Production(tmp_path, private_postgres(), private_kafka(), private_redis())
    acknowledged, chance = Acknowledged(tmp_path / "acknowledged"), Random(SEED)
    weights = [HEAVY.get(name, 1.0) for name in VICTIMS]
    with production.going() as key:
        with Clients(production.url, key, acknowledged, CLIENTS) as clients:
            for victim in chance.choices(VICTIMS, weights, k=rounds):
                wanted = acknowledged.count + chance.randint(1, 30)
                until(
                    partial(acknowledged.has, wanted), f"commands go on before {victim} is killed"
                )
                production.kill_and_start(victim)
        production.until_ready()
        log = stored(production.servers["postgres"].url)
        until(lambda: caught_up(production.servers["postgres"].url), "read models catch up")
    known = {row.global_position for row in log}
    lost = [each for each in acknowledged.all() if each["position"] not in known]
    record_property(
        "figure",
        f"{rounds} kills: {len(acknowledged.all())} acknowledged, {len(lost)} lost, "
        f"{clients.refused} refused",
    )
    assert lost == []
    assert [row.global_position for row in log] == list(range(1, len(log) + 1))
    assert live(production.servers["postgres"].url) == rebuilt(log)


def stored(url: str) -> list[Stored]:
    async def read() -> list[Stored]:
        log, rows = PostgresLog(url), list[Stored]()
        while page := await log.all(after=len(rows), limit=1_000):
            rows += page
        await log.close()
        return rows

    return asyncio.run(read())


def caught_up(url: str) -> bool:
    """Tell whether each partition's events have been projected by every projector."""
    with psycopg.connect(url) as connection:
        connection.execute("SELECT set_config('automatos.workspace', '*', false)")
        behind = connection.execute(
            "SELECT count(*) FROM relay_checkpoints r WHERE r.published > 0 AND ("
            " SELECT count(*) FROM checkpoints c WHERE c.partition = r.partition"
            " AND c.global_position >= r.published) < %s",
            (len(PROJECTORS),),
        ).fetchone()
        passed = connection.execute(
            "SELECT coalesce(min(passed), 0) >= (SELECT max(position) FROM stored_events)"
            " FROM relay_checkpoints"
        ).fetchone()
    return behind == (0,) and passed == (True,)


def live(url: str) -> dict[str, str]:
    engine = open_postgres(url)
    with engine.begin() as connection:
        found = {each.name: digest(connection, each) for each in PROJECTORS}
    engine.dispose()
    return found


def rebuilt(log: list[Stored]) -> dict[str, str]:
    """Project the log from the beginning, elsewhere."""
    codec, engine = Codec(Vault()), open_engine(None)
    with engine.begin() as connection:
        project_all(connection, PROJECTORS, [codec.decode(row) for row in log])
        return {each.name: digest(connection, each) for each in PROJECTORS}
