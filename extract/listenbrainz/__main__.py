"""python -m extract.listenbrainz --user NAME [--user NAME …] [--since YYYY-MM-DD]"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from music_pulse.errors import PulseError, forget_caught_interrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Land what is new of some users, and nothing else; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m extract.listenbrainz", description=main.__doc__)
    parser.add_argument("--user", action="append", required=True, metavar="NAME", help="ListenBrainz user")
    parser.add_argument("--since", type=_day, metavar="YYYY-MM-DD", help="leave out what came before")
    options = parser.parse_args(arguments)

    from extract.listenbrainz import extract_listenbrainz
    from extract.pipeline import pipelines_dir
    from music_pulse.logs import configure_logging
    from music_pulse.settings import load_settings
    from music_pulse.stack import warehouse

    try:
        settings = load_settings()
        configure_logging(settings.home, settings.log_level)
        with warehouse(settings) as ready:
            landed = extract_listenbrainz(ready, options.user, since=options.since)
    except PulseError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        forget_caught_interrupt()
        sys.stderr.write("stopped; nothing is lost: run it again to go on\n")
        return 130
    sys.stdout.write(
        f"landed {landed.listens:,} listens, refused {landed.refused:,}\n"
        f"more: dlt pipeline --pipelines-dir {pipelines_dir(settings)} listenbrainz info\n"
    )
    return 0


def _day(text: str) -> int:
    return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())


if __name__ == "__main__":
    sys.exit(main())
