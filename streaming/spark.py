"""The Spark session of the stream: two local cores or a cluster, the jars as local files, Java from the caller."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

SHUFFLE_PARTITIONS = 2
"""One a core. Fixed: the state of a checkpoint is laid out by it."""

_OPTIONS = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    # Nobody looks at past jobs; by default a thousand of them fill the heap for the first minutes.
    "spark.ui.retainedJobs": "10",
    "spark.ui.retainedStages": "10",
    "spark.ui.retainedTasks": "100",
    "spark.sql.ui.retainedExecutions": "5",
    # PySpark reads the reports of all these batches, several kilobytes of JSON each, whenever one asks for new ones.
    # One that is missed costs reading its batch again (left_out.py).
    "spark.sql.streaming.numRecentProgressUpdates": "8",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.shuffle.partitions": str(SHUFFLE_PARTITIONS),
    "spark.sql.adaptive.enabled": "false",  # batches are small: planning again costs more than it saves
    "spark.sql.streaming.stateStore.providerClass": (
        "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider"
    ),
    "spark.sql.streaming.stateStore.rocksdb.changelogCheckpointing.enabled": "true",
    # Spark reads all state with each batch, for what the watermark has passed: most of what that costs is to unpack the
    # blocks of RocksDB anew, unless they stay in memory. This cache is one for the process; one for each state, Spark
    # 4.1 would not free when a query starts anew (SPARK-57183).
    "spark.sql.streaming.stateStore.rocksdb.boundedMemoryUsage": "true",
    "spark.sql.streaming.stateStore.rocksdb.maxMemoryUsageMB": "400",
    "spark.sql.streaming.stateStore.rocksdb.blockSizeKB": "32",
    # A snapshot of the state every so many batches, by default ten, writes what is in memory to a file; the fourth file
    # has all files written anew, and their blocks unpacked anew: every forty seconds three batches took twice as long.
    # With sixty, rows that are deleted lie in the files for so long that the rest doesn't stay in memory.
    "spark.sql.streaming.stateStore.minDeltasForSnapshot": "20",
    # An aggregation with collect_set turns to sorting beyond so many groups: by default 128.
    "spark.sql.objectHashAggregate.sortBased.fallbackThreshold": "1000000",
    # A batch for the watermark's sake alone changes no window, and keeps the next listen waiting.
    "spark.sql.streaming.noDataMicroBatches.enabled": "false",
    # The default one asks a program of its own, `readlink`, for each file that it renames: some dozen a batch.
    "spark.sql.streaming.checkpointFileManagerClass": (
        "org.apache.spark.sql.execution.streaming.checkpointing.FileSystemBasedCheckpointFileManager"
    ),
    "spark.sql.streaming.metricsEnabled": "false",
    "spark.log.level": "WARN",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
}


def session(
    name: str,
    *,
    java_home: Path,
    jars: Sequence[Path],
    folder: Path,
    memory: str = "1g",
    master: str = "local[2]",
    driver_host: str = "127.0.0.1",
) -> SparkSession:
    """Start Spark (a JVM of its own, which ends with this process). `folder` takes its temporary files.

    The workers of the cluster `master` reach this process as `driver_host`, and see checkpoints at the same paths.
    """
    logging.getLogger("py4j").setLevel(logging.WARNING)  # else each call from the JVM is a line
    os.environ["JAVA_HOME"] = str(java_home)
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["SPARK_LOCAL_IP"] = driver_host
    folder.mkdir(parents=True, exist_ok=True)
    builder = (
        SparkSession.builder.master(master)
        .appName(name)
        .config("spark.jars", ",".join(map(str, jars)))
        .config("spark.driver.bindAddress", driver_host)
        .config("spark.driver.host", driver_host)
        .config("spark.executor.memory", memory)
        .config("spark.driver.memory", memory)
        .config("spark.local.dir", str(folder))
        .config("spark.sql.warehouse.dir", str(folder / "warehouse"))
        .config(
            "spark.driver.extraJavaOptions",
            f"-XX:+UseParallelGC -Dderby.system.home={folder} -Djava.io.tmpdir={folder}",
        )
    )
    for key, value in _OPTIONS.items():
        builder = builder.config(key, value)
    on_interrupt = signal.getsignal(signal.SIGINT)
    started: SparkSession = builder.getOrCreate()
    _without_crc_files(started)
    if threading.current_thread() is threading.main_thread():
        # PySpark has put its own in place, which breaks off the batch in hand and whatever the caller does.
        signal.signal(signal.SIGINT, on_interrupt)
    return started


def _without_crc_files(session: SparkSession) -> None:
    """Let Hadoop's local file system write no `.crc` beside each file: Spark's own checksums stand there already.

    They double the files of a batch, and as file and `.crc` are renamed one after the other, a crash between the two
    would leave a file that can't be read. A setting for this there is not; the object is the one that all share.
    """
    context = session.sparkContext
    jvm: Any = context._jvm
    root = jvm.java.net.URI("file:///")
    jvm.org.apache.hadoop.fs.FileSystem.get(root, context._jsc.hadoopConfiguration()).setWriteChecksum(False)
