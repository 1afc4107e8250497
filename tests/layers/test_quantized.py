"""Rows as int8 codes and half floats, against numbers made one by one."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from at4ctr.errors import InputError
from at4ctr.layers import quantized
from at4ctr.layers.quantized import Halves, Int8Rows, gathered, halves, int8_rows
from tests.oracles import quantized as oracle

TABLES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=7),
    elements=st.floats(-1e4, 1e4, width=32)
    | st.floats(-(2.0**-120), 2.0**-120, width=32)
    | st.just(0.0),
)
ROUNDING = 2e-5  # float32's, of a scale times a code


@settings(max_examples=100, deadline=None)
@given(TABLES)
def test_codes_and_scales_are_those_made_one_by_one(table):
    codes, scales = int8_rows(table)
    expected, expected_scales = oracle.int8_rows(table)
    np.testing.assert_allclose(scales, expected_scales, rtol=2e-7, atol=0)
    # A last bit of the scale moves a value that lies half way between two codes.
    assert np.abs(codes.astype(int) - np.array(expected, int).reshape(codes.shape)).max() <= 1
    same = scales == np.array(expected_scales, np.float32)
    np.testing.assert_array_equal(codes[same], np.array(expected).reshape(codes.shape)[same])
    assert codes.min() >= -127


@settings(max_examples=100, deadline=None)
@given(TABLES)
def test_no_value_moves_by_more_than_half_a_scale(table):
    codes, scales = int8_rows(table)
    error = np.abs(table.astype(np.float64) - codes * scales.astype(np.float64)[:, None])
    assert (error <= scales[:, None] / 2).all()
    zero = ~table.any(-1)
    assert not codes[zero].any()
    assert not scales[zero].any()
    found = np.abs(table).max(-1) >= 127 * quantized.LEAST_SCALE
    assert (np.abs(codes).max(-1)[found] == 127).all()


@settings(max_examples=50, deadline=None)
@given(TABLES)
def test_halves_are_the_nearest(table):
    expected = [[oracle.half(float(v)) for v in row] for row in table]
    np.testing.assert_array_equal(halves(table), np.array(expected, np.float16))


@pytest.mark.parametrize("kind", [Int8Rows, Halves])
def test_gathered_rows_are_those_of_the_table_within_the_bound(kind, monkeypatch):
    monkeypatch.setattr(quantized, "BLOCK", 7)  # several, the last one shorter
    table = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    table[:2] = 0
    made = kind(table)
    ids = tf.constant([[0, 1, 5], [39, 5, 2]])
    found = gathered(made, ids)
    assert found.dtype == tf.float32
    error = np.abs(found.numpy() - table[ids.numpy()])
    assert 0 < error.max() <= made.bound() * (1 + ROUNDING)
    assert not found[0, :2].numpy().any()
    np.testing.assert_array_equal(made.rows(3, 9), gathered(made, tf.range(3, 9)))
    if kind is Int8Rows:
        codes, scales = oracle.int8_rows(table)
        whole = np.array(codes) * np.array(scales)[:, None]
        np.testing.assert_allclose(gathered(made, tf.range(40)), whole, rtol=1e-6)


def test_a_variable_is_gathered_as_it_is():
    table = tf.Variable(tf.random.stateless_uniform([5, 3], [1, 2]))
    np.testing.assert_array_equal(gathered(table, tf.constant([4, 0])), table.numpy()[[4, 0]])


@pytest.mark.parametrize("kind", [int8_rows, halves])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(kind, value):
    with pytest.raises(InputError, match="not finite"):
        kind(np.array([[0.0, value]], np.float32))


def test_a_value_beyond_half_floats_is_refused():
    with pytest.raises(InputError, match="65,504"):
        halves(np.array([[7e4]], np.float32))
