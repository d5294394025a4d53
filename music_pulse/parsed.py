"""dbt's parse of the project: made when the project is set up, taken over by each new database.

dbt parses all anew where the connection is another one than last time, 4 s of the 10 s of CPU that a small first build
takes; but of what it parses only the database's name depends on the connection. For dbt's own process.

`python -m music_pulse.parsed` makes it.
"""

from __future__ import annotations

import os
import pprint
from contextlib import suppress
from itertools import chain
from pathlib import Path
from tempfile import NamedTemporaryFile

PARSE = "partial_parse.msgpack"
"""What dbt calls its parse in a target folder."""

_PROJECT = Path(__file__).resolve().parents[1] / "dbt_project"


def ship() -> None:
    """Parse the project, without a database, for `take_over`; ends the process with dbt's exit code."""
    from dbt.cli.main import cli

    os.environ["DBT_TARGET_PATH"] = str(_PROJECT / "target")
    place = ["--project-dir", str(_PROJECT), "--profiles-dir", str(_PROJECT.parent)]
    cli(["--quiet", "--log-level-file", "none", "parse", *place])


def take_over(shipped: Path = _PROJECT / "target") -> None:
    """Put the parse of the folder `shipped` where this run looks for one, as if it were of its connection.

    Does nothing where there is one already, or none to take; dbt itself sees what has changed in the project since.
    """
    own = Path(os.environ["DBT_TARGET_PATH"]) / PARSE
    if (shipped / PARSE).exists() and not own.exists():
        with suppress(Exception):  # what is wrong with the profile or a file, dbt will say
            put(_as_of_this_connection((shipped / PARSE).read_bytes()), own)


def put(content: bytes, path: Path) -> None:
    """Write a file of dbt's that readers find whole or not at all, also where two write it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    os.replace(file.name, path)


def _as_of_this_connection(parse: bytes) -> bytes:
    import msgpack  # type: ignore[import-untyped]
    from dbt.adapters.postgres.connections import PostgresCredentials
    from dbt.artifacts.resources.base import FileHash
    from dbt.config.profile import Profile, read_profile
    from dbt.config.renderer import ProfileRenderer
    from dbt_common.context import set_invocation_context

    set_invocation_context(os.environ)
    profile = read_profile(str(_PROJECT.parent))["music_pulse"]
    _, rendered = Profile.render_profile(profile, "music_pulse", None, ProfileRenderer({}))
    connection = PostgresCredentials.from_dict(PostgresCredentials.translate_aliases(rendered))
    parsed = msgpack.unpackb(parse)
    for node in chain(parsed["nodes"].values(), parsed["sources"].values()):
        if node.get("root_path") not in (None, str(_PROJECT)):
            raise ValueError("the project was moved since")
        before, node["database"] = node["database"], connection.database
        if node["relation_name"]:
            node["relation_name"] = f'"{connection.database}"' + node["relation_name"].removeprefix(f'"{before}"')
    identity = pprint.pformat(sorted(connection.connection_info()))  # as dbt's ManifestLoader has it
    parsed["state_check"]["profile_hash"] = FileHash.from_contents(identity).to_dict()
    written: bytes = msgpack.packb(parsed)
    return written


if __name__ == "__main__":
    ship()
