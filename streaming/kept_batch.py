"""The batch of the trending job that Spark may have committed and Postgres has not: kept for the next start."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from music_pulse.database import one_line
from music_pulse.files import sync_folder
from streaming.client.errors import StreamError

_BATCH_ID = b"batch_id"


class KeptBatch:
    """A file with a batch beside which Spark has gone on: the rows of `transforms.window_changes`, and its number.

    A crash may leave it there once it is written: whether it is, the ledger tells.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(self, rows: pa.Table, batch_id: int) -> None:
        """Put a batch in the place of the one before; after this, neither a kill nor a power cut takes it away."""
        new = self._path.with_name(f"{self._path.name}.new")
        schema = rows.schema.with_metadata({_BATCH_ID: str(batch_id)})
        with new.open("wb") as file:
            with pa.ipc.new_file(file, schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
                writer.write_table(rows)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
        sync_folder(self._path.parent)

    def remove(self) -> None:
        """Forget it, if that can be done: that it is written stands in the ledger."""
        with suppress(OSError):
            self._path.unlink()

    def read(self) -> tuple[pa.Table, int] | None:
        """Return the rows and the number; None: there is none. Raises `StreamError`."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StreamError(f"{self._path} can't be read: {error.strerror}") from error
        try:
            rows = pa.ipc.open_file(content).read_all()
            return rows, int((rows.schema.metadata or {})[_BATCH_ID])
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise StreamError(
                f"{self._path} is damaged ({one_line(error)}): remove its folder, and the job counts anew"
            ) from error
