"""Invented listens -> raw.listens, in the demo's database only; the same seed gives the same listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import dlt

from extract.pipeline import RAW_CONTRACT, Landed, dlt_items, landing
from extract.rows import Rows
from extract.synthetic.generator import Plan, generate
from music_pulse.errors import ConfigurationError
from music_pulse.settings import DEMO_DBNAME, Settings

SOURCE = "synthetic"


def land(
    settings: Settings,
    *,
    listens: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Landed:
    """Land `listens` invented listens as one load; what was landed with these arguments before is not landed again."""
    if settings.postgres_dbname != DEMO_DBNAME:
        raise ConfigurationError(f"invented listens only go to the database {DEMO_DBNAME}")
    plan = Plan(listens=listens, seed=seed)
    with landing(settings, SOURCE) as target:
        if plan.name in target.state(SOURCE).get("plans", {}):
            return Landed()
        return target.run(synthetic(plan, progress))


@dlt.source(name=SOURCE)
def synthetic(plan: Plan, progress: Callable[[int, int], None] = lambda *_: None) -> Any:
    """The listens of one plan; its name is saved in the state with the same load."""

    @dlt.resource(write_disposition="append", schema_contract=RAW_CONTRACT)
    def listens() -> Iterator[Any]:
        done = 0
        for rows in generate(plan):
            yield from dlt_items(rows)
            done += rows.listens.num_rows
            progress(done, plan.listens)
        dlt.current.source_state().setdefault("plans", {})[plan.name] = plan.listens

    return listens


__all__ = ["Plan", "Rows", "generate", "land", "synthetic"]
