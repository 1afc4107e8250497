"""The auxiliary ``ranking``: each label's pairs, and the mixture that it makes of the total."""

import numpy as np
import pytest

from at4ctr.auxiliaries import ranking
from at4ctr.backbones import widedeep
from at4ctr.errors import InputError
from at4ctr.heads import shared_bottom
from tests.model import toys
from tests.oracles import losses as oracle


def test_the_total_is_the_published_mixture_over_a():
    a = 0.4
    head = shared_bottom.Config(bottom=(9,), tower=(6,))
    model = toys.training(
        toys.serving(widedeep.Config(), toys.TWO, head=head),
        {"ranking": ranking.Config(weight=(1 - a) / a)},
        toys.TWO,
    )
    toys.jitter(model)
    arrays = toys.batch(30, schema=toys.TWO)
    clicks, bought = arrays["label_click"], arrays["label_conversion"]
    logits = {k: v.numpy() for k, v in toys.view(model, arrays).outputs.logits.items()}
    known = bought >= 0
    ranked = oracle.pairwise_ranking(logits["click"], clicks)
    ranked += oracle.pairwise_ranking(logits["conversion"][known], bought[known])
    entropy = oracle.binary_cross_entropy(clicks, logits["click"])
    entropy += known.mean() * oracle.binary_cross_entropy(
        bought[known], logits["conversion"][known]
    )
    found = model.losses_of(toys.tensors(arrays))
    assert float(found["ranking"]) == pytest.approx(ranked, rel=1e-5)
    assert float(found["total"]) == pytest.approx((a * entropy + (1 - a) * ranked) / a, rel=1e-5)


@pytest.mark.parametrize("weight", [-1.0, np.nan])
def test_refuses_a_weight_that_is_none(weight):
    with pytest.raises(InputError, match=r"ranking\.weight is"):
        ranking.Config(weight=weight)
