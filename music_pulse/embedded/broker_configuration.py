"""What the embedded broker is told: server.properties, its log's configuration and the JVM's flags."""

from __future__ import annotations

from collections.abc import Mapping

from music_pulse.embedded.plumbing import HOST

NODE_ID = 1

JVM_FLAGS = (
    "-Xms64m",
    "-Xmx512m",
    # A quick start and few threads, on a machine that does other things beside.
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "-Djava.io.tmpdir=tmp",
)

_LOG_BYTES = 10_000_000
_DAYS = 90
_PARTITION_BYTES = 2 * 2**30

_FIXED = {
    "process.roles": "broker,controller",
    "node.id": str(NODE_ID),
    "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "BROKER",
    "auto.create.topics.enable": "false",
    "num.partitions": "1",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "8",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    # An event's time in Kafka is when it arrived: wrong clocks are told by it, and retention must not drop
    # what was listened to years ago and imported today.
    "log.message.timestamp.type": "LogAppendTime",
    # Whoever reads may have been away for weeks; an old topic must not fill the disk either.
    "log.retention.hours": str(_DAYS * 24),
    "offsets.retention.minutes": str(_DAYS * 24 * 60),
    "log.retention.bytes": str(_PARTITION_BYTES),
    "log.segment.bytes": str(64 * 2**20),
    "log.cleaner.dedupe.buffer.size": str(8 * 2**20),
    # A broker that was killed is let in again only when its predecessor's session has timed out.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "1000",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
    # A lone node has no follower to tell that it lives; by default it writes an empty entry twice a second.
    "metadata.max.idle.interval.ms": "5000",
}


def server_properties(port: int, controller_port: int, data: str, security: Mapping[str, str]) -> str:
    """Return server.properties; `data` is the log folder, relative to where the broker runs."""
    values = {
        **_FIXED,
        "listeners": f"BROKER://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"BROKER://{HOST}:{port}",
        "controller.quorum.voters": f"{NODE_ID}@{HOST}:{controller_port}",
        "log.dirs": data,
        **security,
    }
    return "# Written at each start.\n" + "".join(f"{name}={value}\n" for name, value in values.items())


LOGGING = f"""\
# Written at each start.
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = ../logs/kafka.log
appender.file.filePattern = ../logs/kafka.log.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{ISO8601}} %p %m (%c)%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = {_LOG_BYTES}
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 1
rootLogger.level = WARN
rootLogger.appenderRef.file.ref = file
logger.kafka.name = kafka
logger.kafka.level = INFO
logger.server.name = org.apache.kafka
logger.server.level = INFO
# Each repeats all settings at each start.
logger.config.name = org.apache.kafka.common.config
logger.config.level = WARN
"""
