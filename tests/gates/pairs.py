"""How alike the scores of two real models of the same rows are, and by how much one leads.

``python -m tests.gates.pairs FILE …`` reads ``predictions.npz`` of nights that had an incumbent,
and prints a line of JSON for each. `tests.gates.power` simulates evenings that are alike.
"""

import json
import sys

import numpy as np

import at4ctr  # noqa: F401
from at4ctr.metrics import auc


def within(values, groups):
    """values less the mean of their group."""
    _, of = np.unique(groups, return_inverse=True)
    return values - (np.bincount(of, values) / np.bincount(of))[of]


def shared(values, owner):
    """The share of the variance that rows of one user have in common: the intraclass correlation
    by one-way analysis of variance."""
    _, of = np.unique(owner, return_inverse=True)
    rows = np.bincount(of)
    means = np.bincount(of, values) / rows
    inside = ((values - means[of]) ** 2).sum() / (values.size - rows.size)
    among = (rows * (means - values.mean()) ** 2).sum() / (rows.size - 1)
    size = (values.size - (rows**2).sum() / values.size) / (rows.size - 1)
    return float((among - inside) / (among + (size - 1) * inside))


def measured(labels, owner, one, other):
    """Facts of two models' logits [N] on the same rows."""
    clicked = labels == 1
    residuals = [within(z, clicked) for z in (one, other)]
    scaled = [z / z.std() for z in residuals]
    return {
        "rows": labels.size, "clicks": int(clicked.sum()), "users": int(np.unique(owner).size),
        "auc": [float(auc(clicked, z)) for z in (one, other)],
        "correlation": float(np.corrcoef(one, other)[0, 1]),
        "partial_correlation": float(np.corrcoef(*residuals)[0, 1]),
        "of_difference_by_user": shared(scaled[0] - scaled[1], owner),
    }  # fmt: skip


def main():
    for name in sys.argv[1:]:
        with np.load(name) as file:
            found = measured(*(np.asarray(file[k], np.float64) if k != "users" else file[k]
                               for k in ("labels", "users", "candidate", "incumbent")))  # fmt: skip
        print(json.dumps({"file": name, **found}))


if __name__ == "__main__":
    main()
