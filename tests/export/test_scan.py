"""How deep and how wide a JSON text is, against a reader that goes character by character."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export import scan
from export.tensors import Limits, RefusedError

TEXTS = st.text(st.sampled_from('a"\\[]{},:é\n'), max_size=6)
VALUES = st.recursive(
    st.one_of(st.integers(), TEXTS, st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=30,
)


def counted(value: object, depth: int = 0, found: dict | None = None) -> dict[int, int]:
    """Separators by depth: one less than the entries of each list and object."""
    found = {} if found is None else found
    if isinstance(value, list | dict):
        inner = list(value.values()) if isinstance(value, dict) else value
        found[depth + 1] = found.get(depth + 1, 0) + max(len(inner) - 1, 0)
        for entry in inner:
            counted(entry, depth + 1, found)
    return found


@settings(max_examples=200, deadline=None)
@given(VALUES, st.booleans())
def test_separators_are_those_of_the_parsed_value(value, escaped):
    text = json.dumps(value, ensure_ascii=escaped).encode()
    found = scan.separators(text)
    expected = counted(value)
    if max(expected, default=0) > scan.DEEPEST:
        assert found is None
    else:
        assert found is not None
        assert {d: n for d, n in enumerate(found) if n} == {d: n for d, n in expected.items() if n}


def test_blocks_join(monkeypatch):
    text = json.dumps({"inputs": {'"\\': [["a,b", '"'], [1, 2, 3]]}}).encode()
    whole = scan.separators(text)
    for block in range(1, 9):
        monkeypatch.setattr(scan, "BLOCK", block)
        assert scan.separators(text) == whole


LIMITS = Limits(rows=10, history=20)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 33 + "]" * 33, "deeper than 32"),
        ("[" * 100_000, "deeper than 32"),
        ('{"instances": [' + "{}," * 10 + "{}]}", "11 rows; expected at most 10"),
        ('{"inputs": {"a": [' + "1," * 40 + "1]}}", "41 values"),
        ('{"inputs": {"a": [' + "[]," * 40 + "[]]}}", "41 values"),
    ],
)
def test_more_than_any_request_holds_is_refused(text, words):
    with pytest.raises(RefusedError, match=words):
        scan.check(text.encode(), LIMITS, 2)


def test_what_a_request_may_hold_passes():
    wide = {"inputs": {"a": [[1] * 20] * 10, "b": ["x,[{" * 9] * 20}}
    for value in ({"instances": [{"a": [1] * 20}] * 10}, wide, 1):
        scan.check(json.dumps(value).encode(), LIMITS, 2)
    scan.check(b"", LIMITS, 2)
    scan.check(b"]]]}}", LIMITS, 2)
