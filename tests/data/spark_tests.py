"""Spark for tests: what they are skipped without, and one small session."""

import importlib.util
import os
import shutil
import sys

import pytest

THERE = importlib.util.find_spec("pyspark") is not None and shutil.which("java") is not None
NEEDED = pytest.mark.skipif(not THERE, reason="Spark needs make setup-spark and Java 17")
SETTINGS = {  # of tiny data on a busy machine
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.files.maxPartitionBytes": "20000",  # a log of several blocks
    "spark.sql.shuffle.partitions": "2",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}


def started():
    """A session, which ends with the fixture that this is the generator of."""
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # of the executors
    builder = SparkSession.builder.master("local[2]")
    for key, value in SETTINGS.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    yield spark
    spark.stop()
