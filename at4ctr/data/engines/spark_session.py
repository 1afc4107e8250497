"""A Spark session whose SQL means what DuckDB's does."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING

from at4ctr.data.engines.csv_file import first_line
from at4ctr.errors import InputError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

STARTING = {"spark.log.level": "ERROR", "spark.ui.showConsoleProgress": "false"}
SETTINGS = {
    "spark.sql.ansi.enabled": "true",
    "spark.sql.ansi.doubleQuotedIdentifiers": "true",
    "spark.sql.csv.parser.columnPruning.enabled": "false",  # else it hides malformed lines
    "spark.sql.legacy.parquet.nanosAsLong": "true",  # else it refuses them
    "spark.sql.parser.escapedStringLiterals": "true",
    "spark.sql.session.timeZone": "UTC",
}
FUNCTIONS = (  # DuckDB's, for the SQL of a mapping
    "string_split(text STRING, mark STRING) RETURNS ARRAY<STRING> "
    r"RETURN split(text, concat('\Q', mark, '\E'))",
    "list_contains(list ARRAY<STRING>, value STRING) RETURNS BOOLEAN "
    "RETURN array_contains(list, value)",
)


def session() -> tuple[bool, SparkSession]:
    """Whether this call started Spark, and a session with this module's settings."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # of local executors
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it says of pandas, which is not used
            from pyspark.sql import SparkSession

            running = SparkSession.getActiveSession()
            builder = SparkSession.builder.appName("at4ctr prepare")
            for key, value in STARTING.items():
                builder = builder.config(key, value)
            base = running or builder.getOrCreate()
    except ImportError:
        raise InputError(
            "pyspark is not installed, and the engine is spark; expected pip install .[spark] and "
            "Java 17; install them, or leave out ENGINE=spark"
        ) from None
    except Exception as error:
        if type(error).__name__ != "PySparkRuntimeError":
            raise
        raise InputError(
            f"Spark cannot be started ({first_line(str(error))}); expected Java 17 or later on the "
            "PATH or under JAVA_HOME; install it, or leave out ENGINE=spark"
        ) from error
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)  # errors are ours to say
    made = base.newSession()
    for key, value in SETTINGS.items():
        made.conf.set(key, value)
    for function in FUNCTIONS:
        made.sql(f"CREATE TEMPORARY FUNCTION {function}")
    return running is None, made
