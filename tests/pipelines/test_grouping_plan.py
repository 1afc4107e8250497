"""The plan that compares shuffled rows with shuffled requests."""

import pytest

from at4ctr.errors import InputError
from pipelines.tables import grouping


@pytest.mark.parametrize("dataset", grouping.SIZES)
def test_each_recipe_is_trained_both_ways(dataset):
    plan = grouping.plan(dataset, "grouping", "")
    assert len(plan.cells) == 2 * len(grouping.RECIPES)
    for rows, requests in zip(plan.cells[::2], plan.cells[1::2], strict=True):
        assert rows.recipe == requests.recipe
        assert requests.base == rows.label
        assert rows.overrides == ("data.grouping=rows",)
        assert requests.overrides == ("data.grouping=requests",)


def test_another_dataset_is_refused():
    with pytest.raises(InputError, match="TABLE=grouping has no settings for DATASET=taobao"):
        grouping.plan("taobao", "grouping", "")
