"""The logs that can be prepared: one module a dataset; the folder is the registry."""
