"""From a raw log to a store."""
