"""AUC and GAUC: properties, then scikit-learn and the quadratic definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from at4ctr.errors import InputError
from at4ctr.metrics import auc, gauc, ties
from tests.oracles import metrics as oracle


def rows(seed: int = 0, n: int = 200, levels: int = 12):
    """Labels, scores with ties, groups of which some hold one class only."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    labels[:2] = 0, 1
    return labels, rng.integers(0, levels, n) / levels, rng.integers(0, n // 4, n)


@pytest.mark.parametrize("seed", range(5))
def test_auc_equals_definition_and_sklearn(seed):
    labels, scores, _ = rows(seed)
    assert auc(labels, scores) == pytest.approx(oracle.auc(labels, scores), abs=1e-15)
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=30))
def test_auc_equals_the_definition_for_any_ties(pairs):
    labels, scores = map(np.array, zip(*pairs, strict=True))
    if labels.all() or not labels.any():
        with pytest.raises(InputError):
            auc(labels, scores)
    else:
        assert auc(labels, scores) == pytest.approx(oracle.auc(labels, scores), abs=1e-15)


@pytest.mark.parametrize("transform", [np.exp, np.cbrt, lambda s: 3 * s - 7, lambda s: s**3 + s])
def test_auc_is_unmoved_by_strictly_monotone_maps(transform):
    labels, scores, groups = rows(1)
    assert auc(labels, transform(scores)) == auc(labels, scores)
    assert gauc(labels, transform(scores), groups) == gauc(labels, scores, groups)


def test_auc_of_negated_scores_and_of_flipped_labels():
    labels, scores, _ = rows(2)
    assert auc(labels, -scores) == pytest.approx(1 - auc(labels, scores), abs=1e-15)
    assert auc(1 - labels, scores) == pytest.approx(1 - auc(labels, scores), abs=1e-15)


def test_auc_of_known_orders():
    assert auc([0, 0, 1], [1, 2, 3]) == 1.0
    assert auc([1, 0, 0], [1, 2, 3]) == 0.0
    assert auc([1, 0, 0, 1], [5, 5, 5, 5]) == 0.5
    assert auc([0, 1], [-np.inf, np.inf]) == 1.0


def test_row_order_and_type_do_not_matter():
    labels, scores, groups = rows(3)
    p = np.random.default_rng(0).permutation(labels.size)
    assert auc(labels[p], scores[p]) == auc(labels, scores)
    assert gauc(labels[p], scores[p], groups[p]) == pytest.approx(gauc(labels, scores, groups))
    assert auc(labels.astype(bool), scores.astype(np.float32)) == auc(labels, scores)
    assert type(auc(labels, scores)) is float
    assert type(gauc(labels, scores, groups)) is float


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("weights", ["equal", "impressions"])
def test_gauc_equals_the_definition(seed, weights):
    labels, scores, groups = rows(seed)
    expected = oracle.gauc(labels, scores, groups, weights)
    assert gauc(labels, scores, groups, weights) == pytest.approx(expected, abs=1e-13)


def test_gauc_of_one_group_is_auc():
    labels, scores, _ = rows(4)
    assert gauc(labels, scores, np.zeros(labels.size)) == auc(labels, scores)


def test_gauc_weights_and_groups_of_one_class():
    labels = [0, 1, 1, 0, 0, 1, 1]
    scores = [1, 2, 1, 2, 3, 4, 9]
    groups = ["a", "a", "b", "b", "b", "c", "c"]  # AUC 1, 0, none
    assert gauc(labels, scores, groups) == 0.5
    assert gauc(labels, scores, groups, "impressions") == pytest.approx(2 / 5)


def test_gauc_reads_ids_as_names():
    labels, scores, groups = rows(5)
    for named in (groups.astype(str), groups.astype(object), groups.astype(float), groups - 99):
        assert gauc(labels, scores, named) == pytest.approx(gauc(labels, scores, groups))


@pytest.mark.parametrize(
    ("labels", "scores", "words"),
    [
        ([1, 1], [0.1, 0.2], "auc needs both classes: labels has 2 positives in 2 rows"),
        ([0, 0], [0.1, 0.2], "auc needs both classes: labels has 0 positives in 2 rows"),
        ([], [], "labels is empty"),
        ([0, 1], [0.1, np.nan], "scores holds 1 NaN, the first at row 1"),
        ([0, np.nan], [0.1, 0.2], "labels holds 1 NaN"),
        ([0, 2], [0.1, 0.2], "labels holds 2.0 at row 1: expected 0 or 1"),
        ([0, 1, 1], [0.1, 0.2], "labels has 3 rows and scores 2"),
        ([[0, 1]], [0.1, 0.2], r"labels has shape \(1, 2\)"),
        (["a", "b"], [0.1, 0.2], "labels has type <U1"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(labels, scores, words):
    with pytest.raises(InputError, match=words):
        auc(labels, scores)


def test_bad_groups_are_refused():
    with pytest.raises(InputError, match="none of 2 groups has"):
        gauc([0, 1], [0.1, 0.2], [1, 2])
    with pytest.raises(InputError, match="labels has 2 rows and groups 3"):
        gauc([0, 1], [0.1, 0.2], [1, 2, 2])
    with pytest.raises(InputError, match="groups holds 1 NaN"):
        gauc([0, 1], [0.1, 0.2], [1, np.nan])
    with pytest.raises(InputError, match=r"unknown gauc weights 'impresions'.*impressions"):
        gauc([0, 1], [0.1, 0.2], [1, 1], "impresions")  # type: ignore[arg-type]


def test_logits_around_17_rank_as_scikit_learn_ranks_them_in_float64():
    """Where float32 probabilities are all 1, and the AUC of those is another."""
    rng = np.random.default_rng(0)
    z = 17.5 + rng.normal(0, 1, 4000)
    labels = (z + rng.normal(0, 1, 4000) > 17.5).astype(int)
    assert auc(labels, z) == pytest.approx(roc_auc_score(labels, z), abs=1e-12)
    p = (1 / (1 + np.exp(-z))).astype(np.float32)
    assert auc(labels, p) < auc(labels, z) - 0.02
    assert ties(labels, z) == 0.0
    assert ties(labels, p) > 0.5


def test_ties_are_the_rows_that_share_a_score_with_the_other_class():
    labels, scores = [1, 0, 0, 1, 1, 0], [2.0, 2.0, 2.0, 3.0, 3.0, 1.0]
    assert ties(labels, scores) == 3 / 6
    assert ties([1, 1], [0.0, 0.0]) == 0.0
