"""Latency of exported models, in a TensorFlow session as a server runs them.

python -m benchmarks.bench_export [--backbones din,dien] [--sizes 1,32,512] [--history 100]
    candidates of one user against serving_default with the user repeated.
python -m benchmarks.bench_export --items 5000000 --lookup
    vocabularies of so many ids: seconds to load, and the share of the look-ups in a request.
python -m benchmarks.bench_export --tasks uim,nip
    the same backbones trained with tasks against those without.

Each figure is a JSON line: medians of interleaved calls, of wall time and of the CPU time of all
threads, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import at4ctr  # noqa: F401  # isort: skip  (before TensorFlow loads)
import tensorflow as tf

from at4ctr.data.store import Store
from at4ctr.model.build import Plan, serving_model, training_model
from at4ctr.schema import FIRST_ID
from benchmarks.bench_reader import make
from export import saved_model
from export.lookup import Front
from export.requests import of_user, requests

BACKBONES = "fm,widedeep,deepfm,din,dien,dmr,dbpman"
Call = Callable[[], Any]


class Version:
    """A version in a session of its own."""

    def __init__(self, folder: Path) -> None:
        self.session = tf.compat.v1.Session(graph=tf.Graph())
        began = time.perf_counter()
        with self.session.graph.as_default():
            meta = tf.compat.v1.saved_model.load(self.session, ["serve"], str(folder))
        self.seconds, self.signatures = time.perf_counter() - began, meta.signature_def

    def call(self, name: str, raw: Mapping[str, Any]) -> Call:
        signature = self.signatures[name]
        keys = sorted(signature.inputs)
        infos = [signature.inputs[k] for k in keys]
        values = [
            np.array(raw[k], tf.as_dtype(i.dtype).as_numpy_dtype)
            for k, i in zip(keys, infos, strict=True)
        ]
        fetches = [i.name for i in signature.outputs.values()]
        run = self.session.make_callable(fetches, [i.name for i in infos])
        return lambda: run(*values)


def exported(store: Store, args: argparse.Namespace, backbone: str, tasks: tuple[str, ...]) -> Path:
    """A fresh model's version; with tasks, of a training model that has them."""
    config = importlib.import_module(f"at4ctr.backbones.{backbone}")
    found = {t: importlib.import_module(f"at4ctr.auxiliaries.{t}").Config() for t in tasks}
    plan = Plan.of(config.Config(), auxiliaries=found)
    rows = {t.name: store.rows(t.name) for t in store.schema.tables}
    model = serving_model(store.schema, rows, plan)
    if tasks:
        training_model(model, store.schema, plan)
    folder = store.path.parent / f"{backbone}-{'-'.join(tasks)}"
    facts: dict[str, Any] = {}
    return saved_model.save(model, store, folder, history=args.history, facts=facts, split="train")


def asked(front: Front, store: Store, size: int) -> tuple[dict, dict]:
    """One user with a whole history and ``size`` candidates, and the same as repeated rows."""
    raw = requests(front, store, "train", max(size, 4096), longest=1)
    padded = [sum(v == -1 for v in row) for row in raw.get("history_item", [[]])]
    row = int(np.argmin(padded))
    one = of_user(front, raw, row, slice(size))
    rows = {
        key: np.repeat(np.array(one[key])[None], size, 0)
        if key.startswith("history_")
        else np.repeat(np.array(one[key]), size, 0)
        if front.inputs[key].group == "profile"
        else one[key]
        for key in one
    }
    return one, rows


def interleaved(calls: Mapping[str, Call], rounds: int) -> dict[str, dict[str, float]]:
    """Name -> milliseconds a call: p50, p99 (of wall time) and cpu (median)."""
    wall: dict[str, list[float]] = {name: [] for name in calls}
    used: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-3, rounds):
        for name, call in calls.items():
            cpu, began = time.process_time(), time.perf_counter()
            call()
            if turn >= 0:
                wall[name].append((time.perf_counter() - began) * 1e3)
                used[name].append((time.process_time() - cpu) * 1e3)
    return {
        name: {
            "p50": round(statistics.median(wall[name]), 3),
            "p99": round(float(np.quantile(wall[name], 0.99)), 3),
            "cpu": round(statistics.median(used[name]), 3),
        }
        for name in calls
    }


def say(**facts: Any) -> None:
    print(json.dumps(facts | {"load": round(os.getloadavg()[0], 1)}), flush=True)


def sizes_of(store: Store, args: argparse.Namespace) -> None:
    for backbone in args.backbones.split(","):
        version = Version(exported(store, args, backbone, ()))
        past = any(k.startswith("history_") for k in version.signatures["candidates"].inputs)
        front = Front(store, args.history, past=past)
        for size in map(int, args.sizes.split(",")):
            one, rows = asked(front, store, size)
            calls = {
                "candidates": version.call("candidates", one),
                "repeated": version.call("serving_default", rows),
            }
            pairs = zip(calls["candidates"](), calls["repeated"](), strict=True)
            off = max(float(np.max(np.abs(a - b))) for a, b in pairs)
            found = interleaved(calls, max(10, args.rounds // (1 + size // 32)))
            ratio = found["candidates"]["cpu"] / found["repeated"]["cpu"]
            facts = {"candidates": size, **found, "cpu_ratio": round(ratio, 3), "differs": off}
            say(backbone=backbone, history=args.history, **facts)


def lookups_of(store: Store, args: argparse.Namespace) -> None:
    for backbone in args.backbones.split(","):
        version = Version(exported(store, args, backbone, ()))
        say(backbone=backbone, ids=args.items, load_seconds=round(version.seconds, 2))
        front = Front(store, args.history)
        for size in map(int, args.sizes.split(",")):
            one, rows = asked(front, store, size)
            for name, raw in (("candidates", one), ("serving_default", rows)):
                calls = {"answer": version.call(name, raw), **alone(front, raw)}
                found = interleaved(calls, max(10, args.rounds // (1 + size // 32)))
                spent = found["lookups"]["cpu"] - found["nothing"]["cpu"]
                share = round(spent / found["answer"]["cpu"], 4)
                say(backbone=backbone, signature=name, rows=size, **found, share=share)


def alone(front: Front, raw: Mapping[str, Any]) -> dict[str, Call]:
    """The look-ups of a request's every value, and a function that does nothing."""
    values = {k: tf.constant(np.array(v).ravel(), tf.int64) for k, v in raw.items()}

    @tf.function(autograph=False)
    def lookups() -> list[tf.Tensor]:
        features = {k: front.schema.feature(front.inputs[k].of.name) for k in values}
        return [front.tables[features[k].table](v) for k, v in values.items()]

    @tf.function(autograph=False)
    def nothing() -> list[tf.Tensor]:
        return list(values.values())

    return {"lookups": lookups, "nothing": nothing}


def tasks_of(store: Store, args: argparse.Namespace) -> None:
    for backbone in args.backbones.split(","):
        folders = [exported(store, args, backbone, t) for t in ((), tuple(args.tasks.split(",")))]
        versions = dict(zip(("without", "with"), map(Version, folders), strict=True))
        front = Front(store, args.history)
        one, _ = asked(front, store, 32)
        found = interleaved(
            {n: v.call("candidates", one) for n, v in versions.items()}, 10 * args.rounds
        )
        sizes = [sum(p.stat().st_size for p in f.rglob("*") if p.is_file()) for f in folders]
        same = len({(f / "saved_model.pb").read_bytes() for f in folders}) == 1
        ratios = {k: round(found["with"][k] / found["without"][k], 3) for k in found["with"]}
        facts = {"tasks": args.tasks, "ratios": ratios, "bytes": sizes, "same_graph": same}
        say(backbone=backbone, candidates=32, **found, **facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbones", default=BACKBONES)
    parser.add_argument("--sizes", default="1,32,512")
    parser.add_argument("--history", type=int, default=100)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--lookup", action="store_true")
    parser.add_argument("--tasks", default="")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        make(path, users=2_000, behaviours=150, items=args.items, seed=0)
        ids = np.load(path / "ids" / "category.npy")
        items = pa.table({"item": np.arange(args.items), "category": ids - FIRST_ID})
        pq.write_table(items, path / "dims" / "item.parquet")
        store = Store.open(path)
        if args.lookup:
            lookups_of(store, args)
        elif args.tasks:
            tasks_of(store, args)
        else:
            sizes_of(store, args)


if __name__ == "__main__":
    main()
