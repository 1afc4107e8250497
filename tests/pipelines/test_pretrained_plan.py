"""The plan of the table of similarities and HashIDs, and its report."""

import pytest

from at4ctr.analysis.tables import Row
from at4ctr.data.datasets import amazon_beauty
from at4ctr.errors import InputError
from pipelines.tables import bodies, pretrained
from pipelines.tables.page import Page
from tests.pipelines.test_paper import composed


def test_every_cell_reads_other_vectors_of_one_log():
    plan = pretrained.plan("amazon_beauty", "pretrained", "")
    made = [composed(plan, cell, amazon_beauty.Config()).data for cell in plan.cells]
    assert [(d.similarity, d.hash_id) for d in made] == [
        (False, ""), (True, ""), (False, "alone"), (False, "beside"),
    ]  # fmt: skip
    assert {d.min_history for d in made} == {4}
    with pytest.raises(InputError, match="TABLE=pretrained has no settings for DATASET=taobao"):
        pretrained.plan("taobao", "pretrained", "")


def test_the_report_of_rare_items(tmp_path):
    def run(auc, rare):
        groups = {"100+": {"auc": auc}, "1–4": {"auc": rare}, "0": {}}
        return {"auc": auc, "gauc": auc, "normalized_entropy": 0.9, "item_clicks": groups}

    plan = pretrained.plan("amazon_beauty", "pretrained", "")
    rows = [Row("DIN", {1: run(0.7, 0.6)}), Row("DIN + similarity", {1: run(0.72, 0.65)}, "DIN")]
    lines = bodies.item_clicks(Page(plan, {}, 1, tmp_path), rows, {r.label: {} for r in rows})
    head, _, _, ours = ([c.strip() for c in line.split("|")[1:-1]] for line in lines[:4])
    assert head == [
        "model", "runs", "AUC", "0 clicks: AUC", "1–4 clicks: AUC", "100+ clicks: AUC", "GAUC", "NE"
    ]  # fmt: skip
    assert ours[2:6] == ["0.7200", "–", "0.6500", "0.7200"]
