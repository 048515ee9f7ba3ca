"""A release that wants other columns makes the read models anew from the log; no other one."""

from pathlib import Path

from sqlalchemy import Engine, text

from infra.read_store import open_engine
from projections.identity import IdentityProjector
from projections.usage import UsageProjector

BOTH = (IdentityProjector(), UsageProjector())


def passed(engine: Engine) -> dict[str, int]:
    with engine.begin() as connection:
        found = connection.execute(text("SELECT projector, global_position FROM checkpoints"))
        return {row.projector: row.global_position for row in found}


def projected_until(path: Path, position: int, *changes: str) -> None:
    engine = open_engine(path, BOTH)
    with engine.begin() as connection:
        for projector in BOTH:
            connection.execute(
                text(
                    "INSERT INTO checkpoints (projector, partition, global_position)"
                    " VALUES (:name, 0, :position)"
                ),
                {"name": projector.name, "position": position},
            )
        for change in changes:
            connection.execute(text(change))
    engine.dispose()


def test_a_read_model_of_another_shape_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "read_models.db"
    projected_until(
        path,
        7,
        "INSERT INTO workspaces VALUES ('acme', 'Acme', 'acme', 0, 1)",
        "ALTER TABLE api_keys DROP COLUMN scopes",
    )
    engine = open_engine(path, BOTH)
    assert passed(engine) == {"usage": 7}
    with engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM workspaces")).scalar() == 0
        assert connection.execute(text("SELECT scopes FROM api_keys")).all() == []


def test_a_read_model_that_lacks_a_table_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "read_models.db"
    projected_until(path, 7, "DROP TABLE members")
    assert passed(open_engine(path, BOTH)) == {"usage": 7}


def test_a_read_model_of_the_same_shape_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "read_models.db"
    projected_until(path, 7)
    assert passed(open_engine(path, BOTH)) == {"usage": 7, "identity": 7}
