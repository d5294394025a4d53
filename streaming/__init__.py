"""Events -> Kafka -> raw: producer, sinks and the trending job. Its parts come with the live pipeline."""
