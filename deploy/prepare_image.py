"""What the image holds beside the packages: Java's wrapper, Spark's jars and where Spark lies.

`python deploy/prepare_image.py FOLDER` while the image is built; does nothing where the layer `streaming` is left out.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def prepare(folder: Path) -> None:
    """Fill `folder` with `java` (a JAVA_HOME), `spark` (a SPARK_HOME) and `jars`. Raises `DownloadError`."""
    folder.mkdir(parents=True, exist_ok=True)
    spark = importlib.util.find_spec("pyspark")
    if spark is None or spark.origin is None:
        return
    from music_pulse.embedded import jars
    from music_pulse.embedded.java import java_home

    wrapper = java_home(folder) / "bin" / "java"
    wrapper.chmod(0o755)
    (folder / "spark").symlink_to(Path(spark.origin).parent)
    jars.resolve(jars.SPARK_COORDINATES, folder / "jars")


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
