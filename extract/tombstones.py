"""Which raw rows count no more: what ListenBrainz has stopped to show."""

from __future__ import annotations


def is_bound(rows: str) -> str:
    """Return the SQL condition that a tombstone binds a row of `rows`: one for its payload and user, loaded later.

    `rows` is what raw.listens or raw.quarantine is called in the statement. A row that comes again later counts again.
    """
    return f"""exists (
        select 1
        from raw.listen_tombstones as tombstones
        where
            tombstones.payload_hash = {rows}.payload_hash
            and tombstones.user_name = {rows}.user_name
            and tombstones._dlt_load_id > {rows}._dlt_load_id collate "C"
    )"""
