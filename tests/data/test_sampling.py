"""The keyed uniform: SQL is numpy is Python, it is uniform, and rates nest."""

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from at4ctr.data.sampling import PRIME, keep, uniform31, uniform31_sql
from at4ctr.errors import InputError
from tests.oracles import prepare as oracle

WORD = st.integers(-(2**63), 2**63 - 1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(WORD, min_size=3, max_size=3), min_size=1, max_size=20), st.integers(0, 99)
)
def test_sql_numpy_and_python_agree(rows, seed):
    words = np.array(rows, np.int64).T
    found = uniform31(list(words), seed)
    connection = duckdb.connect()
    connection.execute("CREATE TABLE t (k BIGINT, a BIGINT, b BIGINT, c BIGINT)")
    connection.executemany(
        "INSERT INTO t VALUES (?, ?, ?, ?)", [[k, *row] for k, row in enumerate(rows)]
    )
    sql = f"SELECT {uniform31_sql(['a', 'b', 'c'], seed)} FROM t ORDER BY k"
    assert [row[0] for row in connection.execute(sql).fetchall()] == found.tolist()
    assert found.tolist() == [oracle.u31(row, seed) for row in rows]
    assert ((found >= 0) & (found < PRIME)).all()


def test_uniform_and_unrelated_along_every_word():
    grid = np.arange(200_000)
    zero = np.zeros_like(grid)
    for words in ([grid, zero, zero], [zero, grid, zero], [grid % 447, grid // 447, zero]):
        u = uniform31(words, 11) / PRIME
        assert kstest(u, "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.01
    one, other = uniform31([grid], 1) / PRIME, uniform31([grid], 2) / PRIME
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.01


@given(st.floats(0.001, 1), st.floats(0.001, 1))
def test_lower_rates_nest_in_higher_ones(a, b):
    u = uniform31([np.arange(500)], 3)
    labels = (np.arange(500) % 7 == 0).astype(np.int8)
    low, high = keep(labels, u, min(a, b)), keep(labels, u, max(a, b))
    assert not (low & ~high).any()
    assert low[labels == 1].all()
    assert keep(labels, u, 1.0).all()


def test_keep_keeps_its_share_of_negatives():
    u = uniform31([np.arange(100_000)], 3)
    assert keep(np.zeros(100_000), u, 0.1).mean() == pytest.approx(0.1, abs=0.005)


@pytest.mark.parametrize("w", [0.0, -0.1, 1.1, float("nan"), float("inf")])
def test_bad_rates_are_refused(w):
    with pytest.raises(InputError, match="negative_rate"):
        keep(np.zeros(1), np.zeros(1), w)
