"""Airflow: the night of the interval that has just ended. Copy it into the folder of DAGs."""

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
        # The run of a Monday is the night of a Sunday: it begins anew, as drift must end somewhere.
        bash_command=(
            "{% set now = data_interval_end or logical_date %}"
            ".venv/bin/python -m pipelines.nightly "
            "--date {{ macros.ds_add(now | ds, -1) }} "
            "{{ '--cold_start' if now.isoweekday() == 1 else '' }} "
            "--wait_minutes 30 --json"
        ),
        # 75 is what the repetitions are for, and 10, no data, is asked again by them too. To all
        # others they say the same at once. Then the task has failed, to be read at nine: what did
        # not publish is never green.
        retries=4,
        retry_delay=timedelta(minutes=20),
        execution_timeout=timedelta(hours=5),  # of a try: one that hangs would hold the lock
    )
    night >> BashOperator(  # after exit 0 alone: what no night needs any more, or the disk fills
        task_id="gc",
        cwd=HOME,
        bash_command=".venv/bin/python -m pipelines.nightly gc --json",
        execution_timeout=timedelta(minutes=30),
    )
