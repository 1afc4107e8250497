"""Taobao's funnel against pandas over real behaviours."""

import pandas as pd
import pytest

from at4ctr.data.dataset import SPLITS
from at4ctr.data.datasets.taobao import FIRST, LAST
from at4ctr.data.datasets.taobao_funnel import Config
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.store import Store
from tests.conftest import shared_data
from tests.data.datasets.test_retailrocket import DAY, labelled, read

CLASS = {"pv": "view", "cart": "addtocart", "fav": "addtocart", "buy": "transaction"}


@pytest.mark.parametrize("days", [2.0, 1.5])
def test_labels_of_the_real_behaviours(tmp_path, days):
    path = shared_data("taobao/UserBehavior_43users.csv")
    names = ["visitorid", "itemid", "category", "type", "second"]
    events = pd.read_csv(path, names=names).drop_duplicates()
    events = events[events.second.between(FIRST, LAST)].reset_index(drop=True)
    events["event"] = events.type.map(CLASS)
    expected = labelled(events, DAY, round(days * DAY))
    config = Config(raw=str(path), conversion_days=days, test_share=0.4, validation_share=0.2)
    store = Store.open(prepare(config, tmp_path))
    columns = ["visitor", "item", "click", "conversion"]
    found = read(store)[columns].sort_values(columns).reset_index(drop=True)
    wanted = expected[columns].sort_values(columns).reset_index(drop=True)
    pd.testing.assert_frame_equal(found, wanted, check_dtype=False)
    assert not store.simulated
    assert all(store.counts(s)["labels"]["click"]["positives"] for s in SPLITS)
