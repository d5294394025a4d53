"""Files in buckets of Google Cloud Storage, through Arrow's client, which pyarrow brings along."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import IO, Any, cast

from music_pulse.settings import Settings

SCHEME = "gs://"
_RETRY = timedelta(seconds=30)
"""For how long a request is tried again; Arrow's own default is 15 minutes."""
_FIRST_MAGIC = re.compile(r"[*?\[]")


class GoogleStorage:
    """What importing needs of an fsspec file system; locations begin with `gs://`, what is found is without it.

    Credentials are Google's application default ones; an endpoint of one's own is asked without any. Raises `OSError`
    and `pyarrow.ArrowException`.
    """

    def __init__(self, settings: Settings) -> None:
        from pyarrow.fs import GcsFileSystem

        options: dict[str, Any] = {"retry_time_limit": _RETRY}
        if settings.gcs_endpoint_url:
            scheme, _, address = settings.gcs_endpoint_url.rstrip("/").rpartition("://")
            options |= {"anonymous": True, "scheme": scheme or "https", "endpoint_override": address}
        self._arrow = GcsFileSystem(**options)

    def isdir(self, location: str) -> bool:
        """Whether it is a bucket, or the beginning of names in one."""
        from pyarrow.fs import FileType

        return bool(self._arrow.get_file_info(_path(location)).type == FileType.Directory)

    def find(self, location: str) -> list[str]:
        """Return the files below."""
        from pyarrow.fs import FileSelector

        selector = FileSelector(_path(location), recursive=True, allow_not_found=True)
        return [info.path for info in self._arrow.get_file_info(selector) if info.is_file]

    def glob(self, location: str) -> list[str]:
        """Return the files that a pattern matches; the bucket is written out."""
        from fsspec.utils import glob_translate

        path = _path(location)
        fixed = _FIRST_MAGIC.split(path)[0].rpartition("/")[0]
        matches = re.compile(glob_translate(path)).match
        return [found for found in self.find(fixed) if matches(found)]

    def open(self, location: str, mode: str = "rb") -> IO[bytes]:
        """Open a file to be read from its beginning to its end."""
        return cast("IO[bytes]", self._arrow.open_input_stream(_path(location)))


def _path(location: str) -> str:
    return location.removeprefix(SCHEME).rstrip("/")
