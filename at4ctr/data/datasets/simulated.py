"""A simulated impression log with the true probability of every click. Every output says that it is
simulated.

`simulate.write_impressions` makes it from a `World`: behaviours in the order in which they
happened, and impressions, each between two behaviours, with a click drawn with a known probability.
A store made of it has the true probabilities, so calibration can be measured against them, and a
report can print the best reachable AUC (that of the true probabilities) beside a model's.

The impressions of the last day are test, those of the day before validation, the rest training
(`cutting="random"`: a tenth of the impressions each, by a keyed hash, so that every split has the
same click rate, which rises from day to day here); days begin at the first second of the window,
midnight in UTC+8. The history of an impression is
all behaviours before it, clicked or not: clicks of impressions do not feed back into behaviours.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from at4ctr.data.dataset import Options, Source
from at4ctr.data.sampling import PRIME, uniform31_sql
from at4ctr.data.simulation import world as worlds
from at4ctr.data.simulation import write as simulate
from at4ctr.data.simulation.world import DAY, START, World
from at4ctr.errors import InputError
from at4ctr.schema import Feature, Schema, Table

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine

FILES = ("behaviours.parquet", "impressions.parquet")


@dataclass(frozen=True)
class Config(Options):
    """The simulated impression log.

    raw: folder that keeps simulated logs, one subfolder a world; simulated when not there.
    users, items, categories, rows, days, click_rate: of the `World`; `rows` behaviours expected.
    reshown, fatigue: of the `World`: the share of impressions that repeat an item, and how much
        each earlier impression of it lowers the log odds. With `reshown` the context has
        ``exposures``, how many earlier impressions the user has of the item, at most five.
    impressions: how many.
    cutting: what test and validation are, the last two days or random tenths.
    world_seed: of the world; ``seed`` is the preparation's.
    """

    users: int = 30_000
    items: int = 42_000
    categories: int = 10_000
    rows: int = 1_000_000
    days: int = 9
    click_rate: float = 0.07
    reshown: float = 0.0
    fatigue: float = 0.0
    impressions: int = 2_000_000
    cutting: Literal["days", "random"] = "days"
    world_seed: int = 1

    UTC_OFFSET_HOURS: ClassVar[float] = 8.0
    DAILY: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.world()
        where = f"data options of {self.name}"
        if self.impressions < 1:
            raise InputError(
                f"{where}: impressions is {self.impressions}; expected at least 1; "
                "set data.impressions=2000000"
            )
        if self.days < 3:
            raise InputError(
                f"{where}: days is {self.days}; expected at least 3, one for each of training, "
                "validation and test; set data.days=9"
            )

    def world(self) -> World:
        """The world of which the log is made."""
        return World(
            users=self.users,
            items=self.items,
            categories=self.categories,
            rows=self.rows,
            days=self.days,
            click_rate=self.click_rate,
            reshown=self.reshown,
            fatigue=self.fatigue,
            seed=self.world_seed,
        )

    def schema(self) -> Schema:
        met = bool(self.reshown)
        schema = Schema(
            times=self.times,
            weighted=bool(self.repeat_weight),
            tables=(
                Table("user"),
                Table("item"),
                Table("category"),
                Table("type", "string"),
                Table("position"),
                *([Table("exposures")] if met else []),
            ),
            features=(
                Feature("user", "profile", "user"),
                Feature("item", "item", "item"),
                Feature("category", "item", "category"),
                Feature("position", "context", "position"),
                *([Feature("exposures", "context", "exposures")] if met else []),
                Feature("type", "behaviour", "type"),
            ),
            history=("item", "category"),
        )
        return self.with_options(schema)

    def acquire(self) -> Source:
        folder = Path(self.raw or f"data/raw/{self.name}") / self._fingerprint()
        files = tuple(folder / name for name in FILES)
        if not all(file.is_file() for file in files):
            simulate.write_impressions(self.world(), folder, impressions=self.impressions)
        note = (
            f"simulated log: {self.impressions:,} impressions of {self.users:,} users with known "
            "click probabilities; no figure made of it says anything about a real log"
        )
        return Source(files, simulated=True, notes=(note,))

    def load(self, engine: Engine, source: Source) -> None:
        behaviours, impressions = source.files
        engine.read_parquet("raw", behaviours)
        columns = '"user", item, category, "timestamp", ord'
        engine.run("log", f"CREATE TABLE log AS SELECT {columns}, type FROM raw")
        engine.drop("raw")
        engine.read_parquet("raw", impressions)
        engine.run(
            "impressions",
            f"""CREATE TABLE impressions AS
            SELECT {columns}, position::BIGINT AS position, click AS label_click,
            probability AS truth_click, least(exposures, {simulate.TIRED}) AS exposures,
            1::DOUBLE AS weight FROM raw""",
        )
        engine.drop("raw")

    def split(self) -> str:
        if self.cutting == "random":
            draw = uniform31_sql(["user_key", '"timestamp"'], f"{self.seed}/impressions")
            tenth = PRIME // 10
            return (
                f"CASE WHEN {draw} < {tenth} THEN 'test' "
                f"WHEN {draw} < {2 * tenth} THEN 'validation' ELSE 'train' END"
            )
        test = START + (self.days - 1) * DAY
        return (
            f"CASE WHEN \"timestamp\" >= {test} THEN 'test' "
            f"WHEN \"timestamp\" >= {test - DAY} THEN 'validation' ELSE 'train' END"
        )

    def _fingerprint(self) -> str:
        """Changes with the world, its size and the simulator: no old log is taken for new."""
        digest = hashlib.sha256(f"{self.world()} {self.impressions}".encode())
        for module in (simulate, worlds):
            digest.update(Path(str(module.__file__)).read_bytes())
        return digest.hexdigest()[:12]
