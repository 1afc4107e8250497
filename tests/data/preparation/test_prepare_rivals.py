"""Several preparations of one store, and what killed ones leave."""

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from at4ctr.data.datasets import taobao
from at4ctr.data.disk import locked
from at4ctr.data.preparation import build as building
from at4ctr.data.preparation import prepare as preparation
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.simulation import write as simulate
from at4ctr.data.simulation.world import World
from at4ctr.data.store import MANIFEST
from at4ctr.errors import InputError

START = 1_511_539_200
HANGS = 1800  # seconds after which a wait is given up; no test is that slow
GOOD = [f"{k % 4 + 1},{k % 23 + 1},{k % 5},pv,{START + k}\n" for k in range(400)]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("".join(GOOD))
    return taobao.Config(raw=str(path))


@pytest.fixture
def builds(monkeypatch):
    """Counts builds; each waits for `go`."""
    build, go, begun = building.build, threading.Event(), threading.Event()
    met = []

    def counted(*arguments):
        met.append(arguments)
        begun.set()
        assert go.wait(HANGS)
        return build(*arguments)

    monkeypatch.setattr(preparation, "build", counted)
    return met, begun, go


def stop(*_):
    raise KeyboardInterrupt


def killed(config, root, monkeypatch):
    """A preparation that dies without a chance to tidy up; returns what it leaves."""
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "build", stop)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            prepare(config, root)
    (left,) = (root / "store" / "taobao").glob(".*.tmp-*")
    return left


def test_rivals_make_one_store_between_them(tmp_path, config, builds):
    met, begun, go = builds
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(prepare, config, tmp_path)
        assert begun.wait(HANGS)
        second = pool.submit(prepare, config, tmp_path)
        with pytest.raises(TimeoutError):
            second.result(timeout=0.3)  # it waits for the first
        go.set()
        store = first.result(HANGS)
        stamp = os.stat(store / MANIFEST)
        assert second.result(HANGS) == store
    assert len(met) == 1
    assert os.stat(store / MANIFEST).st_ino == stamp.st_ino
    assert list(store.parent.iterdir()) == [store]


def test_a_store_published_after_the_first_look_is_used(tmp_path, config, monkeypatch):
    """The manifest is not there at first, and is when the lock is held: nothing is deleted."""
    store = prepare(config, tmp_path)
    inode = os.stat(store / MANIFEST).st_ino
    looks = [False, True]
    monkeypatch.setattr(preparation, "_finished", lambda _: looks.pop(0))
    monkeypatch.setattr(preparation, "build", stop)
    assert prepare(config, tmp_path) == store
    assert not looks
    assert os.stat(store / MANIFEST).st_ino == inode


def test_interrupted_preparation_is_redone(tmp_path, config, capsys, monkeypatch):
    killed(config, tmp_path, monkeypatch)
    store = prepare(config, tmp_path)
    assert "interrupted preparation" in capsys.readouterr().err
    assert list(store.parent.iterdir()) == [store]
    (store / MANIFEST).unlink()  # a store without its last file is not trusted
    (store / "data" / "part-00000.parquet").write_bytes(b"half")
    assert prepare(config, tmp_path) == store
    assert (store / "data" / "part-00000.parquet").stat().st_size > 1000
    assert (store / MANIFEST).is_file()


def test_leftovers_of_other_stores_go_unless_their_lock_is_held(tmp_path, config, monkeypatch):
    others = [replace(config, negatives=n) for n in (2, 3)]
    gone = killed(others[0], tmp_path, monkeypatch)
    lock = gone.with_name(gone.name.replace(gone.name[13:], ".lock"))
    lock.touch()  # as a kill leaves it
    finished = prepare(others[1], tmp_path)
    assert not gone.exists()
    assert not lock.exists()
    alive = killed(others[0], tmp_path, monkeypatch)
    with locked(lock) as held:
        assert held
        store = prepare(config, tmp_path)
        assert alive.exists()
        assert lock.exists()
    assert sorted(store.parent.iterdir()) == sorted([alive, finished, store])


def test_a_lock_is_exclusive_and_leaves_nothing(tmp_path):
    path = tmp_path / ".lock"
    inside, most, turns = [], [], []

    def enter():
        with locked(path):
            inside.append(1)
            most.append(len(inside))
            turns.append(1)
            inside.pop()

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(enter) for _ in range(200)]:
            future.result(HANGS)
    assert (max(most), len(turns)) == (1, 200)
    assert not path.exists()
    with locked(path), locked(path, wait=False) as second:
        assert not second
    assert not path.exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path, config):
    (tmp_path / "store").write_text("a file where a folder belongs")
    with pytest.raises(InputError, match=r"store.*cannot be used \(Not a directory\)") as caught:
        prepare(config, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_log_that_changes_while_it_is_read_is_refused(tmp_path, config, monkeypatch):
    load = taobao.Config.load

    def changing(self, engine, source):
        load(self, engine, source)
        with source.files[0].open("a") as file:
            file.write(GOOD[0])

    monkeypatch.setattr(taobao.Config, "load", changing)
    with pytest.raises(InputError, match=r"log.csv changed while it was read"):
        prepare(config, tmp_path)
    assert not list((tmp_path / "store" / "taobao").iterdir())


def test_simultaneous_simulations_do_not_share_a_file(tmp_path, monkeypatch):
    """A second process that begins and ends inside the first leaves it unharmed."""
    world = World(users=20, items=30, categories=3, rows=400)
    path, blocks = tmp_path / "log.csv", simulate._blocks

    def interleaved(catalogue):
        monkeypatch.setattr(simulate, "_blocks", blocks)
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 1)
            simulate.write_behaviours(world, path)
        yield from blocks(catalogue)

    simulate.write_behaviours(world, tmp_path / "alone.csv")
    monkeypatch.setattr(simulate, "_blocks", interleaved)
    simulate.write_behaviours(world, path)
    assert path.read_bytes() == (tmp_path / "alone.csv").read_bytes()
    assert path.stat().st_mtime_ns == (tmp_path / "alone.csv").stat().st_mtime_ns
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alone.csv", "log.csv"]
