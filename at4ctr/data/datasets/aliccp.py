"""Ali-CCP (Tianchi 408): impressions of Taobao with clicks and conversions, or a simulated log.

X. Ma, L. Zhao, G. Huang, Z. Wang, Z. Hu, X. Zhu, K. Gai, "Entire space multi-task model", SIGIR
2018. The official log has 42.3 million training rows and 43.0 million test rows. 3.9 % of them are
clicked, and 0.54 % of the clicks are converted.

``sample_skeleton_{train,test}.csv`` has one impression a line: sample id, click, conversion, index
of common features, number of features, features. ``common_features_{train,test}.csv`` has one user
at one moment a line: index, number of features, features. Features are separated by \\x01; each is
a field, \\x02, an id, \\x03 and a value. `FIELDS` names the fields.

What to know of the log:

- It has no times. A row's timestamp is its number in its file, plus 2^40 in the test file. The
  official split is that of the files, which are two halves in time. Validation is a share of the
  training file's users at one moment, by a keyed hash of their index.
- A row of common features is one user at one moment, so it is the user of an instance here:
  ``common_index``, which a model never sees. The user's id, field 101, is a feature like others; it
  is missing in some rows.
- Fields 109_14, 110_14, 127_14 and 150_14, what the user did in the past, and 210, the item's
  intention nodes, have several values with weights. The heaviest are kept, at most `longest` of the
  former and `INTENTIONS` of the latter. Of every other field the first value of a row is kept and
  its weight is not read, although 853 may have several values.
- An item's attributes are those of the item's first impression.
- Some conversions have no click: 230 of 9,032 in the official training file. Public loaders skip
  these rows, and so does this one (`unclicked`).
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from at4ctr.data.dataset import Options, Source
from at4ctr.data.datasets._acquire import present
from at4ctr.data.datasets._funnel import LABELS
from at4ctr.data.engines.base import name
from at4ctr.data.engines.csv_file import line_at
from at4ctr.data.preparation.columns import truth as truth_name
from at4ctr.data.sampling import PRIME, uniform31_sql
from at4ctr.data.simulation import aliccp as simulation
from at4ctr.data.simulation import world as worlds
from at4ctr.data.simulation.aliccp import COMMON, FEATURE, FILES, ID, SKELETON, TRUTH, VALUE, Log
from at4ctr.errors import InputError
from at4ctr.schema import Feature, Group, Schema, Table, weights_name

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine

RAW = Path("data/raw/aliccp")
SIMULATED = Path("data/raw/simulated")
CITATION = "Ali-CCP: X. Ma et al., Entire space multi-task model, SIGIR 2018; Tianchi, data set 408"
HOW = "download the official log from Tianchi (data set 408) with your account, unpack its archives"

KEY = "common_index"
FIELDS: dict[Group, dict[str, str]] = {
    "profile": {
        "user": "101",
        "past_categories": "109_14",
        "past_shops": "110_14",
        "past_brands": "127_14",
        "past_intentions": "150_14",
        "profile_id": "121",
        "profile_group": "122",
        "gender": "124",
        "age": "125",
        "consumption_1": "126",
        "consumption_2": "127",
        "employed": "128",
        "geography": "129",
    },
    "item": {"item": "205", "category": "206", "shop": "207", "intentions": "210", "brand": "216"},
    "context": {
        "category_match": "508",  # of the item's category and the user's past categories
        "shop_match": "509",
        "brand_match": "702",
        "intention_match": "853",
        "position": "301",
    },
}
SEVERAL = ("109_14", "110_14", "127_14", "150_14", "210")
INTENTIONS = 10  # of an item, at most
OFFICIAL = tuple(name.format(file) for file in FILES for name in (SKELETON, COMMON))
TEST = 2**40  # the timestamp of the test file's first row; that of the training file's is 0

SKELETON_COLUMNS = {"sample_id": "BIGINT", "click": "BIGINT", "conversion": "BIGINT",
                    KEY: "STRING", "number": "BIGINT", "features": "STRING"}  # fmt: skip
COMMON_COLUMNS = {KEY: "STRING", "number": "BIGINT", "features": "STRING"}
ONE = f"[0-9_]+{ID}[0-9]{{1,18}}{VALUE}[0-9]+([.][0-9]+)?([eE][+-]?[0-9]+)?"


@dataclass(frozen=True)
class Config(Options):
    """Ali-CCP.

    raw: the folder of the four official files, each as ``.csv`` or ``.csv.gz``.
    validation_share: of the training file's users at one moment, in [0, 1).
    longest: how many values each feature of the user's past has at most.
    unclicked: rows with a conversion and no click are left out where they are at most this share of
        a file's conversions, and refused where they are more; 0 refuses any.
    users, items, impressions, click_rate, conversion_rate, clickbait, log_seed: of the log that is
        simulated where there is no real one (`simulation.aliccp.Log`). With the defaults its test
        file has some 750 conversions.
    """

    min_behaviours: int = 0
    min_history: int = 0
    validation_share: float = 0.1
    longest: int = 50
    unclicked: float = 0.1
    users: int = 20_000
    items: int = 20_000
    impressions: int = 2_000_000
    click_rate: float = 0.04
    conversion_rate: float = 0.02
    clickbait: float = 0.05
    log_seed: int = 1

    READING: ClassVar[tuple[str, ...]] = (
        *Options.READING, "users", "items", "impressions", "click_rate", "conversion_rate",
        "clickbait", "log_seed",
    )  # fmt: skip
    FEWEST: ClassVar[int] = 0
    RECIPE: ClassVar[str] = "deepfm"  # the log has no history

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"data options of {self.name}"
        if not 0 <= self.validation_share < 1:
            raise InputError(
                f"{where}: validation_share is {self.validation_share}; expected 0 <= "
                "validation_share < 1, which leaves rows to train on; set data.validation_share=0.1"
            )
        if not 0 <= self.unclicked <= 1:
            raise InputError(
                f"{where}: unclicked is {self.unclicked}; expected a share from 0 to 1; set "
                "data.unclicked=0.1"
            )
        if self.longest < 1:
            raise InputError(
                f"{where}: longest is {self.longest}; expected at least 1; set data.longest=50"
            )
        self._log()

    @property
    def timed(self) -> bool:
        return False

    def _log(self) -> Log:
        return Log(
            users=self.users,
            items=self.items,
            impressions=self.impressions,
            click_rate=self.click_rate,
            conversion_rate=self.conversion_rate,
            clickbait=self.clickbait,
            seed=self.log_seed,
        )

    def schema(self) -> Schema:
        features = [Feature(KEY, "profile", KEY, serve=False)]
        for group, fields in FIELDS.items():
            for feature, field in fields.items():
                length = self._length(field)
                weighted = length is not None
                features.append(Feature(feature, group, feature, length, weighted=weighted))
        schema = Schema(
            tables=(
                Table(KEY, "string", buckets=1),  # one row for an id that a model never sees
                *(Table(f.name) for f in features[1:]),
            ),
            features=tuple(features),
            labels=LABELS,
        )
        return self.with_least(schema)

    def _length(self, field: str) -> int | None:
        if field not in SEVERAL:
            return None
        return self.longest if field in FIELDS["profile"].values() else INTENTIONS

    def acquire(self) -> Source:
        """The official log, or a simulated one if there is none and `raw` names none.

        A log with files of truth is a simulated one. Raises InputError for a file that is missing.
        """
        folder = Path(self.raw or RAW)
        if not self.raw and not any(_spellings(folder, official) for official in OFFICIAL):
            folder = self._simulate()
        files = present(folder, [_spelling(folder, official) for official in OFFICIAL], HOW)
        truth = tuple(folder / TRUTH.format(file) for file in FILES)
        if all(path.is_file() for path in truth):
            note = (
                "simulated log in the format of Ali-CCP, with known probabilities of clicks and "
                "conversions; no figure made of it says anything about a real log"
            )
            return Source((*files, *truth), simulated=True, notes=(note,))
        return Source(files, notes=(CITATION,))

    def _simulate(self) -> Path:
        """The folder of the simulated log, written unless it is there."""
        log = self._log()
        digest = hashlib.sha256(repr(log).encode())
        for module in (simulation, worlds):  # another simulator makes another log
            digest.update(Path(str(module.__file__)).read_bytes())
        folder = SIMULATED / f"aliccp-{digest.hexdigest()[:12]}"
        names = (*OFFICIAL, *(TRUTH.format(file) for file in FILES))
        if not all((folder / name).is_file() for name in names):
            print(
                f"prepare: no {RAW / SKELETON.format('train')}, so a log of about "
                f"{log.impressions:,} impressions is simulated; everything made from it is "
                "labelled simulated",
                file=sys.stderr,
            )
            simulation.write(log, folder)
        return folder

    def load(self, engine: Engine, source: Source) -> None:
        """Makes ``log``, which is empty, and ``impressions``.

        The features of a user at one moment stand in the user's first impression and are NULL in
        the later ones, which know them from it. A simulated log has ``truth_click`` and
        ``truth_conversion`` too.
        """
        official, truths = source.files[: len(OFFICIAL)], source.files[len(OFFICIAL) :]
        rows = 0
        for number, file in enumerate(FILES):
            skeleton, common = official[2 * number : 2 * number + 2]
            found = engine.read_csv("skeleton", skeleton, SKELETON_COLUMNS)
            self._demand_labels(engine, skeleton)
            _demand_features(engine, skeleton, "skeleton")
            engine.read_csv("common", common, COMMON_COLUMNS)
            _demand_features(engine, common, "common")
            _demand_common(engine, skeleton, common)
            if truths:
                engine.read_parquet("truth", truths[number])
            engine.run(f"users of {file}", self._users(engine))
            query = self._impressions(engine, file, rows, truth=bool(truths))
            there = engine.columns("impressions")
            into = "INSERT INTO impressions" if there else "CREATE TABLE impressions AS"
            engine.run(f"impressions of {file}", f"{into} {query}")
            engine.drop("skeleton")
            engine.drop("common")
            if truths:
                engine.drop("truth")
            engine.execute("DROP TABLE shown_users")
            rows += found
        if truths:
            _demand_truth(engine)
        gone = [name(label.column) for label in LABELS]
        gone += [name(truth_name(label.name)) for label in LABELS] if truths else []
        engine.execute(
            f"CREATE TABLE log AS SELECT * EXCLUDE ({', '.join(gone)}) FROM impressions LIMIT 0"
        )

    def _users(self, engine: Engine) -> str:
        """``shown_users``: the features of every row of common features by its first impression."""
        terms = ", ".join(self._terms(engine, "profile"))
        return f"""CREATE TABLE shown_users AS SELECT f.first, {terms} FROM (
                SELECT {KEY}, concat('{FEATURE}', features) AS text FROM common
                WHERE ord IN (SELECT min(ord) FROM common GROUP BY {KEY})) c
            JOIN (SELECT {KEY}, min(ord) AS first FROM skeleton WHERE {KEPT} GROUP BY {KEY}) f
            ON f.{KEY} = c.{KEY}"""

    def _impressions(self, engine: Engine, file: str, start: int, *, truth: bool) -> str:
        terms = ", ".join([*self._terms(engine, "item"), *self._terms(engine, "context")])
        known = ", t.truth_click, t.truth_conversion" if truth else ""
        join = " LEFT JOIN truth t ON t.sample_id = s.sample_id" if truth else ""
        return f"""SELECT concat(s.{KEY}, '/{file}') AS {KEY}, u.* EXCLUDE (first), {terms},
                (s.ord + {TEST if file == "test" else 0})::BIGINT AS "timestamp",
                (s.ord + {start})::BIGINT AS ord, s.click::TINYINT AS label_click,
                (CASE WHEN s.click = 1 THEN s.conversion END)::TINYINT AS label_conversion{known}
            FROM (SELECT *, concat('{FEATURE}', features) AS text FROM skeleton WHERE {KEPT}) s
            LEFT JOIN shown_users u ON u.first = s.ord{join}"""

    def _terms(self, engine: Engine, group: Group) -> list[str]:
        """SQL of the features of a group from ``text``, features that each begin with \\x01."""
        terms = []
        for feature, field in FIELDS[group].items():
            pattern = f"{FEATURE}{field}{ID}([0-9]+){VALUE}([^{FEATURE}]+)"
            length = self._length(field)
            if length is None:
                value = f"nullif(regexp_extract(text, '{pattern}', 1), '')::BIGINT"
                terms.append(f"{value} AS {name(feature)}")
                continue
            ids, weights = (
                engine.texts(f"regexp_extract_all(text, '{pattern}', {part})", kind)
                for part, kind in ((1, "BIGINT"), (2, "FLOAT"))
            )
            ids, weights = engine.heaviest(ids, weights, length)
            terms += [f"{ids} AS {name(feature)}", f"{weights} AS {name(weights_name(feature))}"]
        return terms

    def split(self) -> str:
        draw = uniform31_sql(["user_key"], f"{self.seed}/validation", PRIME)
        return (
            f"CASE WHEN \"timestamp\" >= {TEST} THEN 'test' "
            f"WHEN {draw} < {round(self.validation_share * PRIME)} THEN 'validation' "
            "ELSE 'train' END"
        )

    def _demand_labels(self, engine: Engine, path: Path) -> None:
        """Refuses labels that are none, counts the rows that are left out."""
        bad = engine.one(
            """SELECT ord, click, conversion FROM skeleton
            WHERE click NOT IN (0, 1) OR conversion NOT IN (0, 1) ORDER BY ord LIMIT 1"""
        )
        if bad:
            column, value = ("click", bad[1]) if bad[1] not in (0, 1) else ("conversion", bad[2])
            raise InputError(
                f"{_line(path, bad[0])} has {column} {value}; expected 0 or 1; correct or delete "
                "the line"
            )
        orphans, first, conversions, nothing = engine.one(
            f"""SELECT count(*) FILTER (WHERE conversion = 1 AND click = 0),
                min(ord) FILTER (WHERE conversion = 1 AND click = 0),
                count(*) FILTER (WHERE conversion = 1),
                count(*) FILTER (WHERE NOT ({KEPT}) AND (click = 1 OR conversion = 0))
            FROM skeleton"""
        )
        if orphans > self.unclicked * conversions:
            raise InputError(
                f"{_line(path, first)} has a conversion without a click, as have {orphans:,} of "
                f"{conversions:,} conversions; expected a share of at most {self.unclicked}; "
                "correct the file, or raise data.unclicked to leave such rows out"
            )
        for reason, number in (("conversion without a click", orphans), ("no item", nothing)):
            if number:
                engine.notes.append(f"{int(number):,} rows of {path.name} were left out: {reason}")


_ITEM = f"{FEATURE}{FIELDS['item']['item']}{ID}"
KEPT = f"(click = 1 OR conversion = 0) AND contains(concat('{FEATURE}', features), '{_ITEM}')"


def _spellings(folder: Path, official: str) -> list[str]:
    """The names that an official file has in a folder: plain, compressed, both or neither."""
    return [name for name in (official, f"{official}.gz") if (folder / name).is_file()]


def _spelling(folder: Path, official: str) -> str:
    """The one name that it has there; the official one where it is missing."""
    found = _spellings(folder, official)
    if len(found) > 1:
        raise InputError(
            f"raw log {folder} holds both {' and '.join(found)}; expected one of them; take one "
            "away"
        )
    return found[0] if found else official


def _line(path: Path, row: int) -> str:
    return f"{path} line {line_at(path, row)[0]}"


def _demand_features(engine: Engine, path: Path, table: str) -> None:
    """Raises InputError for features of another form and for another number of them."""
    listed = engine.consists_of("features", ONE, FEATURE)
    count = f"length(features) - length(replace(features, '{FEATURE}', '')) + 1"
    bad = engine.one(
        f"""SELECT ord, {listed}, number, {count}, features FROM {table}
        WHERE NOT ({listed}) OR number <> {count} ORDER BY ord LIMIT 1"""
    )
    if not bad:
        return
    row, formed, number, found, features = bad
    if not formed:
        raise InputError(
            f"{_line(path, row)} has the features {features[:80]!r}; expected field\\x02id\\x03"
            "value, separated by \\x01, with whole ids and values of at least 0; correct or delete "
            "the line"
        )
    raise InputError(
        f"{_line(path, row)} has {found} features; expected {number}, as its column before says; "
        "correct or delete the line"
    )


def _demand_common(engine: Engine, skeleton: Path, common: Path) -> None:
    """Raises InputError where common features of impressions are missing."""
    missing, first = engine.one(
        f"""SELECT count(*), min(ord) FROM skeleton s
        WHERE NOT EXISTS (SELECT 1 FROM common c WHERE c.{KEY} = s.{KEY})"""
    )
    if missing:
        line, fields = line_at(skeleton, first)
        raise InputError(
            f"{skeleton} line {line} has the common features {fields[3]!r}, which {common.name} "
            f"lacks, as it lacks those of {missing:,} lines in all; expected a row for each; put "
            "the complete file there"
        )


def _demand_truth(engine: Engine) -> None:
    missing = engine.one("SELECT count(*) FROM impressions WHERE truth_click IS NULL")[0]
    if missing:
        raise InputError(
            f"{missing:,} rows of the simulated log have no row in {TRUTH.format('train')} or "
            f"{TRUTH.format('test')}; expected one each; delete the folder to simulate it again"
        )
