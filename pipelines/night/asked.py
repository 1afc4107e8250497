"""The options of a night, as flags give them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULTS = {"dataset": "taobao", "config": "din_at4ctr", "data": "", "set": "", "days": "1",
            "utc_offset_hours": "", "evaluation": "0.25", "cold_days": "0", "expire_days": "0",
            "still_nights": "3", "data_gate": "", "model_gate": ""}  # fmt: skip
Given = Mapping[str, str | None]


@dataclass(frozen=True)
class Asked:
    """given: the chain's flags, None where one was left out.

    cold: forget the parent's weights and ids, and train on the chain's `cold_days`. again: a new
    attempt of a date that has ended. bless, reason: publish what a gate held or refused. adopt:
    take over flags that differ from the chain's. minutes: how long to wait for the log. metrics:
    path of the Prometheus textfile.
    """

    given: Given
    cold: bool = False
    again: bool = False
    bless: bool = False
    adopt: bool = False
    reason: str = ""
    minutes: float = 0.0
    metrics: Path | None = None
    sleep: Callable[[float], None] = time.sleep
