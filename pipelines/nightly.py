"""The nightly job: python -m pipelines.nightly [run|backfill|status|compare A B|rollback|gc] …

    run       (default) the night of --date: data gate, training from the live version, model gate,
              publishing. Run again, it goes on where it was, or says what became of it.
    backfill  the nights of --begin to --end, in order
    status    the last nights, and the live version
    compare   two nights' models, by date or by version
    rollback  makes --to live (by default the version before the live one); needs --reason.
              --to a version that was rolled back puts it into service again
    gc        deletes old versions and the large files of old nights; --dry_run only lists them

Exit codes: 0 done, or done already; 1 a defect, see log.jsonl; 2 something must be corrected;
10 no data; 11 data rejected; 12 model rejected or held; 75 run the same command again later.
make turns every one of them but 0 into 2: a script or a scheduler runs this command itself.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import FrameType

from absl import flags
from absl import logging as absl_logging

from at4ctr import faults
from at4ctr.data.engines import duck
from at4ctr.errors import InputError, unknown
from export.publishing import publish
from export.streams import ignoring_closed_pipes
from pipelines.night import logs, operate, outcome
from pipelines.night.asked import DEFAULTS, Asked
from pipelines.night.outcome import Result, Stopped
from pipelines.night.places import Places

COMMANDS = {"run": 0, "backfill": 0, "status": 0, "compare": 2, "rollback": 0, "gc": 0}  # words
YEARS = (1970, 9998)  # of a night: there is a day before and after it
CHAIN = {
    "dataset": "a module of at4ctr/data/datasets, or of configs",
    "config": "a recipe: a module of configs, or backbone+task+task",
    "data": "folder with the day folders dt=YYYY-MM-DD; data/<dataset> by default",
    "set": "overrides of the recipe, such as 'data.history=50 fit.batch_size=2048'",
    "days": "of a period: 7 for a weekly model",
    "utc_offset_hours": "hours that the folders' dates are ahead of UTC; by default the dataset's",
    "evaluation": "share of a period, its end, that judges the model",
    "cold_days": "how many days, the latest, a cold start trains on; 0: all",
    "expire_days": "an id with no row or behaviour in so many days leaves; 0: none does",
    "still_nights": "after how many nights without a version the chain stands still; 0: never said",
    "data_gate": "thresholds of the data gate, such as 'deviations=6'",
    "model_gate": "thresholds of the model gate, such as 'policy=strict auc_loss=0.002'",
}


def flag_values() -> flags.FlagValues:
    """Flags of this command alone: the modules that it uses have others of these names."""
    f = flags.FlagValues()
    for name, text in CHAIN.items():
        shown = f"{text} (of a new chain: {DEFAULTS[name] or 'none'}; else the chain's)"
        flags.DEFINE_string(name, None, shown, flag_values=f)
    memory = "of preparation, as 6GB; empty: a quarter of the machine's"
    flags.DEFINE_string("memory", "", memory, flag_values=f)
    flags.DEFINE_string("model", "ctr", "name of the model and its chain of nights", flag_values=f)
    for name, default in (
        ("runs", "runs/nightly"),
        ("serving", "serving"),
        ("registry", "registry"),
    ):
        flags.DEFINE_string(name, default, f"folder of the {name} of all models", flag_values=f)
    for name, text in (
        ("date", "the night's last day, YYYY-MM-DD; it never depends on the clock"),
        ("begin", "backfill: the first date"),
        ("end", "backfill: the last date"),
        ("reason", "why, for the ledger: of bless, adopt and rollback"),
        ("metrics_file", "also write this Prometheus textfile"),
    ):
        flags.DEFINE_string(name, "", text, flag_values=f)
    for name, text in (
        ("cold_start", "forget the parent's weights and ids; train on all days, or --cold_days"),
        ("again", "a new attempt of a date that has ended, whatever its outcome"),
        ("bless", "publish what a gate held or refused; of backfill, a first model only"),
        ("adopt", "take over flags that differ from the chain's"),
        ("first_hold_ok", "run: exit 0, not 12, if a night ends with HOLD and no model is live"),
        ("json", "print one JSON object"),
        ("dry_run", "gc: only list"),
        ("verbose", "print all log lines, and not only stages and warnings"),
        ("help", "this text"),
    ):
        flags.DEFINE_boolean(name, False, text, flag_values=f)
    flags.DEFINE_float("wait_minutes", 0.0, "how long to wait for the log", 0.0, flag_values=f)
    flags.DEFINE_integer("to", None, "rollback: the version", flag_values=f)
    flags.DEFINE_integer("keep", 3, "gc: versions and dates to keep", 1, flag_values=f)
    flags.DEFINE_integer("last", 30, "status: how many nights", 1, flag_values=f)
    return f


@ignoring_closed_pipes()
def main(arguments: Sequence[str]) -> int:
    """Runs a command; its exit code."""
    f = flag_values()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal of ASCII loses no exit code
    try:
        command, *words = f(["nightly", *map(_underscored, arguments)])[1:] or ["run"]
    except flags.Error as error:
        said, code = f"{error}; see --help", outcome.CONFIGURATION
        refused = Result(code, {"exit": code, "error": said}, f"error: {said}")
        return _print(refused, as_json="--json" in arguments)
    if f.help:
        print(f"{__doc__}\n{f.get_help()}")
        return outcome.DONE
    absl_logging.set_verbosity(absl_logging.WARNING)
    logging.getLogger("tensorflow").setLevel(logging.WARNING)
    with logs.to_terminal(verbose=f.verbose), _stoppable():
        result = _guarded(command, words, f)
    return _print(result, as_json=f.json)


def _underscored(word: str) -> str:
    """``--dry-run=x-y`` as ``--dry_run=x-y``: both ways of writing a flag are usual."""
    name, is_, value = word.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + is_ + value if word[:2] == "--" else word


def _print(result: Result, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(result.value, ensure_ascii=False))
    else:
        print(result.text, file=sys.stdout if result.exit == outcome.DONE else sys.stderr)
    return result.exit


def _guarded(command: str, words: list[str], f: flags.FlagValues) -> Result:
    """The command's result; an error as one."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return _perform(command, words, f)
    except (Stopped, KeyboardInterrupt):
        said, code = outcome.STOPPED, outcome.RETRY
    except Exception as error:
        said, code = outcome.sentence_of(error), outcome.code_of(error)
        if code == outcome.BROKEN:
            logs.log.error("a defect", exc_info=error)
    return Result(code, {"exit": code, "error": said}, f"error: {said}")


def _perform(command: str, words: list[str], f: flags.FlagValues) -> Result:
    if command not in COMMANDS:
        raise unknown("command", command, COMMANDS)
    if len(words) != COMMANDS[command]:
        raise InputError(
            f"{command} was given the words {words}; expected {COMMANDS[command]}, and --flag=value"
        )
    duck.ask_memory(f.memory)
    places = Places(f.model, Path(f.runs), Path(f.serving), Path(f.registry))
    if command in ("run", "backfill"):
        return _train(command, places, f)
    faults.check()
    places.demand_known()
    if command == "status":
        return operate.status(places, f.last)
    if command == "compare":
        return operate.compare(places, *words)
    if command == "rollback":
        return operate.rollback(places, f.to, f.reason)
    return operate.gc(places, keep=f.keep, dry_run=f.dry_run)


def _train(command: str, places: Places, f: flags.FlagValues) -> Result:
    """The commands that need TensorFlow, which takes seconds to load."""
    from at4ctr import cluster
    from pipelines.night import backfill, job

    faults.check()
    if cluster.hosts().size > 1:
        raise InputError(
            f"TF_CONFIG names {cluster.hosts().size} hosts; expected one, as a night trains on all "
            "devices of one host; unset TF_CONFIG, or train on several with make train"
        )
    asked = Asked(
        {name: f[name].value for name in CHAIN},
        cold=f.cold_start,
        again=f.again,
        bless=f.bless,
        adopt=f.adopt,
        reason=f.reason,
        minutes=f.wait_minutes,
        metrics=Path(f.metrics_file) if f.metrics_file else None,
    )
    if command == "backfill":
        return backfill.backfill(places, _day("begin", f.begin), _day("end", f.end), asked)
    found = job.run(places, _day("date", f.date), asked)
    return _forgiven(found, places) if f.first_hold_ok else found


def _forgiven(found: Result, places: Places) -> Result:
    """Exit code 0 for HOLD where no model is live, as every first model waits for a blessing."""
    if found.value["outcome"] != "HOLD" or publish.live(places.versions) is not None:
        return found
    return replace(found, exit=outcome.DONE, value={**found.value, "exit": outcome.DONE})


def _day(flag: str, text: str) -> date:
    with contextlib.suppress(ValueError):
        if YEARS[0] <= (day := date.fromisoformat(text)).year <= YEARS[1]:
            return day
    raise InputError(
        f"--{flag} is {text!r}; expected a day such as 2017-12-01, of the years {YEARS[0]} to "
        f"{YEARS[1]}; give one, for the clock decides nothing"
    )


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM raises Stopped, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise Stopped

    kept = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, kept)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
