"""Airflow: runs the night of the interval that has just ended. Copy it into the folder of DAGs."""

import os
from datetime import datetime, timedelta

from airflow import DAG
from airflow.providers.standard.operators.bash import BashOperator

HOME = os.environ.get("AT4CTR_HOME", "/opt/at4ctr")

with DAG(
    "at4ctr_nightly",
    schedule="0 3 * * *",
    start_date=datetime(2017, 11, 26),
    catchup=False,  # python -m pipelines.nightly backfill does that, in order
    max_active_runs=1,
):
    night = BashOperator(
        task_id="night",
        cwd=HOME,
        # Monday's run is the night of Sunday. It is a cold start, so that no drift outlives a week.
        bash_command=(
            "{% set now = data_interval_end or logical_date %}"
            ".venv/bin/python -m pipelines.nightly "
            "--date {{ macros.ds_add(now | ds, -1) }} "
            "{{ '--cold_start' if now.isoweekday() == 1 else '' }} "
            "--wait_minutes 30 --json"
        ),
        # Retries are for exit codes 75 (try again) and 10 (no data yet). With any other code a
        # retry ends at once in the same way. Then the task has failed: a night that did not publish
        # is never green.
        retries=4,
        retry_delay=timedelta(minutes=20),
        execution_timeout=timedelta(hours=5),  # of a try: one that hangs would hold the lock
    )
    night >> BashOperator(  # after exit code 0 alone: deletes old versions and files
        task_id="gc",
        cwd=HOME,
        bash_command=".venv/bin/python -m pipelines.nightly gc --json",
        execution_timeout=timedelta(minutes=30),
    )
