"""A Kafka client around kafka-python (the default) and confluent-kafka (the bulk path), with one surface for both.

Configure once, from the settings or by hand:

    config = KafkaConfig.from_settings(load_settings())
    config = KafkaConfig("127.0.0.1:9092")

Send. Nothing is delivered for sure before `flush` (or the end of the block) returned:

    with Producer(config, "listens", JsonSerializer()) as producer:
        producer.send("rob", {"track": "Vitamin C"})

Many thousands a second, encoded before:

    with BulkProducer(config, "listens", BytesSerializer(), rate=TokenBucket(50_000)) as producer:
        producer.send_many(keys, values)

Read in batches; asking for the next one commits the last one:

    with Consumer(config, ["listens"], "my-group") as consumer:
        for batch in consumer.batches(stop):
            for record in batch.records():
                ...

What can't be used goes to `listens.dead-letters`, as it came:

    with DeadLetters(config, "listens") as dead_letters:
        dead_letters.send(record, "not JSON")

Every failure is a `StreamError` whose text is one line that says what to do. `docs/streaming-client.md` has the rest.
"""

from streaming.client.admin import Topic, cluster_id, ensure_topics, listen_topics
from streaming.client.avro import AvroSerializer
from streaming.client.bulk_consumer import BulkConsumer
from streaming.client.bulk_producer import BulkProducer
from streaming.client.config import KafkaConfig
from streaming.client.connection import Cluster, check
from streaming.client.consumer import Consumer
from streaming.client.dead_letters import DeadLetters, Origin, dead_letter_topic
from streaming.client.errors import (
    AuthenticationError,
    AuthorizationError,
    BrokerUnreachableError,
    CommitError,
    DeliveryError,
    FencedError,
    RegistryError,
    SerializationError,
    StreamError,
    TransactionError,
    UnknownTopicError,
)
from streaming.client.event_consumer import CommitStrategy, EventConsumer
from streaming.client.event_producer import EventProducer
from streaming.client.lag import Lag, LagCollector, measure_lag
from streaming.client.metrics import StreamMetrics
from streaming.client.producer import Producer
from streaming.client.rate import TokenBucket
from streaming.client.records import Batch, Delivery, Headers, Partition, Record
from streaming.client.registry import Registry, RegistryConfig
from streaming.client.serializers import BytesSerializer, JsonSerializer, Serializer, StringSerializer

__all__ = [
    "AuthenticationError",
    "AuthorizationError",
    "AvroSerializer",
    "Batch",
    "BrokerUnreachableError",
    "BulkConsumer",
    "BulkProducer",
    "BytesSerializer",
    "Cluster",
    "CommitError",
    "CommitStrategy",
    "Consumer",
    "DeadLetters",
    "Delivery",
    "DeliveryError",
    "EventConsumer",
    "EventProducer",
    "FencedError",
    "Headers",
    "JsonSerializer",
    "KafkaConfig",
    "Lag",
    "LagCollector",
    "Origin",
    "Partition",
    "Producer",
    "Record",
    "Registry",
    "RegistryConfig",
    "RegistryError",
    "SerializationError",
    "Serializer",
    "StreamError",
    "StreamMetrics",
    "StringSerializer",
    "TokenBucket",
    "Topic",
    "TransactionError",
    "UnknownTopicError",
    "check",
    "cluster_id",
    "dead_letter_topic",
    "ensure_topics",
    "listen_topics",
    "measure_lag",
]
