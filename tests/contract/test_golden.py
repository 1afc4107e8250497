"""Twenty steps of ``din+uim+nip`` have the losses that they had when they were written down."""

import json

import numpy as np

from tests.contract import golden_losses


def test_the_losses_are_the_golden_ones():
    found, kept = golden_losses.losses(), json.loads(golden_losses.PLACE.read_text())
    assert found.keys() == kept.keys() == {"click", "uim", "nip", "total"}
    for name, values in kept.items():
        assert len(values) == golden_losses.STEPS
        now, then = ([float.fromhex(v) for v in side] for side in (found[name], values))
        np.testing.assert_allclose(now, then, rtol=1e-5, err_msg=name)


def test_a_difference_of_one_bit_is_seen():
    kept = {"click": [(1.0).hex(), (2.0).hex()]}
    found = {"click": [(1.0).hex(), float(np.nextafter(np.float32(2), np.float32(3))).hex()]}
    assert golden_losses.differing(kept, kept) == []
    (line,) = golden_losses.differing(found, kept)
    assert line.startswith("click, step 1: ")
