"""The list of mutants fits the code: each can be made, and its tests are there."""

from pathlib import Path

import pytest

from tests.mutation.mutants import MUTANTS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{Path(m.file).stem}: {m.old[:30]}")
def test_a_mutants_old_text_stands_once_in_its_file(mutant):
    assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1
    assert mutant.old != mutant.new
    files = [word.split("::")[0] for word in mutant.tests.split() if ".py" in word]
    assert files
    assert all((ROOT / file).is_file() for file in files)


def test_no_mutant_is_listed_twice():
    assert len({m[:3] for m in MUTANTS}) == len(MUTANTS) >= 60
