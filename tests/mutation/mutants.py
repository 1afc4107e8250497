"""The mutants: in which file which text becomes which, and the tests that should fail then.

An `old` text must stand exactly once in its file. It is short, so that few changes of a file break
it. `tests` are words for pytest: files or node ids, and ``-k`` with its expression.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Mutant(NamedTuple):
    """A fault. why: of one that no test can notice, what makes it harmless."""

    file: str
    old: str
    new: str
    tests: str
    why: str = ""


def _of(file: str, tests: str, *changes: tuple[str, ...]) -> Iterator[Mutant]:
    """Mutants of a file with the same tests. changes: (old, new), or (old, new, why)."""
    for old, new, *why in changes:
        yield Mutant(file, old, new, tests, *why)


WIRING = "tests/pipelines/test_wiring.py"
PREPARE = "tests/data/preparation/test_prepare.py"
NEGATIVES = "tests/data/preparation/test_negatives.py"
SHOWN = "tests/data/preparation/test_prepare_impressions.py"
NIGHT = "tests/data/nights/test_increment.py"
READER = "tests/data/test_reader.py"
DATA_GATE = "tests/gates/test_data.py"
MODEL_GATE = "tests/gates/test_model.py"
FIT = "tests/test_fit.py"
NIGHT_LOGS = "tests/data/nights/test_increment_logs.py"
EVIDENCE = "tests/gates/test_evidence.py"
RESAMPLING = "tests/gates/test_resampling.py"
STATISTICS = "tests/gates/test_statistics.py"
EVALUATION = "tests/test_evaluation.py"
DATASET = "tests/data/test_reader_dataset.py"
FITTING = "tests/calibration/test_fitting.py"

MUTANTS = (
    *_of(
        "pipelines/train.py",
        WIRING,
        ('made.reader("validation")', 'made.reader("test")'),
        ('made.predictions(final, "validation")', 'made.predictions(final, "test")'),
        ('made.reader("test")', 'made.reader("validation")'),
    ),
    *_of(
        "pipelines/assembly.py",
        WIRING,
        ("e.data.negative_rate if training else 1.0", "e.data.negative_rate"),
        ("shuffle=training", "shuffle=True"),
        ('if split == "train" and e.data.protocol == "strict"', 'if e.data.protocol == "strict"'),
        ("measure.recalibrate(model, folder)", "pass"),
    ),
    *_of(
        "pipelines/measure.py",
        WIRING,
        ("choose(asked, rows.calibrated,", "choose(asked, rows.calibrated - 1.0,"),
        ("(folder / CALIBRATOR).unlink(missing_ok=True)", "pass"),
        ("model.calibrate({})", "pass"),
    ),
    *_of(
        "pipelines/measure.py",
        "tests/pipelines/test_measure.py -k before",
        ("before = found.shifted", "before = found.calibrated"),
    ),
    *_of(
        "at4ctr/model/serving.py",
        "tests/calibration/test_graph.py -k sampling_correction",
        (
            "logits, corrected = outputs.logits, self.corrected(outputs.logits)",
            "logits, corrected = outputs.logits, outputs.logits",
        ),
        (
            "self.corrected({k: tf.cast(v, tf.float64) for k, v in outputs.logits.items()})",
            "{k: tf.cast(v, tf.float64) for k, v in outputs.logits.items()}",
        ),
    ),
    *_of(
        "at4ctr/config.py",
        "tests/pipelines/test_labels.py -k true_probabilities",
        ("negative_rate=self.data.negative_rate,", "negative_rate=1.0,"),
    ),
    *_of(
        "pipelines/night/learn.py",
        "tests/pipelines/test_nightly_kinds.py -k devices_come",
        ('made.predictions(final, "validation")', 'made.predictions(final, "test")'),
    ),
    *_of(
        "pipelines/night/learn.py",
        WIRING,
        ('.predictions(model, "test")', '.predictions(model, "validation")'),
    ),
    *_of(
        "at4ctr/fit.py",
        f"{FIT} -k early_stop",
        ("way * (value - c.best) > 0", "way * (value - c.best) < 0"),
        ("c.worse >= self.config.patience", "c.worse > self.config.patience"),
        ("value, c.step, 0", "value, c.step, c.worse"),
        ("steps * (i + 1) /", "steps * i /"),
    ),
    *_of(
        "at4ctr/fit.py",
        f"{FIT} -k 'not_finite_stops'",
        ("if not math.isfinite(value)", "if math.isnan(value)"),
    ),
    *_of(
        "at4ctr/schedules.py",
        "tests/test_schedules.py",
        ("(t + 1.0) / self.warmup", "t / self.warmup"),
        ("self.steps - self.warmup", "self.steps"),
        ("t - self.warmup, 0.0", "t, 0.0"),
        ("warmup >= steps", "warmup > steps"),
    ),
    *_of(
        "at4ctr/gradients.py",
        "tests/test_gradients.py",
        ("[summed(g) for g in gradients]", "list(gradients)"),
        ("norm > limit, limit / norm", "norm > 0, limit / norm"),
    ),
    *_of(
        "at4ctr/optimizers.py",
        "tests/test_optimizers.py -k tables_have_a_rate",
        ("rate, step = self._rate_of(variable)", "rate, step = self.learning_rate"),
    ),
    *_of(
        "at4ctr/evaluation.py",
        f"{EVALUATION} -k activeness",
        ("behaviours <= low,", "behaviours < low,"),
        ("(behaviours <= high), behaviours > high)", "(behaviours <= high), behaviours >= high)"),
    ),
    *_of(
        "at4ctr/evaluation.py",
        WIRING,
        ("groups=found.users", "groups=found.lengths"),
    ),
    *_of(
        "at4ctr/data/reader.py",
        f"{READER} -k windows",
        ("np.minimum(cut, self.history)", "np.minimum(cut + 1, self.history)"),
        ('(cut - columns["length"])', '(cut - columns["length"] - 1)'),
        ("math.ceil(max(rows) / self.batch_size)", "max(rows) // self.batch_size"),
    ),
    *_of(
        "at4ctr/data/reader.py",
        f"{READER} -k shuffl",
        ("rng.permutation(kept)", "kept"),
    ),
    *_of(
        "at4ctr/data/reader.py",
        f"{DATASET} -k unknown_rate",
        ("rng.random(len(kept)) < self.unknown_rate", "rng.random(len(kept)) > self.unknown_rate"),
    ),
    *_of(
        "at4ctr/data/reader.py",
        DATASET,
        ("groups[i :: self.workers]", "groups[i:]"),
    ),
    *_of(
        "at4ctr/data/block.py",
        f"{READER} -k every_seed",
        ("[0, 0, 0, stream]", "[0, 0, 0, 0]"),
    ),
    *_of(
        "at4ctr/data/store.py",
        f"{READER} -k windows",
        ("cut > np.repeat(lengths, counts)", "cut >= np.repeat(lengths, counts)"),
    ),
    *_of(
        "at4ctr/data/sampling.py",
        "tests/data/test_sampling.py",
        ("(np.asarray(labels) > 0)", "(np.asarray(labels) >= 0)"),
    ),
    *_of(
        "at4ctr/data/preparation/sql.py",
        f"{PREPARE} -k oracles",
        ('ORDER BY e."timestamp", e.ord)', 'ORDER BY e."timestamp", e.ord DESC)'),
        (
            "CASE WHEN cut >= {config.min_history} THEN asked END AS split",
            "CASE WHEN cut > {config.min_history} THEN asked END AS split",
        ),
    ),
    *_of(
        "at4ctr/data/preparation/sql.py",
        f"{PREPARE} -k u31",
        ("{shift} * ({number})", "({number})"),
    ),
    *_of(
        "at4ctr/data/preparation/sql.py",
        f"{PREPARE} -k just_enough",
        ("HAVING sum(one) >= {least}", "HAVING sum(one) > {least}"),
    ),
    *_of(
        "at4ctr/data/preparation/sql.py",
        SHOWN,
        ('ORDER BY "timestamp", past\n', 'ORDER BY "timestamp", past DESC\n'),
        ("(rank() OVER", "(row_number() OVER"),
    ),
    *_of(
        "at4ctr/data/preparation/sql.py",
        f"{NEGATIVES} -k running",
        ("ORDER BY block) - n AS start", "ORDER BY block) AS start"),
    ),
    *_of(
        "at4ctr/data/preparation/build.py",
        f"{NEGATIVES} -k larger_one",
        ("math.floor(config.user_rate * PRIME)", "PRIME // 2"),
        ("logged - behaviours", "behaviours"),
    ),
    *_of(
        "at4ctr/data/preparation/build.py",
        "tests/data/preparation/test_bad_input.py -k one_class",
        ("positives in (0, known)", "positives == 0"),
    ),
    *_of(
        "at4ctr/data/preparation/build.py",
        f"{PREPARE} -k size_of_parts",
        ("1 + config.negatives", "config.negatives"),
    ),
    *_of(
        "at4ctr/data/preparation/negatives.py",
        f"{PREPARE} -k oracles",
        ('AND item = own"\n        if', 'AND item <> own"\n        if'),
        ("{base} + o.start + b.rank", "o.start + b.rank"),
    ),
    *_of(
        "at4ctr/data/preparation/negatives.py",
        f"{NEGATIVES} -k 'in_the_history and strict and popularity'",
        ("m.pos >= d.cut", "m.pos < d.cut"),
        ("m.pos < b.cut AS again", "m.pos <= b.cut AS again"),
    ),
    *_of(
        "at4ctr/data/preparation/negatives.py",
        f"{NEGATIVES} -k new_items",
        ("{thinned} < k.keep", "{thinned} > k.keep"),
    ),
    *_of(
        "at4ctr/data/preparation/repetition.py",
        f"{NEGATIVES} -k new_items",
        ("ROUNDS = 4", "ROUNDS = 0"),
        ("MOST = 16", "MOST = 2"),
    ),
    *_of(
        "at4ctr/data/preparation/shortcuts.py",
        f"{NEGATIVES} -k strict-own-popularity",
        ("f.pos < i.cut", "f.pos <= i.cut"),
        ("- q / 2", "- q"),
    ),
    *_of(
        "at4ctr/data/preparation/shortcuts.py",
        f"{NEGATIVES} -k standard",
        ("tied**3 - tied", "tied**2 - tied"),
    ),
    *_of(
        "at4ctr/data/preparation/shortcuts.py",
        f"{NEGATIVES} -k mended",
        ("WITHIN = 0.02", "WITHIN = 0.2"),
    ),
    *_of(
        "at4ctr/data/preparation/vocabulary.py",
        f"{PREPARE} -k vocabulary",
        ('"n DESC, raw"', '"n, raw"'),
    ),
    *_of(
        "at4ctr/data/preparation/vocabulary.py",
        f"{SHOWN} -k vocabulary_ends",
        ("{instances} WHERE split = 0", "{instances} WHERE split <= 1"),
    ),
    *_of(
        "at4ctr/data/preparation/vocabulary.py",
        f"{NIGHT_LOGS} -k vocabularies_grow",
        ("b.pos < h.cut", "b.pos <= h.cut"),
    ),
    *_of(
        "at4ctr/data/preparation/parts.py",
        f"{PREPARE} -k vocabulary",
        ("== UNKNOWN", "!= UNKNOWN"),
    ),
    *_of(
        "at4ctr/data/nights/log.py",
        f"{NIGHT} -k 'oracles or own_second or side'",
        ("< {self.window.cutoff} THEN 'train'", "<= {self.window.cutoff} THEN 'train'"),
    ),
    *_of(
        "at4ctr/data/nights/log.py",
        f"{NIGHT} -k own_second",
        ('return "earlier"', 'return "pos"'),
    ),
    *_of(
        "at4ctr/data/nights/log.py",
        f"{NIGHT} -k 'oracles or all_raw_days or tomorrow'",
        ("max(self.history, self.min_history)", "self.history - 1"),
    ),
    *_of(
        "at4ctr/data/nights/log.py",
        f"{NIGHT} -k halves",
        ("{PRIME // 2}", "{PRIME // 8}"),
    ),
    *_of(
        "at4ctr/data/nights/log.py",
        f"{NIGHT} -k 'all_raw_days or oracles'",
        (
            "range(-len(item), 0)",
            "range(0, len(item))",
            "the past ends before the window begins, so no row of it has the time of a later one",
        ),
    ),
    *_of(
        "at4ctr/data/nights/state.py",
        f"{NIGHT} -k 'all_raw_days or oracles'",
        ("[-{keep}:]", "[:{keep}]"),
    ),
    *_of(
        "at4ctr/data/nights/state.py",
        f"{NIGHT} -k state",
        ("coalesce(p.n, 0) + coalesce(d.n, 0)", "coalesce(d.n, 0)"),
    ),
    *_of(
        "at4ctr/data/nights/state.py",
        f"{NIGHT_LOGS} -k parents_is_refused",
        ('facts["keep"] < config.history', 'facts["keep"] > config.history'),
    ),
    *_of(
        "at4ctr/data/nights/increment.py",
        f"{NIGHT_LOGS} -k out_of_order",
        ("past.cutoff != window.begin", "past.cutoff > window.begin"),
        ("window.cutoff < window.end", "window.cutoff <= window.end"),
    ),
    *_of(
        "at4ctr/data/nights/increment.py",
        f"{NIGHT} -k future",
        ('"timestamp" < {window.cutoff}\'', '"timestamp" < {window.end}\''),
    ),
    *_of(
        "at4ctr/data/days.py",
        "tests/data/test_days.py",
        ("self.evaluation * self.days * DAY", "self.evaluation * DAY"),
    ),
    *_of(
        "at4ctr/gates/data.py",
        f"{DATA_GATE} -k twice",
        ("found.difference + np.log(w)", "found.difference - np.log(w)"),
        ("< abs(others))", "> abs(others))"),
    ),
    *_of(
        "at4ctr/gates/data.py",
        f"{DATA_GATE} -k do_not_count",
        (" and not past.refusal", ""),
    ),
    *_of(
        "at4ctr/gates/data.py",
        f"{DATA_GATE} -k tenth",
        ("found.usual + found.allowed)", "found.usual + 1)"),
    ),
    *_of(
        "at4ctr/gates/clock.py",
        f"{DATA_GATE} -k 'midnight or some_rows'",
        ("outside - expected > limits.outside", "outside > limits.outside + 1"),
    ),
    *_of(
        "at4ctr/gates/features.py",
        f"{DATA_GATE} -k missing_values",
        ('found.difference > 0 else "warn"', 'found.difference < 0 else "warn"'),
    ),
    *_of(
        "at4ctr/gates/history.py",
        f"tests/gates/test_history.py {DATA_GATE} -k 'weekly or weekday'",
        ("centres, key=lambda c: abs(value - c)", "centres[:1], key=lambda c: abs(value - c)"),
    ),
    *_of(
        "at4ctr/gates/counting.py",
        f"{STATISTICS} -k pandas",
        ("GROUP BY v ORDER BY n DESC", "GROUP BY v ORDER BY n"),
    ),
    *_of(
        "at4ctr/gates/model.py",
        f"{MODEL_GATE} -k few_users",
        ('"fail" if high < -loss', '"fail" if difference < -loss'),
        (
            'low, high = _between(drawn, level)\n    said = f"ΔAUC',
            'low, high = _between(drawn, 0.4)\n    said = f"ΔAUC',
        ),
    ),
    *_of(
        "at4ctr/gates/model.py",
        f"{MODEL_GATE} -k 'just_enough or little_evidence'",
        ("if found >= least", "if found > least"),
        ("elif found >= floor", "elif found > floor"),
    ),
    *_of(
        "at4ctr/gates/model.py",
        f"{MODEL_GATE} -k 'better_model or itself'",
        ('"fail" if low > rise', '"fail" if high < rise'),
    ),
    *_of(
        "at4ctr/gates/model.py",
        f"{MODEL_GATE} -k nothing_but",
        ("(~np.isfinite(z)).sum()", "0"),
    ),
    *_of(
        "at4ctr/gates/calibration.py",
        f"{MODEL_GATE} -k pcoc",
        ("ratios.p_value(whole.alone(), limit) <= level", "False"),
        ("p = ratios.p_value(whole, off)", "p = ratios.p_value(whole.alone(), off)"),
    ),
    *_of(
        "at4ctr/gates/calibration.py",
        f"{EVIDENCE} -k predicted_too",
        (" or s.new.sum() >= thought", ""),
    ),
    *_of(
        "at4ctr/gates/ratios.py",
        "tests/gates/test_ratios.py",
        ("return min(1.0, 2 * min(sides))", "return min(1.0, min(sides))"),
        ("for sign in (1.0, -1.0)]", "for sign in (1.0,)]"),
        ("- clicks / clicks.sum()", ""),
    ),
    *_of(
        "at4ctr/metrics/intervals.py",
        "tests/analysis/test_tables.py -k holm",
        ("np.arange(len(ps), 0, -1)", "np.full(len(ps), len(ps))"),
    ),
    *_of(
        "at4ctr/gates/verdict.py",
        f"{MODEL_GATE} -k better_model",
        ('        return "REJECT"', '        return "HOLD"'),
    ),
    *_of(
        "at4ctr/gates/verdict.py",
        f"{MODEL_GATE} -k 'policy or labels'",
        ('and policy == "strict"', 'and policy == "fresh"'),
        ("(FAMILIES * labels)", "FAMILIES"),
    ),
    *_of(
        "at4ctr/progress.py",
        "tests/test_progress.py",
        ("self.began = now", "self.began = self.began"),
        ("seconds < LEAST_SECONDS or", ""),
        (" or self.timed < LEAST_SHARE * remained", ""),
    ),
    *_of(
        "pipelines/night/still.py",
        "tests/pipelines/test_nightly_still.py",
        ("version not in retired", "True"),
        ("> NEAR", "> 999 * NEAR"),
    ),
    *_of(
        "at4ctr/gates/resampling.py",
        RESAMPLING,
        ("negatives -= 0.5 *", "negatives -= 1.0 *"),
        ("1 - found if self._exchanged", "found if self._exchanged"),
    ),
    *_of(
        "at4ctr/calibration/fitting.py",
        f"{FITTING} -k simplest",
        ("means[best] <= errors[k]", "means[best] <= 0"),
    ),
    *_of(
        "at4ctr/calibration/fitting.py",
        f"{FITTING} -k out_of_fold",
        ("fit(kind, z[~scored], truth[~scored], label)", "fit(kind, z, truth, label)"),
    ),
    *_of(
        "at4ctr/calibration/sampling.py",
        "tests/test_calibration.py",
        ("return math.log(w)", "return -math.log(w)"),
    ),
)
