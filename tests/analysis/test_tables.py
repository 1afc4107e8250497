"""Comparisons over seeds: against numbers worked out by hand and scipy's own functions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from at4ctr.analysis import tables
from at4ctr.analysis.tables import Row
from at4ctr.metrics.intervals import holm

VALUES = st.lists(st.floats(0.01, 0.99), min_size=2, max_size=8)


def run(auc: float, **more: float) -> dict[str, float]:
    return {"auc": auc, "gauc": auc - 0.1, "logloss": 0.6, "logloss_half": 0.3, **more}


BASE = Row("base", {0: run(0.70), 1: run(0.72), 2: run(0.71)}, paper=(0.9, 0.15))
OURS = Row("ours", {0: run(0.71), 1: run(0.75), 3: run(0.99)}, "base", (0.91, 0.14))


def difference(ours: list[float], base: list[float]) -> tables.Difference:
    found = tables.paired(ours, base)
    assert found is not None
    return found


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@given(VALUES, VALUES)
def test_the_paired_t_test_is_scipys(ours, base):
    n = min(len(ours), len(base))
    a, b = np.array(ours[:n]), np.array(base[:n])
    assume((a - b).std() > 1e-9)
    found = difference(a.tolist(), b.tolist())
    known = stats.ttest_rel(a, b)
    interval = known.confidence_interval(0.95)
    assert found.half is not None
    assert found.p == pytest.approx(known.pvalue)
    assert found.mean - found.half == pytest.approx(interval.low)
    assert found.mean + found.half == pytest.approx(interval.high)


def test_by_hand():
    found = difference([3.0, 5.0, 10.0], [2.0, 3.0, 4.0])  # differences 1, 2, 6
    assert found.mean == pytest.approx(3.0)
    assert found.half == pytest.approx(4.302653 * math.sqrt(7 / 3), rel=1e-6)
    assert found.pairs == 3


@pytest.mark.parametrize(("ours", "base"), [([0.5], [0.4]), ([0.5, 0.7], [0.4, 0.6])])
def test_no_p_without_a_spread(ours, base):
    found = difference(ours, base)
    assert found.mean == pytest.approx(0.1)
    assert (found.half, found.p) == (None, None)


def test_nothing_in_common_has_no_difference():
    assert tables.paired([], []) is None
    assert tables.difference(Row("a", {0: run(0.5)}), Row("b", {1: run(0.5)}), "auc") is None


def test_pairs_are_the_common_seeds():
    found = tables.difference(OURS, BASE, "auc")
    assert found is not None
    assert found.pairs == 2
    assert found.mean == pytest.approx((0.01 + 0.03) / 2)


def test_mean_and_spread():
    assert tables.spread([0.70, 0.72, 0.71]) == "0.7100 ± 0.0100"
    assert tables.spread([0.5]) == "0.5000"
    assert tables.spread([]) == tables.NONE


def test_results_say_what_is_missing_and_print_the_papers_numbers_beside_ours():
    header, _, base, ours, gone = tables.results([BASE, OURS, Row("gone")], 3)
    assert cells(header)[:4] == ["method", "runs", "AUC", "paper's AUC"]
    assert cells(base)[:4] == ["base", "3", "0.7100 ± 0.0100", "0.9000"]
    at = cells(header).index("paper's ½ log loss")
    assert (cells(base)[at - 1], cells(base)[at]) == ("0.3000 ± 0.0000", "0.1500")
    assert cells(ours)[1] == "3"
    assert cells(gone)[1:4] == ["**0 of 3**", tables.NONE, tables.NONE]
    assert len({len(cells(line)) for line in (header, base, ours, gone)}) == 1


def test_without_the_paper_no_column_of_it():
    lines = tables.results([Row("a", {0: run(0.5)})], 1)
    assert not any("paper" in line for line in lines)


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.floats(0.001, 0.5))
def test_holm_rejects_what_its_step_down_rejects(ps, level):
    """The procedure as Holm states it: stop at the first p that exceeds its share of the level."""
    assume(all(abs(p * (len(ps) - k) - level) > 1e-9 for p in ps for k in range(len(ps))))
    rejected = set()
    for step, number in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        if ps[number] > level / (len(ps) - step):
            break
        rejected.add(number)
    assert {i for i, p in enumerate(holm(ps)) if p <= level} == rejected


def test_the_best_row_and_nested_metrics():
    rows = [Row(k, {0: {"validation": {"auc": v}}}) for k, v in (("a", 0.6), ("b", 0.7))]
    assert tables.best([*rows, Row("none")], "validation.auc") is rows[1]
    assert tables.best([Row("none")]) is None
