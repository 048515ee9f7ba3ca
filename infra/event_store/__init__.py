"""The append-only store, under the `eventsourcing` package's interfaces."""
