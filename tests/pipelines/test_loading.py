"""How entry points load TensorFlow: without packages that nothing uses, with few malloc arenas."""

import ctypes
import os
import sys
from types import SimpleNamespace

import pytest

import pipelines


def test_what_is_hidden_cannot_be_imported_and_what_is_loaded_stays(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with pipelines._without(["colorsys", "json"]):
        with pytest.raises(ImportError, match="colorsys"):
            import colorsys
        import json
    import colorsys

    assert colorsys.rgb_to_yiq(0, 0, 0) == (0, 0, 0)
    assert json.loads("1") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="arenas are glibc's")
@pytest.mark.parametrize(("function", "asked"), [("mallopt", ""), ("mallopt", "3"), ("other", "")])
def test_arenas_are_one_a_core_in_glibc_unless_the_operator_says_otherwise(
    monkeypatch, function, asked
):
    calls = []
    libc = SimpleNamespace(**{function: lambda *given: calls.append(given)})
    monkeypatch.setattr(ctypes, "CDLL", lambda _: libc)
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    if asked:
        monkeypatch.setenv("MALLOC_ARENA_MAX", asked)
    pipelines._one_arena_a_core()
    limited = function == "mallopt" and not asked
    assert calls == ([(-8, len(os.sched_getaffinity(0)))] if limited else [])
