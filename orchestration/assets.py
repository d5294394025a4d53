"""What the DAGs announce to each other."""

from __future__ import annotations

from airflow.sdk import Asset

RAW = Asset(name="raw_listens", uri="x-music-pulse://raw/listens")
MARTS = Asset(name="marts", uri="x-music-pulse://marts")
PARQUET = Asset(name="parquet_snapshot", uri="x-music-pulse://parquet")
