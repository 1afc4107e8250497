"""The pages of repeated exposures and of waits, on tiny logs."""

import numpy as np

from at4ctr.data.simulation.world import DAY, START
from pipelines import repeats, waits
from pipelines.waits import FIRST, WAITS, Clicks


def test_the_top_of_each_user_is_ranked_by_the_model():
    users = np.array([7, 3, 7, 3, 7, 9, 9])
    logits = np.array([1.0, 0.0, 3.0, 2.0, 2.0, 5.0, 4.0])
    repeated = np.array([True, True, False, False, True, True, True])
    top, among = repeats.top_share(users, logits, repeated, 2)
    assert (top, among) == (0.5, 2 / 3)  # of user 7 alone, as the others have two rows
    assert repeats.top_share(users, logits, repeated, 1)[0] == 1 / 3


def test_the_page_says_what_the_runs_gave():
    runs = {label: [{"auc": 0.7, "pcoc": 1.0, "top": top, "all": 0.4}] * 2
            for label, top in zip(repeats.ROWS, (0.2, 0.1, 0.1), strict=True)}  # fmt: skip
    text = repeats.page(runs)
    assert "hold 50.0% fewer repeated" in text
    assert text.count("| 2 |") == 3


def test_chosen_waits_take_the_bias_of_bursts_away(tmp_path):
    log = Clicks.drawn(each=3, clicks=60)
    cutoffs = range(START + FIRST * DAY, START + 36 * DAY, 2 * DAY)
    bias, age = {}, {}
    for label in ("no wait", "one day", "chosen"):
        folder = tmp_path / label
        folder.mkdir()
        found = waits.learned(log, WAITS[label], cutoffs, folder)
        assert set(np.unique(found["label"])) <= {0, 1}
        bias[label] = waits.errors(log, found, cutoffs).mean(axis=1)
        age[label] = waits.delays(log, found)
    assert bias["no wait"][2] < -0.5
    assert bias["one day"][2] < -0.2
    assert abs(bias["chosen"][2]) < 0.15
    assert age["chosen"][0] < age["chosen"][2] - 3
