"""The types that every room shares. B batch, F fields, T history, D embedding, J behaviour width.

Imports nothing of ours.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

import tensorflow as tf

Tensor: TypeAlias = tf.Tensor


class Packed(NamedTuple):
    """The real positions of a batch of histories, row after row; padding costs nothing here.

    R is the number of real positions in the batch.
    """

    values: Tensor  # [R, J] behaviours
    rows: Tensor  # [R] int32, non-decreasing: which sample a behaviour belongs to
    positions: Tensor  # [R] int32: its position in that sample's history


class Embeds(NamedTuple):
    """What a backbone asks of the embedder beyond one vector per id: ``Config.embeds``.

    first_order: one weight per id of a field's table, in a table of its own, ``<table>/linear``.
    output: a second table for the candidate's id, ``<table>/output``, as word2vec's output vectors.
    Both are read for the sample's own fields and never for its history.
    """

    first_order: bool = False
    output: bool = False


class Embedded(NamedTuple):
    """All that a backbone sees.

    shared: one user for all B candidates. Then profile, history, mask, packed and extras have one
    row, which stands for every candidate, and all else has B. Only a backbone that says ``shares``
    is given such a one, and only in serving.
    """

    fields: Tensor  # [B, F, D] one row per feature of profile, item and context
    profile: Tensor  # [B, P] user profile features, concatenated
    item: Tensor  # [B, J] candidate item features, concatenated
    context: Tensor  # [B, C] may have width 0
    history: Tensor  # [B, T, J] behaviours, oldest first, left-aligned, zero where padded
    mask: Tensor  # [B, T] True where real
    packed: Packed  # the same behaviours without padding
    extras: Mapping[str, Tensor]  # other behaviour features by name, [B, T, D]
    linear: Tensor  # [B, F] first-order weight of each field; [B, 0] where none were asked for
    output: Tensor  # [B, D] the candidate's row of the output table; [B, 0] likewise
    shared: bool = False


class Encoded(NamedTuple):
    """What a backbone makes of it; never None. Of a shared user, user and states have one row."""

    hidden: Tensor  # [B, H] all that the head sees
    user: Tensor  # [B, U] target-independent user vector
    states: Tensor  # [B, T, S] one state per behaviour
    wide: Tensor | float = 0.0  # [B], terms of the logit that no head weighs
    extras: Mapping[str, Tensor] = MappingProxyType({})  # what the backbone's ``gives`` names


class Outputs(NamedTuple):
    """What a head makes of it."""

    logits: Mapping[str, Tensor]  # task -> [B]
    towers: Mapping[str, Tensor]  # task -> [B, W], the tower's last hidden layer


@dataclass(frozen=True)
class View:
    """All that an auxiliary task may read. Nothing here exists in the serving model."""

    batch: Mapping[str, Tensor]  # the reader's batch
    labels: Mapping[str, Tensor]  # task -> [B] float32
    embedded: Embedded
    encoded: Encoded
    outputs: Outputs
    lookup: Callable[[str, Tensor], Tensor]  # (table, ids) -> rows of a shared table
    encode: Callable[[Embedded], Encoded]  # a second pass, without dropout


class BackboneConfig(Protocol):
    """What a backbone's Config derives from: a frozen dataclass with defaults for every field.

    Beyond its fields it has ``build`` and the hooks here, which it overrides where need be.
    """

    embeds: ClassVar[Embeds] = Embeds()  # what it asks of the embedder

    @property
    def reads_history(self) -> bool:
        """Whether the backbone does; otherwise no behaviour is looked up for it."""
        return True

    @property
    def least_history(self) -> int:
        """The smallest ``data.history`` that makes sense for it."""
        return 1

    @abstractmethod
    def build(self, shape: Any, seed: int) -> Backbone:
        """shape: ``layers.shape.Shape``. InputError for what makes no sense."""


class AuxiliaryConfig(Protocol):
    """What an auxiliary's Config derives from: a frozen dataclass with defaults for every field.

    ``weight`` is a field of every one; beyond its fields it has ``build`` and the hooks here.
    """

    needs: ClassVar[tuple[str, ...]] = ()  # of ``Encoded.extras``, by name

    @property
    @abstractmethod
    def weight(self) -> float:
        """λ: of the task in the total loss; 0 leaves it out."""

    @property
    def use_history(self) -> bool:
        """Whether the task reads the history; a field of tasks that can do without."""
        return True

    @abstractmethod
    def build(self, schema: Any, shape: Any, seed: int) -> Auxiliary:
        """schema: ``schema.Schema``. shape: ``layers.shape.Shape``. InputError as above."""


class Backbone(Protocol):
    """What reaches a logit. Three class or instance attributes are read where a backbone has them:

    ``gives``, the names of what it puts in ``Encoded.extras`` (an auxiliary whose Config ``needs``
    others is refused beside it), ``states``, the width S where it is not the behaviours' own, and
    ``shares``, whether it takes ``Embedded.shared``: of any other the user is repeated.
    """

    name: str
    width: int  # of Encoded.hidden

    def __call__(self, x: Embedded, *, training: bool) -> Encoded: ...


class Head(Protocol):
    """From the backbone's hidden layer to one logit per task."""

    def __call__(self, x: Encoded, *, training: bool) -> Outputs: ...


class Auxiliary(Protocol):
    """What only makes a loss."""

    def loss(self, view: View) -> Tensor:
        """A scalar, unweighted, finite on every legal batch."""
        ...
