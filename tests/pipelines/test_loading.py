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
@pytest.mark.parametrize("asked", ["", "3"])
def test_arenas_are_one_a_core_unless_the_operator_says_otherwise(monkeypatch, asked):
    calls = []
    libc = SimpleNamespace(mallopt=lambda *given: calls.append(given))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: libc)
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    if asked:
        monkeypatch.setenv("MALLOC_ARENA_MAX", asked)
    pipelines._one_arena_a_core()
    assert calls == ([] if asked else [(-8, len(os.sched_getaffinity(0)))])


@pytest.mark.skipif(sys.platform != "linux", reason="arenas are glibc's")
def test_another_c_library_has_no_arenas_to_limit(monkeypatch):
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    pipelines._one_arena_a_core()
