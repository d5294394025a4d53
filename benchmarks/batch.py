"""The batch half: landing, from files to tested marts, a daily run, the start of the command."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.csv

from benchmarks.measure import Cost, alone, measured, table_of
from extract.pipeline import RAW_CONTRACT, landing
from extract.rows import LISTENS_SCHEMA
from extract.synthetic.generator import Plan, generate
from music_pulse import run as steps
from music_pulse.database import connect
from music_pulse.settings import Settings, load_settings
from music_pulse.stack import warehouse

DAILY_ROWS = 5_000


def bench_landing(folder: Path, rows: int) -> str:
    """The same Arrow rows by plain COPY, by our landing and (a tenth of them) by dlt's default path."""
    tables = [batch.listens for batch in generate(Plan(listens=rows))]
    few = pa.concat_tables(tables).slice(0, rows // 10)
    with warehouse(load_settings(home=folder)) as settings:
        figures = {
            "plain COPY (csv of the same rows)": plain_copy(settings, tables),
            "dlt, Arrow -> Parquet -> ADBC (ours)": _dlt_arrow(settings, tables),
            f"dlt, dicts -> insert (its default; {few.num_rows:,} rows)": _dlt_default(settings, few),
        }
    counts = [rows, rows, few.num_rows]
    rates = [count / cost.cpu for count, cost in zip(counts, figures.values(), strict=True)]
    lines = [
        [name, f"{cost.client:.1f}", f"{cost.server:.1f}", f"{cost.wall:.1f}", f"{rate:,.0f}", f"{rate / rates[0]:.2f}"]
        for (name, cost), rate in zip(figures.items(), rates, strict=True)
    ]
    verdict = (
        f"Ours: {rates[1] / rates[2]:.1f} × the default path (target: 10), {rates[1] / rates[0]:.2f} of COPY (0.25)."
    )
    columns = ["path", "client CPU s", "server CPU s", "wall s", "rows / CPU s", "of COPY"]
    return table_of(f"Landing {rows:,} listens", columns, lines, verdict)


def plain_copy(settings: Settings, tables: Sequence[pa.Table]) -> Cost:
    """Measure COPY of the rows as text into a table without an index, which is dropped again."""
    types = {"listen_id": "uuid", "artist_id": "uuid", "track_id": "uuid", "payload_hash": "uuid"}
    columns = ", ".join(f"{field.name} {types.get(field.name, _sql_type(field.type))}" for field in LISTENS_SCHEMA)
    # Outside the measurement: the ids as text, which our own path doesn't need.
    texts = [_with_text_ids(table) for table in tables]
    with connect(settings.credentials("loader"), autocommit=True) as connection:
        connection.execute(f"create table raw.copied ({columns})".encode())
        with measured(settings.home) as cost, connection.cursor() as cursor:
            with cursor.copy(b"copy raw.copied from stdin (format csv)") as copy:
                for table in texts:
                    copy.write(_csv(table))
        connection.execute("drop table raw.copied")
    return cost


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "timestamptz"
    if pa.types.is_integer(kind):
        return "bigint"
    return "uuid" if pa.types.is_fixed_size_binary(kind) else "text"


def _with_text_ids(table: pa.Table) -> pa.Table:
    columns = [
        pa.array([value.hex() if value else None for value in column.to_pylist()])
        if pa.types.is_fixed_size_binary(column.type)
        else column
        for column in table.columns
    ]
    return pa.table(columns, names=table.column_names)


def _csv(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pa.csv.write_csv(table, sink, pa.csv.WriteOptions(include_header=False, quoting_style="needed"))
    return sink.getvalue()


def _dlt_arrow(settings: Settings, tables: Iterable[pa.Table]) -> Cost:
    import dlt

    @dlt.resource(name="listens", write_disposition="append", schema_contract=RAW_CONTRACT)
    def listens() -> Iterator[pa.Table]:
        yield from tables

    with measured(settings.home) as cost, landing(settings, "bench_arrow") as target:
        target.run(listens())
    return cost


def _dlt_default(settings: Settings, table: pa.Table) -> Cost:
    import dlt

    from extract.pipeline import pipeline_for

    rows = [
        {name: value.hex() if isinstance(value, bytes) else value for name, value in row.items()}
        for row in table.to_pylist()
    ]
    pipeline = pipeline_for(settings, "bench_default")
    with measured(settings.home) as cost:
        pipeline.run(dlt.resource(rows, name="listens_by_default", write_disposition="append"))
    return cost


def bench_end_to_end(folder: Path, rows: int) -> str:
    """JSON lines -> tested marts."""
    path = folder / "listens.jsonl"
    alone(_write_json_lines, path, Plan(listens=rows))
    home = folder / "home"
    with warehouse(load_settings(home=home)) as settings:
        with measured(home) as landing_cost:
            steps.land_files(settings, [path], None)
        with measured(home) as build_cost:
            steps.build(settings)
    parts = {"JSON lines -> raw": landing_cost, "raw -> tested marts": build_cost}
    lines = [
        [name, f"{cost.client:.1f}", f"{cost.server:.1f}", f"{cost.wall:.1f}", f"{cost.peak_mib:,.0f}"]
        for name, cost in parts.items()
    ]
    total = landing_cost.cpu + build_cost.cpu
    verdict = f"{rows / total:,.0f} listens per CPU-second, client and server together (target: 20,000)."
    columns = ["step", "client CPU s", "server CPU s", "wall s", "peak MiB, client and server"]
    return table_of(f"JSON lines of {rows:,} listens to tested marts", columns, lines, verdict)


def bench_daily(folder: Path, rows: int) -> str:
    """A day of 5,000 new listens on a small and on a large history, and a run with nothing new."""
    costs: dict[int, Cost] = {}
    idle: dict[int, Cost] = {}
    for size in (rows // 10, rows):
        home = folder / str(size)
        history, day = folder / f"{size}.jsonl", folder / f"{size}-new.jsonl"
        alone(_write_json_lines, history, Plan(listens=size))
        # The newest listens of another seed: a user's last days, in tracks that the history has.
        alone(_write_json_lines, day, Plan(listens=DAILY_ROWS, seed=2))
        with warehouse(load_settings(home=home)) as settings:
            steps.land_files(settings, [history], None)
            steps.build(settings)
            with measured(home) as costs[size]:
                steps.land_files(settings, [day], None)
                steps.build(settings)
            with measured(home) as idle[size]:
                steps.build(settings)
    lines = [
        [f"{kind}, history of {size:,}", f"{cost.client:.1f}", f"{cost.server:.1f}", f"{cost.wall:.1f}"]
        for kind, found in ((f"{DAILY_ROWS:,} new", costs), ("nothing new (build)", idle))
        for size, cost in found.items()
    ]
    ratio = costs[rows].cpu / costs[rows // 10].cpu
    verdict = f"{ratio:.2f} × the CPU time of a history a tenth as long (target: at most 1.5)."
    return table_of("A daily run", ["run", "client CPU s", "server CPU s", "wall s"], lines, verdict)


def bench_help(folder: Path, rows: int) -> str:
    """`pulse --help`, the middle of five."""
    program = Path(sys.executable).with_name("pulse")
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True); "
        "usage = resource.getrusage(resource.RUSAGE_CHILDREN); print(usage.ru_utime + usage.ru_stime)"
    )
    times = sorted(
        float(subprocess.check_output([sys.executable, "-c", code, str(program), "--help"])) for _ in range(5)
    )
    lines = [["pulse --help", f"{times[2]:.2f}"]]
    return table_of("Start of the command", ["command", "CPU s"], lines, "Target: under 0.5.")


def _write_json_lines(path: Path, plan: Plan) -> None:
    names = ("user_name", "listened_at", "artist_name", "track_name", "album", "duration_ms")
    with path.open("wb") as file:
        for batch in generate(plan):
            table = batch.listens
            seconds = table["listened_at"].cast(pa.timestamp("s", tz="UTC")).cast(pa.int64()).to_pylist()
            columns = [seconds if name == "listened_at" else table[name].to_pylist() for name in names]
            for user, second, artist, track, album, duration in zip(*columns, strict=True):
                metadata: dict[str, object] = {"artist_name": artist, "track_name": track}
                metadata["additional_info"] = {"duration_ms": duration} if duration else {}
                if album:
                    metadata["release_name"] = album
                listen = {"listened_at": second, "user_name": user, "track_metadata": metadata}
                file.write(orjson.dumps(listen) + b"\n")
