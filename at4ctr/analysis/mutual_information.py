"""Mutual information of the response to a candidate and a past behaviour, by category and by the
behaviour's position or age.

Pan et al., "Ad Recommendation in a Collapsed and Entangled World", §7.1 and Fig. 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from sklearn.metrics import mutual_info_score

from at4ctr.data.reader import Reader
from at4ctr.errors import InputError
from at4ctr.model.serving import ServingModel
from at4ctr.schema import AGES, FIRST_ID, Schema, history_name

POSITIONS = 30
CATEGORIES = 10  # the paper's A to J
BOUNDS = tuple(3600 * 2**k for k in range(14))  # seconds, from an hour to some eleven months

Array = npt.NDArray[Any]


class Sample(NamedTuple):
    """N rows where the label is known, and their latest P behaviours, the last one first.

    targets [N]: the candidate's category. labels [N]: 0 or 1. categories [N, P]: of behaviours,
    0 where there is none. ages [N, P]: seconds, -1 where there is none; None of a store without
    times.
    """

    targets: Array
    labels: Array
    categories: Array
    ages: Array | None

    def of(self, rows: Array) -> Sample:
        ages = None if self.ages is None else self.ages[rows]
        return Sample(self.targets[rows], self.labels[rows], self.categories[rows], ages)

    @property
    def buckets(self) -> Array:
        """[N, P]: how many of ``BOUNDS`` each age reaches, -1 where there is none."""
        if self.ages is None:
            return np.full(self.categories.shape, -1)
        return np.where(self.ages < 0, -1, np.searchsorted(BOUNDS, self.ages, side="right"))


class Correlation(NamedTuple):
    """Values by category of behaviours (row) and position or interval (column).

    intervals: None of a store without times; [C, len(BOUNDS) + 1] otherwise.
    """

    positions: Array
    intervals: Array | None


def category_of(schema: Schema) -> str:
    """The feature that tells a behaviour's category: the history's first item feature of one value
    that is not the item's id, or the id where there is no other. InputError where there is none."""
    known = [f.name for f in schema.behaviour if f.group == "item" and f.length is None]
    if not known:
        raise InputError(
            f"the history names {', '.join(schema.history) or 'no feature'}; expected an item "
            "feature of one value, by which a behaviour has the category of a candidate; declare "
            "one in Schema.history"
        )
    others = [name for name in known if name != schema.item_id.name]
    return (others or known)[0]


def sample(
    reader: Reader, label: str, rows: int, feature: str, positions: int = POSITIONS
) -> Sample:
    """The first so many rows of a reader on which the label is known."""
    parts = [_sample(batch, label, feature, positions) for batch in batches(reader, label, rows)]
    ages = [part.ages for part in parts if part.ages is not None]
    return Sample(
        np.concatenate([part.targets for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.categories for part in parts]),
        np.concatenate(ages) if ages else None,
    )


def batches(reader: Reader, label: str, rows: int) -> Iterator[dict[str, Array]]:
    """The first so many rows of epoch 0 on which a label is known, in batches of the reader."""
    for step in range(reader.steps(0)):
        if rows <= 0:
            return
        batch = reader.batch(0, step)
        known = np.flatnonzero(batch[reader.schema.label(label).column] >= 0)[:rows]
        rows -= len(known)
        yield {name: column[known] for name, column in batch.items()}


def target_of(found: Sample) -> int:
    """The category of candidates with the most rows in its rarer class."""
    names, code = np.unique(found.targets, return_inverse=True)
    positives = np.bincount(code, found.labels, len(names))
    rarer = np.minimum(positives, np.bincount(code, minlength=len(names)) - positives)
    rarer[names < FIRST_ID] = 0
    if not rarer.any():
        raise InputError(
            f"no category of candidates has both classes among {len(found.targets):,} rows; "
            "expected one; read more rows with ARGS=--rows=…"
        )
    return int(names[rarer.argmax()])


def categories_of(found: Sample, target: int, most: int = CATEGORIES) -> tuple[int, ...]:
    """The target's category, then the most frequent others among the behaviours of its rows."""
    behaviours = found.categories[found.targets == target]
    names, counts = np.unique(behaviours[behaviours >= FIRST_ID], return_counts=True)
    order = names[np.argsort(-counts, kind="stable")]
    return (target, *(int(name) for name in order[order != target][: most - 1]))


def correlation(found: Sample, target: int, categories: Sequence[int]) -> Correlation:
    """Cor = MI(X, Y) in nats (Eq. 7), of the rows whose candidate has the category ``target``.

    Y is the response. X says whether the behaviour at a position has the category, or whether any
    behaviour of the category has an age in the interval. Each value is computed by scikit-learn
    from the table of the four counts. On n rows of independent X and Y its mean is about 1/(2n).
    """
    own = found.of(np.flatnonzero(found.targets == target))
    of_category = [own.categories == category for category in categories]
    return Correlation(*_tables(own, of_category))


def same_category(found: Sample) -> Correlation:
    """The same of all rows, X of behaviours that have the category of their row's candidate: one
    row of values."""
    alike = (found.categories == found.targets[:, None]) & (found.categories >= FIRST_ID)
    return Correlation(*_tables(found, [alike]))


def learned(
    model: ServingModel,
    expert: str,
    reader: Reader,
    label: str,
    rows: int,
    feature: str,
    target: int,
    categories: Sequence[int],
    positions: int = POSITIONS,
) -> Correlation:
    """The mean ‖α_i (ẽ_i ⊙ ṽ)‖₂ that a `tin` expert gives to behaviours of each category.

    It is the length of the behaviour's term in Eq. 1. Pan et al. name a learned correlation and
    refer to Zhou et al., "Temporal Interest Network for User Response Prediction", for it. Rows and
    candidates are those of `correlation`; NaN where there is no behaviour.
    """
    backbone: Any = model.backbones[expert]
    embed = model.spaces[model.space_of[expert]]
    column = len(BOUNDS) + 1
    sums = [np.zeros((len(categories), n)) for n in (positions, column)]
    counts = [np.zeros_like(s) for s in sums]
    for batch in batches(reader, label, rows):
        chosen = batch[feature] == target
        if not chosen.any():
            continue
        own = {name: values[chosen] for name, values in batch.items()}
        x = embed({name: tf.constant(values) for name, values in own.items()})
        found = _sample(own, label, feature, positions)
        at = own["history_length"][x.packed.rows.numpy()] - 1 - x.packed.positions.numpy()
        near = at < positions
        value = np.zeros(found.categories.shape)
        value[x.packed.rows.numpy()[near], at[near]] = backbone.correlation(x).numpy()[near]
        for i, category in enumerate(categories):
            alike = found.categories == category
            for total, count, place in zip(
                sums, counts, (np.arange(positions)[None], found.buckets), strict=True
            ):
                places = np.broadcast_to(place, alike.shape)
                inside = alike & (places >= 0)
                size = total.shape[1]
                total[i] += np.bincount(places[inside], value[inside], size)
                count[i] += np.bincount(places[inside], minlength=size)
    means = [
        np.divide(s, n, out=np.full_like(s, np.nan), where=n > 0)
        for s, n in zip(sums, counts, strict=True)
    ]
    return Correlation(means[0], means[1] if counts[1].any() else None)


def _sample(batch: dict[str, Array], label: str, feature: str, positions: int) -> Sample:
    places = batch["history_length"][:, None] - 1 - np.arange(positions)
    real, places = places >= 0, np.maximum(places, 0)
    past = np.take_along_axis(batch[history_name(feature)], places, 1)
    ages = None
    if AGES in batch:
        ages = np.where(real, np.take_along_axis(batch[AGES], places, 1), -1)
    labels = batch[f"label_{label}"].astype(int)
    return Sample(batch[feature], labels, np.where(real, past, 0), ages)


def _tables(found: Sample, chosen: Sequence[Array]) -> tuple[Array, Array | None]:
    """chosen: of each row of values, which behaviours [N, P] count."""
    positions = np.array([[_information(x, found.labels) for x in of.T] for of in chosen])
    if found.ages is None:
        return positions, None
    buckets = found.buckets
    intervals = [
        [_information((of & (buckets == k)).any(1), found.labels) for k in range(len(BOUNDS) + 1)]
        for of in chosen
    ]
    return positions, np.array(intervals)


def _information(x: Array, labels: Array) -> float:
    """MI of x [N] and labels [N], 0 or 1 each, in nats."""
    counts = np.bincount(2 * x.astype(int) + labels, minlength=4).reshape(2, 2)
    return max(float(mutual_info_score(None, None, contingency=counts)), 0.0)
