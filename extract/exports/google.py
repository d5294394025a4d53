"""Files in buckets of Google Cloud Storage, through Arrow's client, which pyarrow brings along."""

from __future__ import annotations

import glob
import re
from datetime import timedelta
from itertools import takewhile
from pathlib import PurePosixPath
from typing import IO, Any, cast

from music_pulse.errors import ConfigurationError, InputError
from music_pulse.settings import Settings

SCHEME = "gs://"
_RETRY = timedelta(seconds=30)
"""For how long a request is tried again; Arrow's own default is 15 minutes."""
_ENDPOINT = re.compile(r"(https?)://([^/\s]+)/?")


class GoogleStorage:
    """What importing needs of an fsspec file system; locations begin with `gs://`, what is found is without it.

    Credentials are Google's application default ones; an endpoint of one's own is asked without any. Raises
    `ConfigurationError` for what is no endpoint; its methods raise `InputError` for an address without a bucket,
    `OSError` and `pyarrow.ArrowException`.
    """

    def __init__(self, settings: Settings) -> None:
        from pyarrow.fs import GcsFileSystem

        options: dict[str, Any] = {"retry_time_limit": _RETRY}
        if settings.gcs_endpoint_url:
            endpoint = _ENDPOINT.fullmatch(settings.gcs_endpoint_url)
            if not endpoint:
                raise ConfigurationError("PULSE_GCS_ENDPOINT_URL is no address like https://storage.example.com:443")
            options |= {"anonymous": True, "scheme": endpoint[1], "endpoint_override": endpoint[2]}
        self._arrow = GcsFileSystem(**options)

    def isdir(self, location: str) -> bool:
        """Whether it is a bucket, or the beginning of names in one, as it surely is meant with a slash at the end."""
        from pyarrow.fs import FileType

        path = _path(location)
        if "/" not in path:
            return True  # to ask after a bucket itself takes a right that reading from it doesn't
        if "//" in path:
            return False  # Arrow can't name such an object: opening it says so
        if location.endswith("/"):
            return bool(self.find(location))
        return bool(self._arrow.get_file_info(path).type == FileType.Directory)

    def find(self, location: str) -> list[str]:
        """Return the files below."""
        from pyarrow.fs import FileSelector

        selector = FileSelector(_path(location), recursive=True, allow_not_found=True)
        return [info.path for info in self._arrow.get_file_info(selector) if info.is_file]

    def glob(self, location: str) -> list[str]:
        """Return the files that a pattern matches, and those below what it matches."""
        from fsspec.utils import glob_translate

        path = _path(location)
        fixed = "/".join(takewhile(lambda part: not glob.has_magic(part), path.split("/")))
        try:
            matches = re.compile(glob_translate(path)).match
        except ValueError as error:
            raise InputError(f"{location}: no pattern: {error}") from None
        return [
            found
            for found in self.find(fixed)
            if any(matches(str(place)) for place in (found, *PurePosixPath(found).parents))
        ]

    def open(self, location: str, mode: str = "rb") -> IO[bytes]:
        """Open a file to be read from its beginning to its end, packed as it is."""
        path = _path(location)
        if "/" not in path:
            raise FileNotFoundError(location)  # a bucket that holds nothing, or isn't there
        return cast("IO[bytes]", self._arrow.open_input_stream(path, compression=None))


def reason(error: str) -> str:
    """Return what a user can do with an error of Google's client; another error as it is."""
    text = error.partition(" error_info=")[0]
    if "OAuth2 access token" not in text:
        return text
    why = text.rpartition("underlying error message was: ")[2]
    return (
        f"no token for Google Cloud ({why}): set GOOGLE_APPLICATION_CREDENTIALS to a key file, or run "
        "`gcloud auth application-default login`"
    )


def _path(location: str) -> str:
    path = location.removeprefix(SCHEME).rstrip("/")
    bucket = path.partition("/")[0]
    if not bucket or glob.has_magic(bucket):
        raise InputError(f"{location}: write the bucket's name out")
    return path
