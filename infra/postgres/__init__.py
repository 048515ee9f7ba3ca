"""What the production profile keeps in PostgreSQL beside the log and the read models."""
