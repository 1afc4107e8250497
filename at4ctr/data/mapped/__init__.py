"""A log of one's own, declared by a schema and a mapping of its columns."""
