"""The types that all packages share.

Sizes: B rows, H users (a user at one moment: profile and history), R real behaviours of all H
histories, T the longest history, F fields, D the width of an embedding space, J the width of a
behaviour, W any width of a part.

This module imports no other module of the project.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias

import tensorflow as tf

Tensor: TypeAlias = tf.Tensor
TABLE = "table_"  # prefix of an embedding table's name, by which optimizers recognise it
Activation = Literal["dice", "prelu", "relu", "leaky_relu", "sigmoid", "linear"]


class Packed(NamedTuple):
    """The behaviours of a batch of histories without padding, one history after the other."""

    values: Tensor  # [R, J] behaviours
    rows: Tensor  # [R] int32, non-decreasing: which history a behaviour belongs to
    positions: Tensor  # [R] int32: its position in that history


class Embeds(NamedTuple):
    """What a backbone needs of the embedder beyond one vector per id: ``Config.embeds``.

    first_order: one weight per id of a field's table, in a table of its own, ``<table>/linear``.
    output: a second table for the candidate's id, ``<table>/output``, as word2vec's output vectors.
    ages: how long before its row each behaviour was, from a schema with times.
    The first two are read for the sample's own fields and never for its history.
    """

    first_order: bool = False
    output: bool = False
    ages: bool = False


class Embedded(NamedTuple):
    """A batch in one embedding space: all that a backbone sees.

    ``profile``, ``history``, ``mask``, ``packed`` and ``extras`` have H rows, everything else B.
    ``owner`` names the user of each row. It is None where row b is user b's, so that H = B. In
    training it never decreases, as the rows of a request stand side by side.
    """

    fields: Tensor  # [B, F, D] one row per feature of profile, item and context
    profile: Tensor  # [H, P] user profile features, concatenated
    item: Tensor  # [B, J] candidate item features, concatenated
    context: Tensor  # [B, C] may have width 0
    history: Tensor  # [H, T, J] behaviours, oldest first, left-aligned, zero where padded
    mask: Tensor  # [H, T] True where real
    packed: Packed  # the same behaviours without padding
    extras: Mapping[str, Tensor]  # other behaviour features by name, [H, T, D]
    linear: Tensor  # [B, F] first-order weight of each field; [B, 0] where none were asked for
    output: Tensor  # [B, D] the candidate's row of the output table; [B, 0] without one
    owner: Tensor | None = None  # [B] int32
    ages: Tensor | None = None  # [R] float32, seconds; None where no backbone asks for them
    dense: bool = False  # the layout: T is static, and ``packed`` has all H · T positions, 0 padded

    @property
    def one_user(self) -> bool:
        """Whether all rows are candidates of one user: H is statically 1."""
        return self.owner is not None and self.mask.shape[0] == 1


class Part(NamedTuple):
    """One input of a head's first layer.

    width: W. scale: initial γ of the part in the head's affine input layer (``layers.mlp.Affine``).
    """

    width: int
    scale: float = 1.0


class Encoded(NamedTuple):
    """What a backbone makes of an ``Embedded``.

    A part of the static shape [1, W] belongs to the batch's one user and is the same for every row.
    """

    parts: tuple[Tensor, ...]  # [B, W] each: what a head's layers read; () for an FM
    states: Tensor  # [H, T, S] one state per behaviour
    direct: tuple[Tensor, ...] = ()  # [B, W] each: read by a logit's last linear layer alone
    wide: Tensor | float = 0.0  # [B], terms of the logit that no head weighs
    extras: Mapping[str, Tensor] = MappingProxyType({})  # what the backbone's ``gives`` names


class Outputs(NamedTuple):
    """What a head makes of every expert's ``Encoded``.

    The logit of a label that is known ``within`` another one is that of P(label | other).
    ``inputs`` is empty outside training, where nothing reads it.
    """

    logits: Mapping[str, Tensor]  # label -> [B]
    towers: Mapping[str, tuple[Tensor, ...]]  # label -> its hidden layers, first to last, [B, W]
    inputs: Mapping[str, Tensor] = MappingProxyType({})  # label -> [B, W], what its tower reads
    gates: Mapping[str, Tensor] = MappingProxyType({})  # label -> [B, E], experts' weights, sum 1
    features: Mapping[str, Tensor] = MappingProxyType({})  # label -> [B, M], of `Uncertain`


class Targets(NamedTuple):
    """The labels of a batch and their weights in the losses.

    They are those of every label, every composed one (``click_and_conversion``) and every derived
    one (``click_without_conversion``). A weight of 0 says that the label is unknown in that row,
    such as a conversion without a click. The label's value there has no meaning.
    """

    labels: Mapping[str, Tensor]  # label -> [B] float32, 0 or 1
    weights: Mapping[str, Tensor]  # label -> [B] float32, at least 0


@dataclass(frozen=True)
class View:
    """All that an auxiliary task may read. Nothing here exists in the serving model."""

    batch: Mapping[str, Tensor]  # the reader's batch
    targets: Targets
    spaces: Mapping[str, Embedded]  # space -> the batch in it
    experts: Mapping[str, Encoded]  # expert -> what its backbone makes of its space
    outputs: Outputs
    lookup: Callable[[str, Tensor], Tensor]  # (table, ids) -> rows of the first space
    space_of: Mapping[str, str]  # expert -> the space that it reads
    encode: Callable[[Embedded, str], Encoded]  # second pass of an expert, without dropout
    decode: Callable[[Mapping[str, Encoded]], Outputs]  # second pass of the head, without dropout

    @property
    def embedded(self) -> Embedded:
        """The batch in the first space."""
        return next(iter(self.spaces.values()))

    @property
    def labels(self) -> Tensor:
        """[B] float32: the first label, which is known in every row."""
        return next(iter(self.targets.labels.values()))

    @property
    def encoded(self) -> Encoded:
        """What the first expert makes of its space."""
        return next(iter(self.experts.values()))

    def expert(self, *needs: str) -> str:
        """The first expert whose ``extras`` have all these names."""
        return next(n for n, e in self.experts.items() if set(needs) <= set(e.extras))


class BackboneConfig(Protocol):
    """What a backbone's Config derives from: a frozen dataclass with defaults for every field.

    Beyond its fields it has ``build`` and the hooks here, which it overrides where need be.
    """

    embeds: ClassVar[Embeds] = Embeds()  # what it needs of the embedder
    dense: ClassVar[bool] = False  # whether it takes a batch of the dense layout in training
    activation: ClassVar[Activation] = "dice"  # of the head's hidden layers by default

    @property
    def reads_history(self) -> bool:
        """Whether the backbone reads the history. If not, no behaviour is looked up for it."""
        return True

    @property
    def least_history(self) -> int:
        """The smallest ``data.history`` that makes sense for it."""
        return 1

    @abstractmethod
    def build(self, shape: Any, seed: int) -> Backbone:
        """The backbone for inputs of these widths; shape: ``layers.shape.Shape``.

        Raises InputError for options that make no sense, alone or with the shape.
        """


class AuxiliaryConfig(Protocol):
    """What an auxiliary's Config derives from: a frozen dataclass with defaults for every field.

    ``weight`` is a field of every one; beyond its fields it has ``build`` and the hooks here.
    """

    needs: ClassVar[tuple[str, ...]] = ()  # of one expert's ``Encoded.extras``, by name
    dense: ClassVar[bool] = False  # whether it takes a batch of the dense layout

    @property
    @abstractmethod
    def weight(self) -> float:
        """λ, the weight of this auxiliary in the total loss. 0 leaves the auxiliary out."""

    @property
    def use_history(self) -> bool:
        """Whether it reads the history. Auxiliaries that can do without one have it as a field."""
        return True

    def demand_rows(self, rows: int) -> None:
        """Raises InputError if a step of ``rows`` rows on each device is too small for it."""
        del rows

    @abstractmethod
    def build(self, schema: Any, shape: Any, seed: int) -> Auxiliary:
        """schema: ``schema.Schema``. shape: ``layers.shape.Shape``. Raises InputError
        for options that make no sense."""


class PerturbationConfig(Protocol):
    """What a perturbation's Config derives from: a frozen dataclass with defaults."""

    @abstractmethod
    def build(self, schema: Any, seed: int) -> Perturbation:
        """schema: ``schema.Schema``. Raises InputError for options that make no sense."""


class Perturbation(Protocol):
    """What changes a training batch before it is embedded. Nothing of it is served."""

    def __call__(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The changed batch, with the same names and shapes."""
        ...


class HeadConfig(Protocol):
    """What a head's Config derives from: a frozen dataclass with defaults for every field.

    searches: whether the head is `Searched`, which needs validation rows in training.
    """

    searches: ClassVar[bool] = False

    @abstractmethod
    def build(self, experts: Mapping[str, Interface], labels: tuple[str, ...], seed: int) -> Head:
        """experts: what each expert gives. labels: one tower each. Raises InputError
        for options that make no sense."""


class Numbers(NamedTuple):
    """Statistics of a column of numbers over the training rows that have a value.

    quantiles: at equal steps from the smallest value to the largest; () where none is known.
    whole: whether every value is a whole number. largest: the 99.9 % quantile of |x|.
    """

    quantiles: tuple[float, ...] = ()
    whole: bool = True
    largest: float = 0.0


class EncodingConfig(Protocol):
    """What an encoding's Config derives from: a frozen dataclass with defaults for every field."""

    @abstractmethod
    def build(self, numbers: Numbers, dimension: int, seed: int) -> Encoding:
        """numbers: of the training rows alone, so that nothing is learned of later ones."""


class Encoding(Protocol):
    """Maps a number to a vector. It is part of the embedder, and so of the exported graph."""

    def __call__(self, values: Tensor) -> Tensor:
        """[B] float32, NaN where missing -> [B, D], finite for every input."""
        ...


class Interface(NamedTuple):
    """What a head knows of an expert when it is built.

    parts, direct: of ``Encoded``, in its order. activation: of hidden layers on it. seed: of layers
    that read this expert alone. space: the embedding space that it reads. dimension: D of that
    space.
    """

    parts: tuple[Part, ...]
    direct: tuple[Part, ...]
    activation: Activation
    seed: int
    space: str = ""
    dimension: int = 0


class Backbone(Protocol):
    """Encodes a batch as parts, which a head reads.

    It takes any H: rows that each have their own user, rows of one request that share it, and the
    candidates of one user. `layers.pairs` and ``layers.shape.part`` bring users' values to rows.

    Three more attributes are read where a backbone has them: ``direct``, the widths of
    ``Encoded.direct``; ``gives``, the names of what it puts in ``Encoded.extras`` (an auxiliary
    whose Config ``needs`` others is refused beside it); and ``states``, the width S where it is not
    the behaviours' own.
    """

    name: str
    parts: tuple[Part, ...]  # of Encoded.parts

    def __call__(self, x: Embedded, *, training: bool) -> Encoded: ...


class Tower(NamedTuple):
    """The widths of a label's tower: of what it reads, and of its hidden layers."""

    input: int
    layers: tuple[int, ...]


class Head(Protocol):
    """Maps the parts of all experts to one logit per label.

    tower_widths: label -> widths of ``Outputs.inputs`` and ``Outputs.towers``. A head that fills
    ``Outputs.gates`` has ``expert_names`` too: label -> the names of its experts, in their order.
    """

    tower_widths: Mapping[str, Tower]

    def __call__(
        self, x: Mapping[str, Encoded], *, training: bool, labels: tuple[str, ...]
    ) -> Outputs:
        """labels: those that get a logit. Of other labels only what these depend on is computed."""
        ...

    def bias(self, label: str) -> tf.Variable:
        """The constant of a label's logit: adding c to it adds c to every logit of that label."""
        ...


class Searched(Protocol):
    """A head with structure weights, which learn on validation rows between training steps.

    After every ``every``-th training step `at4ctr.fit` takes one step of Adam at the rate ``rate``
    on ``searched``, by the labels' losses on a batch of the validation split. The variables are not
    trainable, so that the training optimizer leaves them alone. With () there is no search.
    """

    every: int
    rate: float

    @property
    def searched(self) -> tuple[tf.Variable, ...]: ...


class Uncertain(Protocol):
    """A head that knows how uncertain its logits are, as one of Gaussian processes.

    It fills ``Outputs.features`` of each label. `at4ctr.posterior` gives each of ``processes``
    (label -> ``layers.gaussian.GaussianProcess``) its posterior at the end of training, by
    ``newton`` steps of Newton's method.
    """

    processes: Mapping[str, Any]
    newton: int

    def deviation(self, label: str, features: Tensor) -> Tensor:
        """The standard deviation [B] of a label's logit."""
        ...


class Monitored(NamedTuple):
    """A loss, and scalars beside it for the training curves.

    The scalar ``usage`` of the auxiliary ``aqcl`` is the curve ``aqcl_usage``. None has a weight in
    the total loss.
    """

    loss: Tensor
    monitors: Mapping[str, Tensor]


class Auxiliary(Protocol):
    """A task that only adds a loss in training."""

    def loss(self, view: View) -> Tensor | Monitored:
        """A scalar, unweighted, finite on every legal batch."""
        ...
