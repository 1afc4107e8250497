"""Every encoding: finite for every input, missing values apart; the digits of MNS."""

import math

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.contracts import Numbers
from at4ctr.encodings import buckets, log, mns
from at4ctr.errors import InputError
from at4ctr.folders import config_of, modules
from at4ctr.layers.digits import codes
from tests.model import toys

NAMES = modules("at4ctr.encodings")
D = 4
HOSTILE = [0.0, -0.0, 1.0, -1.0, 7.5, 3e38, -3e38, 1e-38, math.inf, -math.inf, math.nan]


def numbers(values) -> Numbers:
    """An oracle of what preparation keeps."""
    known = np.asarray([v for v in values if not math.isnan(v)], np.float64)
    if not len(known):
        return Numbers()
    steps = np.quantile(known, np.linspace(0, 1, 257))
    whole = bool((known == np.round(known)).all())
    return Numbers(tuple(steps), whole, float(np.quantile(np.abs(known), 0.999)))


def build(name, values=range(100)):
    return config_of("encodings", name, "encoding").build(numbers(list(map(float, values))), D, 5)


def digits(value: int, base: int, length: int) -> list[int]:
    """Most significant first by Python's own division, turned round."""
    found = []
    while value:
        value, rest = divmod(value, base)
        found.append(rest)
    return (found + [0] * length)[:length]


def test_the_folder_is_the_registry():
    assert {"log", "buckets", "mns"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_input_gives_a_finite_vector(name):
    encoding = build(name)
    found = encoding(tf.constant(HOSTILE))
    assert found.shape == [len(HOSTILE), D]
    assert np.isfinite(found).all()
    assert encoding(tf.zeros([0])).shape == [0, D]
    graph = tf.function(
        encoding, input_signature=[tf.TensorSpec([None], tf.float32)], autograph=False
    )
    np.testing.assert_allclose(graph(tf.constant(HOSTILE)), found, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_value_has_a_vector_of_its_own(name):
    encoding = build(name)
    toys.jitter(encoding)
    missing, *others = encoding(tf.constant([math.nan, 0.0, 1.0, 50.0, 99.0])).numpy()
    assert all((missing != other).any() for other in others)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(encoding(tf.constant([math.nan])))
    found = [tf.convert_to_tensor(g) for g in tape.gradient(loss, encoding.trainable_variables)
             if g is not None]  # fmt: skip
    assert all(np.isfinite(g).all() for g in found)


@pytest.mark.parametrize("name", NAMES)
def test_a_column_without_a_known_value_is_encoded(name):
    encoding = config_of("encodings", name, "encoding").build(Numbers(), D, 5)
    assert np.isfinite(encoding(tf.constant([math.nan, 0.0, 3.0]))).all()


@pytest.mark.parametrize(
    ("base", "expected"),
    [(2, [1, 1, 0, 0, 1, 1]), (3, [0, 2, 2, 1, 0, 0]), (10, [1, 5, 0, 0, 0, 0])],
)
def test_the_digits_of_51(base, expected):
    np.testing.assert_array_equal(codes([51], base, 6), [expected])


def test_digits_are_those_of_python():
    values = np.concatenate([np.arange(300), 10 ** np.arange(3, 9)])
    for base, length in ((2, 30), (3, 20), (7, 11), (10, 9)):
        expected = [digits(int(v), base, length) for v in values]
        found = codes(values, base, length)
        assert found.dtype == tf.int32
        np.testing.assert_array_equal(found, expected)


def test_a_number_of_too_many_digits_is_the_largest_that_fits():
    np.testing.assert_array_equal(codes([8, 7, 10**18], 2, 3), [[1, 1, 1]] * 3)


def test_mns_is_the_sum_of_equation_2():
    encoding = build("mns")
    toys.jitter(encoding)
    special = toys.double(encoding.special)
    for x in (0, 1, 51, 99, -51, 65535, 10**6):
        size = min(abs(x), 65535)
        expected = special[0].copy() if x < 0 else np.zeros(D)
        for base, length in ((2, 16), (3, 11), (10, 5)):
            table = toys.double(encoding.digits.tables[f"base_{base}"])
            assert table.shape == (base * length, D)
            for k, digit in enumerate(digits(size, base, length)):
                expected += table[base * k + digit]
        np.testing.assert_allclose(encoding(tf.constant([float(x)]))[0], expected, rtol=1e-5)


def test_mns_resolves_fractions_and_large_values():
    small = build("mns", np.linspace(0, 1, 1000))
    assert small.unit == pytest.approx(0.999 / 2**15, rel=1e-3)
    assert build("mns", [0, 1e9]).unit == pytest.approx(0.999e9 / 2**15, rel=1e-3)
    assert build("mns").unit == 1.0
    toys.jitter(small)
    a, b = small(tf.constant([0.5, 0.501])).numpy()
    assert (a != b).any()


def test_log_is_a_standardised_logarithm():
    values = np.random.default_rng(0).lognormal(2, 1, 5000)
    encoding = build("log", values)
    toys.jitter(encoding)
    a, b, missing = toys.double(encoding.rows)
    logs = np.log1p(values)
    for x in (0.5, 7.0, 300.0):
        z = (np.log1p(x) - logs.mean()) / logs.std()
        np.testing.assert_allclose(encoding(tf.constant([x]))[0], z * a + b, rtol=0.02, atol=0.005)
    np.testing.assert_allclose(encoding(tf.constant([math.nan]))[0], missing, rtol=1e-6)
    mirrored = build("log", [-3.0, 3.0])
    one, other = (mirrored(tf.constant([x]))[0] - mirrored.rows[1] for x in (2.0, -2.0))
    np.testing.assert_allclose(one, -other, rtol=1e-5)


def test_buckets_hold_about_as_many_rows_each():
    values = np.random.default_rng(1).exponential(5, 20_000).astype(np.float32)
    encoding = build("buckets", values)
    place = np.searchsorted(encoding.edges, values, side="right")
    counts = np.bincount(place)
    assert len(counts) == 32
    assert counts.min() > 0.9 * counts.max()
    found = encoding(tf.constant(values[:50])).numpy()
    np.testing.assert_array_equal(found, encoding.rows.numpy()[place[:50]])
    below, above = encoding(tf.constant([-1e9, 1e9])).numpy()
    np.testing.assert_array_equal(below, encoding.rows.numpy()[0])
    np.testing.assert_array_equal(above, encoding.rows.numpy()[31])


def test_equal_quantiles_share_a_bucket():
    encoding = build("buckets", [0.0] * 90 + [1.0] * 10)
    assert encoding.rows.shape[0] <= 5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: mns.Config(bases=()), "mns.bases"),
        (lambda: mns.Config(bases=(2, 2)), "mns.bases"),
        (lambda: mns.Config(bases=(1,)), "mns.bases"),
        (lambda: mns.Config(bits=31), "mns.bits"),
        (lambda: buckets.Config(count=1), "buckets.count"),
        (lambda: config_of("encodings", "mnz", "encoding of number 'price'"), "mns"),
    ],
)
def test_what_makes_no_sense_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()
    assert log.Config().limit > 0
