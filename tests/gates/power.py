"""How often the model gate publishes, holds and refuses candidates whose quality is known.

``make gate-power`` judges simulated evenings (`tests.gates.rivals`) by the default thresholds, and
writes `RESULT` and `PAGE`.
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import at4ctr  # noqa: F401
from at4ctr.analysis.tables import markdown
from at4ctr.gates.model import judge
from at4ctr.gates.verdict import Thresholds, decide
from tests.gates import rivals
from tests.gates.evening import scores

RESULT = Path(__file__).with_name("power.json")
PAGE = Path(__file__).parents[2] / "docs/results/simulated/gates.md"
EVENINGS = {400: 100, 2_000: 120, 6_000: 80}  # by clicks
LOSSES = (0.0, 0.01)  # of the candidate's AUC
AREA, LIKENESS = 0.77, 0.87  # of the incumbent; of the two models' scores
BY_USER = 0.15  # of a model's noise
PAIR = ("pair", "clicks", "AUC", "partial correlation", "of the difference common to a user",
        "error · √clicks")  # fmt: skip
PAIRS = (
    ("two seeds of `din_at4ctr` on trivago, real impressions", "2,749", "0.771, 0.767", "0.913",
     "38 %", "0.107"),
    ("night of 11-27 and its parent, **simulated** log of `make days DATASET=taobao`", "51,302",
     "0.792, 0.769", "0.870", "16 %", "0.235"),
    ("night of 11-28 and its parent, likewise", "51,351", "0.791, 0.779", "0.918", "16 %",
     "0.218"),
)  # fmt: skip
FAMILIES = ("auc", "normalized entropy", "pcoc", "segment")


def judged(seed, clicks, loss, thresholds=None, likeness=LIKENESS):
    """The verdict on one evening."""
    labels, owner, pair, segments = rivals.evening(seed, clicks, AREA, likeness, loss, BY_USER)
    candidate, incumbent = (scores(labels, owner, z) for z in pair)
    return judge(candidate, incumbent, thresholds or Thresholds(), segments=segments)


def line(clicks, loss, evenings, **given):
    """Counts of so many evenings."""
    ends, checks = Counter(), Counter()
    for seed in range(evenings):
        verdict = judged(seed, clicks, loss, **given)
        fresh, strict = (decide(verdict.checks, p) for p in ("fresh", "strict"))
        warned = any(c.outcome == "warn" for c in verdict.checks)
        ends["published"] += fresh == "BLESS"
        ends["with a warning"] += fresh == "BLESS" and warned
        ends["refused"] += fresh == "REJECT"
        ends["held"] += fresh == "HOLD"
        ends["published, strict"] += strict == "BLESS"
        ends["held, strict"] += strict == "HOLD"
        failed = [c.name for c in verdict.checks if c.outcome == "fail"]
        for family in FAMILIES:
            checks[family] += any(name.startswith(family) for name in failed)
    return {"clicks": clicks, "auc_loss": loss, "evenings": evenings, **ends,
            "refused_by": dict(checks)}  # fmt: skip


def page(lines):
    """Markdown of the results."""
    given = Thresholds()
    rows = [
        (f"{x['clicks']:,}", f"{0.0 - x['auc_loss']:+.3f}", str(x["evenings"]),
         *(f"{x[k] / x['evenings']:.1%}" for k in ("published", "with a warning", "refused", "held",
                                                   "published, strict", "held, strict")))
        for x in lines
    ]  # fmt: skip
    head = ("clicks", "ΔAUC", "evenings", "published", "published with a warning", "refused",
            "held", "strict: published", "strict: held")  # fmt: skip
    equal = [x for x in lines if not x["auc_loss"]]
    parts = [(f"{x['clicks']:,}", *(f"{x['refused_by'][f] / x['evenings']:.1%}" for f in FAMILIES))
             for x in equal]  # fmt: skip
    return f"""# The model gate: how often it publishes and refuses

**Simulated** evenings. `make gate-power` makes this page. ΔAUC is the true difference of the
candidate from the incumbent. Thresholds are the defaults: error {given.error:g}, auc_loss
{given.auc_loss:g}, entropy_rise {given.entropy_rise:g}, pcoc {given.pcoc:g}, segment_pcoc
{given.segment_pcoc:g}.

{table(head, rows)}

The first columns are of `policy=fresh`, the last two of `policy=strict`. What `strict` neither
publishes nor holds it refuses, as `fresh` does.

Equally good candidates that are refused, by the check that refuses them. Each family of checks
has a level of {given.level(1):.1%}:

{table(("clicks", "AUC", "NE", "PCOC", "a segment"), parts)}

## How the evenings are simulated

- A row's true logit is the sum of a user's part (variance {rivals.USER:g}) and one of its own
  (variance {rivals.ROW:g}). A user has {rivals.ROWS + 1} rows on average, and
  {rivals.CLICKS:.1%} of the rows have a click.
- Both models see the true logit through noise. The incumbent's AUC is {AREA:g}. Among rows with a
  click, and among rows without one, the scores of two equally good models have a correlation of
  {LIKENESS:g} (the partial correlation). Of the noise {BY_USER:.0%} is common to a user's rows.
- Both are calibrated, overall and in each of the {sum(rivals.SEGMENTS)} segments, of
  {len(rivals.SEGMENTS)} families.

`python -m tests.gates.pairs` measured how alike real pairs of models are. The last column is the
standard error of ΔAUC times the root of the clicks, by the gate's bootstrap; of a simulated
evening of 2,779 clicks it is 0.147.

{table(PAIR, PAIRS)}

The logs of `taobao` have one drawn row without a click for each click. Such an evening tells less
of AUC than one of many rows without a click: by the errors above it needs about 2.4 times as many
clicks for the same rates.
"""


def table(head, rows):
    return "\n".join(markdown(head, rows))


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    lines = []
    for clicks, evenings in EVENINGS.items():
        for loss in LOSSES:
            lines.append(line(clicks, loss, evenings))
            print(lines[-1], file=sys.stderr, flush=True)
    result = {"command": "make gate-power", "thresholds": asdict(Thresholds()), "lines": lines}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    PAGE.write_text(page(lines))


if __name__ == "__main__":
    main()
