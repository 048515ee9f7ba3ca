"""Apache Kafka: the topic, what its records are, and how the log gets there."""
