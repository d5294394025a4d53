"""What the routes of the read API share: rows as models, one version of the marts an answer, ETag and 304.

An answer is made of one snapshot and carries the version of the marts in its ETag: as long as no build changes them,
a client that has it gets 304, and another client the rows that are kept here.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import Depends, HTTPException, Request, Response
from psycopg.rows import class_row

from music_pulse import __version__
from serving.database import Connection, Marts
from serving.errors import NOT_BUILT

Row = TypeVar("Row")

_VERSION = "select version from marts.freshness"
_MOST_ANSWERS = 128


@dataclass
class Answers:
    """Rows of the newest version of the marts, the least used ones dropped; one a process."""

    version: str | None = None
    rows: OrderedDict[Any, list[Any]] = field(default_factory=OrderedDict)

    def of(self, version: str | None) -> OrderedDict[Any, list[Any]]:
        """Return what is kept of `version`, and forget the others."""
        if version != self.version:
            self.version, self.rows = version, OrderedDict()
        return self.rows


class MartsReader:
    """Reads one version of the marts."""

    def __init__(self, connection: Connection, version: str, kept: OrderedDict[Any, list[Any]]) -> None:
        self._connection = connection
        self.version = version
        self._kept = kept

    async def rows(self, model: type[Row], statement: str, **parameters: object) -> list[Row]:
        """Return the rows as models; those of the same question are asked for once a version."""
        key = (model, statement, *sorted((name, repr(value)) for name, value in parameters.items()))
        found = self._kept.get(key)
        if found is None:
            found = await select(self._connection, model, statement, **parameters)
            self._kept[key] = found
            if len(self._kept) > _MOST_ANSWERS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return found

    async def row(self, model: type[Row], statement: str, **parameters: object) -> Row:
        """Return the one row of an answer that has one."""
        [found] = await self.rows(model, statement, **parameters)
        return found


async def select(connection: Connection, model: type[Row], statement: str, **parameters: object) -> list[Row]:
    """Return the rows of a constant statement as models."""
    async with connection.cursor(row_factory=class_row(model)) as cursor:
        await cursor.execute(statement.encode(), parameters)
        return await cursor.fetchall()


async def reader(request: Request, response: Response, connection: Marts) -> MartsReader:
    """Tell the version before anything is computed: 304 for who has it, 503 where nothing is built yet."""
    [known] = await select(connection, _Version, _VERSION)
    if known.version is None:
        raise HTTPException(503, NOT_BUILT)
    tag = hashlib.sha256(f"{__version__} {known.version}".encode()).hexdigest()[:20]
    headers = {"ETag": f'W/"{tag}"', "Cache-Control": "private, no-cache"}
    if any(
        each.strip().removeprefix("W/") == f'"{tag}"' for each in request.headers.get("if-none-match", "").split(",")
    ):
        raise HTTPException(304, headers=headers)
    response.headers.update(headers)
    return MartsReader(connection, known.version, _answers(request).of(known.version))


@dataclass(frozen=True)
class _Version:
    version: str | None


def _answers(request: Request) -> Answers:
    state = request.app.state
    if not hasattr(state, "answers"):
        state.answers = Answers()
    found: Answers = state.answers
    return found


VersionedMarts = Annotated[MartsReader, Depends(reader, scope="function")]
