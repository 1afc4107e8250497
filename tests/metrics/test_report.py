"""The report names every metric that is defined, with the values of the metrics themselves."""

import json

import numpy as np
import pytest

from at4ctr import metrics
from at4ctr.errors import InputError
from at4ctr.metrics.report import NAMES


def rows(n: int = 300):
    rng = np.random.default_rng(0)
    p = rng.random(n)
    return (rng.random(n) < p).astype(int), metrics.logit(p), rng.integers(0, 30, n)


def test_report_holds_each_metric_under_its_name():
    labels, z, users = rows()
    found = metrics.report(labels, z, groups=users)
    assert tuple(found) == NAMES
    assert (found["rows"], found["positives"]) == (300, labels.sum())
    assert found["gauc"] == metrics.gauc(labels, z, users)
    assert found["gauc_impressions"] == metrics.gauc(labels, z, users, "impressions")
    for name in set(NAMES) - {"rows", "positives", "gauc", "gauc_impressions"}:
        given = metrics.sigmoid(z) if name in ("pcoc", "expected_calibration_error") else z
        assert found[name] == getattr(metrics, name)(labels, given)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(("label", "absent"), [(1, set()), (0, {"pcoc"})])
def test_what_one_class_leaves_undefined_is_left_out(label, absent):
    found = metrics.report([label, label], [0.2, 0.4], groups=[1, 1])
    assert (
        set(NAMES) - set(found)
        == {"auc", "gauc", "gauc_impressions", "normalized_entropy"} | absent
    )


def test_gauc_is_left_out_when_no_group_has_both_classes():
    assert "gauc" not in metrics.report([0, 1], [0.2, 0.4], groups=["a", "b"])
    assert "gauc" not in metrics.report([0, 1], [0.2, 0.4])
    assert metrics.report([0, 1], [0.2, 0.4], groups=["a", "a"])["gauc"] == 1.0


def test_by_group_reports_each_mask_with_none_for_the_undefined():
    labels, z, users = rows()
    found = metrics.by_group(
        labels, z, {"few": users < 10, "clicked": labels == 1, "nobody": users < 0}
    )
    assert found["few"]["auc"] == metrics.auc(labels[users < 10], z[users < 10])
    assert found["clicked"]["auc"] is None
    assert found["clicked"]["logloss"] == metrics.logloss(labels[labels == 1], z[labels == 1])
    assert found["nobody"]["rows"] == 0
    assert found["nobody"]["logloss"] is None
    assert len({tuple(r) for r in found.values()}) == 1


def test_bad_groups_and_masks_are_refused():
    labels, z, users = rows()
    with pytest.raises(InputError, match="labels has 300 rows and groups 299"):
        metrics.report(labels, z, groups=users[1:])
    with pytest.raises(InputError, match="mask of group 'few' has type int64"):
        metrics.by_group(labels, z, {"few": users})
    with pytest.raises(InputError, match=r"shape \(299,\): expected bool and \(300,\)"):
        metrics.by_group(labels, z, {"few": users[1:] < 3})
