"""What a chain keeps of its flags."""

from __future__ import annotations

import json

import pytest

from at4ctr.errors import InputError
from pipelines.night import chain
from pipelines.night.chain import Settings


def test_a_log_below_the_current_folder_is_named_from_there(tmp_path, monkeypatch):
    """So that no record names a folder of one machine."""
    monkeypatch.chdir(tmp_path)
    settings = chain.made({"data": str(tmp_path / "log")})
    assert settings.asked["data"] == "log"
    assert str(tmp_path) not in json.dumps(settings.to_json())
    elsewhere = str(tmp_path.parent / "log")
    assert chain.made({"data": elsewhere}).asked["data"] == elsewhere
    before = Settings({**settings.asked, "data": str(tmp_path / "log")}, settings.experiment,
                      settings.periods, settings.data_gate, settings.model_gate)  # fmt: skip
    assert before.meaning() == settings.meaning(), "the same folder, named otherwise"


@pytest.mark.parametrize("text", ["-1", "three", "", "1.5"])
def test_still_nights_is_a_whole_number(text):
    with pytest.raises(InputError, match="--still_nights is"):
        chain.made({"still_nights": text})


def test_a_misspelt_policy_is_refused():
    with pytest.raises(InputError, match="strict"):
        chain.made({"model_gate": "policy=strickt"})
