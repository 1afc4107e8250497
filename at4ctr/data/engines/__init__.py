"""The engines that run preparation's SQL: DuckDB on one machine, Spark on a cluster."""
