"""Times of a log as SQL: seconds since 1970, UTC, the same on every engine.

A text is an ISO date, or one with a time, an offset or the name of a zone: ``2018-10-20``,
``2018-10-20 09:57:43``, ``2018-10-20T01:57:43.5Z``, ``2018-10-20 09:57:43+08:00``,
``2018-10-20 09:57:43 Asia/Shanghai``. ``20181020`` and ``20181020095743`` are dates too.
Abbreviations such as CST name several zones and are refused. Where clocks are set back, a time that
occurs twice is taken as the first one. Where they are set forward, a skipped time is taken as if
the clocks had not been set.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from at4ctr.errors import InputError

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine

LAST = 4_102_444_800  # 2100-01-01: what is later is no time of a log
OFFSET = r"[+-](?:0[0-9]|1[0-8])(?::?[0-5][0-9])?"
NAME = "[A-Za-z]+(?:/[A-Za-z0-9_+-]+)+"
UTC = ("UTC", "GMT", "Z", "z")
ZONE = f"(?:{'|'.join(UTC)}|{OFFSET}|{NAME})"
CLOCK = r"(?:[01]?[0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:[.,][0-9]+)?)?"
AFTER = rf" ?(?:({ZONE})(?:\[[^\]]*\])?)?"
END = f"(?:[.,][0-9]+)?{AFTER}"  # what may follow 2018-10-20 09:57:43
MOMENT = f"^([0-9]{{4}}[-/][0-9]{{1,2}}[-/][0-9]{{1,2}})(?:[Tt ]({CLOCK}){AFTER})?$"
DIGITS = (
    "(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])"
    "(?:(?:[01][0-9]|2[0-3])(?:[0-5][0-9](?:[0-5][0-9])?)?)?"
)
SECONDS = '"its seconds"'  # column of `with_seconds`, whose name no log has
EXPECTED = (
    "a date or time from 1970 to 2099 such as 2018-11-07, 2018-11-07 13:45:00, "
    "2018-11-07T13:45:00+08:00, 2018-11-07 13:45:00 Asia/Shanghai or 20181107134500"
)


def demand_zone(engine: Engine, zone: str, where: str) -> None:
    """Raises InputError unless times can be read in a zone."""
    known = bool(re.fullmatch(ZONE, zone))
    if known and re.fullmatch(NAME, zone):
        sample = engine.zoned_seconds("'2018-10-20 00:00:00'", f"'{zone}'")
        try:
            known = engine.one(f"SELECT {sample}")[0] is not None
        except engine.failures:
            known = False
    if not known:
        raise InputError(
            f"{where} has zone {zone!r}; expected the name of a zone such as Asia/Shanghai, an "
            "offset such as +08:00, or UTC; correct zone"
        )


def with_seconds(engine: Engine, relation: str, sql: str, kind: str, zone: str) -> str:
    """SQL of a relation with ``SECONDS``, a value as whole seconds since 1970; NULL where it is no
    date or time.

    kind: of the value, by the engine's ``typeof``. zone: of values that name none.
    """
    typed = engine.typed_seconds(sql, kind)
    if typed is None:
        return _of_text(engine, relation, f"trim(CAST({sql} AS STRING))", zone)
    local, instant = typed
    civil = f"CAST({sql} AS STRING)" + (" || ' 00:00:00'" if kind.lower() == "date" else "")
    made = local if instant else _in_zone(engine, local, f"({civil})", zone)
    return f"(SELECT *, {made} AS {SECONDS} FROM {relation}) s"


def _of_text(engine: Engine, relation: str, text: str, zone: str) -> str:
    """SQL of a relation with ``SECONDS`` of a text, step by step: no step is evaluated twice.

    Most logs write 2018-10-20 09:57:43, with something after it or nothing, which needs no pattern.
    """
    day, clock, named = (f"regexp_extract(its_text, '{MOMENT}', {group})" for group in (1, 2, 3))
    end = "substr(its_text, 20)"
    full = "rpad(its_text, 14, '0')"
    year = f"substr({full}, 1, 4)"
    rest = [f"substr({full}, {first}, 2)" for first in range(5, 15, 2)]
    digits = year + "".join(
        f" || '{mark}' || {part}" for mark, part in zip("-- ::", rest, strict=True)
    )
    steps = [
        f"{text} AS its_text",
        "its_text LIKE '____-__-__ __:__:__%' OR its_text LIKE '____-__-__T__:__:__%' AS plain",
        f"CASE WHEN plain THEN false ELSE {engine.matches('its_text', DIGITS)} END AS packed, "
        f"CASE WHEN plain THEN substr(its_text, 1, 10) ELSE replace({day}, '/', '-') END "
        "AS its_day, CASE WHEN plain THEN CASE WHEN substr(its_text, 12, 2) < '24' THEN "
        f"substr(its_text, 12, 8) ELSE '?' END ELSE split_part(replace({clock}, ',', '.'), '.', 1) "
        f"END AS its_clock, CASE WHEN NOT plain THEN {named} WHEN length(its_text) = 19 THEN '' "
        f"WHEN {engine.matches(end, END)} THEN regexp_extract({end}, '^{END}$', 1) ELSE '?' END "
        "AS its_zone",
        f"CASE WHEN packed THEN {digits} WHEN its_day <> '' THEN its_day || ' ' || "
        "CASE length(its_clock) WHEN 0 THEN '00:00:00' WHEN 4 THEN its_clock || ':00' "
        "WHEN 5 THEN its_clock || ':00' ELSE its_clock END END AS its_civil, "
        "rpad(replace(substr(its_zone, 2), ':', ''), 4, '0') AS its_offset",
        f"{engine.civil_seconds('its_civil')} AS its_local",
        f"{_in_named_zone(engine, zone)} AS {SECONDS}",
    ]
    for step in steps:
        relation = f"(SELECT *, {step} FROM {relation}) s"
    return relation


def _in_named_zone(engine: Engine, zone: str) -> str:
    """SQL of the seconds of a text in the zone that it names, or in another that is given."""
    hours, rest = (f"try_cast(substr(its_offset, {first}, 2) AS BIGINT)" for first in (1, 3))
    sign = "CASE substr(its_zone, 1, 1) WHEN '-' THEN -1 ELSE 1 END"
    utc = ", ".join(f"'{name}'" for name in UTC)
    return (
        f"CASE WHEN its_zone = '' THEN {_in_zone(engine, 'its_local', 'its_civil', zone)} "
        f"WHEN its_zone IN ({utc}) THEN its_local WHEN substr(its_zone, 1, 1) IN ('+', '-') "
        f"THEN its_local - {sign} * (3600 * {hours} + 60 * {rest}) "
        f"ELSE {engine.zoned_seconds('its_civil', 'its_zone')} END"
    )


def _in_zone(engine: Engine, local: str, civil: str, zone: str) -> str:
    """SQL of seconds on the clocks of a zone as those since 1970. civil: the same as text."""
    if zone in UTC:
        return local
    if zone[0] not in "+-":
        return engine.zoned_seconds(civil, f"'{zone}'")
    digits = zone[1:].replace(":", "").ljust(4, "0")
    offset = int(digits[:2]) * 3600 + int(digits[2:]) * 60
    return f"{local} - ({zone[0]}{offset})"
