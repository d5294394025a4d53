"""python -m benchmarks [--rows N] [--only NAME …] [--keep]: measure, print the tables, write them into README.md."""

from __future__ import annotations

import argparse
import tempfile
from datetime import date
from pathlib import Path

from benchmarks.batch import bench_daily, bench_end_to_end, bench_help, bench_landing
from benchmarks.imports import bench_imports
from benchmarks.kafka_clients import bench_kafka
from benchmarks.measure import alone
from benchmarks.orchestration import bench_orchestration
from benchmarks.serving import bench_serving
from benchmarks.stream_latency import bench_latency
from benchmarks.trending import bench_trending

README = Path(__file__).with_name("README.md")

BENCHMARKS = {
    "landing": bench_landing,
    "end_to_end": bench_end_to_end,
    "daily": bench_daily,
    "help": bench_help,
    "kafka": bench_kafka,
    "trending": bench_trending,
    "latency": bench_latency,
    "imports": bench_imports,
    "serving": bench_serving,
    "orchestration": bench_orchestration,
}


def main() -> None:
    """Run the benchmarks one after the other, each in a process and on servers of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="size of the large history")
    parser.add_argument("--only", nargs="*", choices=BENCHMARKS, default=list(BENCHMARKS))
    parser.add_argument("--keep", action="store_true", help="print only, don't write README.md")
    options = parser.parse_args()
    for name in options.only:
        with tempfile.TemporaryDirectory(prefix="pulse-bench-") as folder:
            table = alone(BENCHMARKS[name], Path(folder), options.rows)
        print(table, flush=True)
        if not options.keep:
            _write_readme(name, table)


def _write_readme(name: str, table: str) -> None:
    """Put a table in the place of the one that was there before."""
    text = README.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    section = f"{begin}{table}\nMeasured on {date.today()} by `make bench`.\n\n{end}"
    before, found, rest = text.partition(begin)
    text = before + section + rest.partition(end)[2] if found else f"{text.rstrip()}\n\n{section}"
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
