"""How often the model gate lets through a model that is as good as the one it replaces.

``python -m tests.gates.power`` judges simulated evenings by the default thresholds and writes
`RESULT`; about nine minutes of CPU. The two models' logits are correlated as those of two seeds of
one model: 0.84 to 0.92 on dates of the replay on Taobao's format (docs/results/taobao/replay.md).
"""

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

import at4ctr  # noqa: F401
from at4ctr.gates.model import judge
from at4ctr.gates.verdict import Thresholds
from tests.gates.evening import evening, scores

RESULT = Path(__file__).with_name("power.json")
EVENINGS = {400: 200, 2_000: 200, 6_000: 100, 20_000: 100, 60_000: 50}  # by clicks
CORRELATION = 0.9
VARIANCE = 0.8**2 + 1  # of the true logits
PARTS = (0.25, 0.97)  # of the two models' difference a user's rows share 6 %, as in the replay
ROWS, RATE = 12, 0.175  # mean rows of a user less one, and their share of clicks


def judged(seed, clicks, correlation, thresholds):
    """The check of ΔAUC, and the clicks, of an evening of two equally good models."""
    sd = float(np.sqrt(VARIANCE * (1 / correlation - 1)))
    users = round(clicks / (ROWS + 1) / RATE)
    labels, owner, pair = evening(seed, users, ROWS, noise=(sd, sd), parts=PARTS)
    candidate, incumbent = (scores(labels, owner, z) for z in pair)
    verdict = judge(candidate, incumbent, thresholds, segments={})
    (area,) = (check for check in verdict.checks if check.name == "auc")
    return area, verdict.clicks


def table(evenings, correlation=CORRELATION):
    """A line for every number of clicks."""
    thresholds = replace(Thresholds(), clicks=0, users=0)  # those of evidence have no say in ΔAUC
    for clicks, number in evenings.items():
        found = [judged(seed, clicks, correlation, thresholds) for seed in range(number)]
        passed = sum(area.outcome == "pass" for area, _ in found)
        clicked, lower = np.mean([(seen, area.value) for area, seen in found], axis=0).tolist()
        yield {"clicks": clicks, "correlation": correlation, "evenings": number,
               "passed": passed, "share": passed / number,
               "mean_clicks": clicked, "mean_lower_bound": lower}  # fmt: skip


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    lines = []
    for line in table(EVENINGS):
        print(line, file=sys.stderr, flush=True)
        lines.append(line)
    result = {"command": "python -m tests.gates.power", "thresholds": asdict(Thresholds()),
              "auc": lines}  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
