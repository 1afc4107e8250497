"""Times of a log as SQL: seconds since 1970, UTC, the same on every engine.

A text is an ISO date, or one with a time, an offset or the name of a zone: ``2018-10-20``,
``2018-10-20 09:57:43``, ``2018-10-20T01:57:43.5Z``, ``2018-10-20 09:57:43+08:00``,
``2018-10-20 09:57:43 Asia/Shanghai``. ``20181020`` and ``20181020095743`` are dates too.
Abbreviations such as CST name several zones and are refused. Where clocks are set back, an hour
comes twice: it is the first. Where they are set forward, an hour is left out: its times are taken
as if the clocks had not been set.
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
MOMENT = (
    "^([0-9]{4}[-/][0-9]{1,2}[-/][0-9]{1,2})"
    rf"(?:[Tt ]({CLOCK}) ?(?:({ZONE})(?:\[[^\]]*\])?)?)?$"
)
DIGITS = (
    "(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])"
    "(?:(?:[01][0-9]|2[0-3])(?:[0-5][0-9](?:[0-5][0-9])?)?)?"
)
SAMPLE = "'2018-10-20'"
EXPECTED = (
    "a date or time from 1970 to 2099 such as 2018-11-07, 2018-11-07 13:45:00, "
    "2018-11-07T13:45:00+08:00, 2018-11-07 13:45:00 Asia/Shanghai or 20181107134500"
)


def demand_zone(engine: Engine, zone: str, where: str) -> None:
    """Raises InputError unless times can be read in a zone."""
    known = re.fullmatch(ZONE, zone)
    if known and re.fullmatch(NAME, zone):
        known = engine.one(f"SELECT {_text(engine, SAMPLE, zone)}")[0]
    if known is None:
        raise InputError(
            f"{where} has zone {zone!r}; expected the name of a zone such as Asia/Shanghai, an "
            "offset such as +08:00, or UTC; correct zone"
        )


def seconds(engine: Engine, sql: str, kind: str, zone: str) -> str:
    """SQL of a value as whole seconds since 1970; NULL where it is no date or time.

    kind: of the value, by the engine's ``typeof``. zone: of values that name none.
    """
    typed = engine.typed_seconds(sql, kind)
    if typed is None:
        return _text(engine, f"trim(CAST({sql} AS STRING))", zone)
    local, instant = typed
    return local if instant else _in_zone(engine, local, f"CAST({sql} AS STRING)", zone)


def _text(engine: Engine, text: str, zone: str) -> str:
    """SQL of a text's seconds."""
    day, clock, named = (f"regexp_extract({text}, '{MOMENT}', {group})" for group in (1, 2, 3))
    whole = f"split_part(replace({clock}, ',', '.'), '.', 1)"
    minutes = f"CASE WHEN length({whole}) < 6 THEN {whole} || ':00' ELSE {whole} END"
    time = f"CASE WHEN {clock} = '' THEN '00:00:00' ELSE {minutes} END"
    iso = f"replace({day}, '/', '-') || ' ' || {time}"
    full = f"rpad({text}, 14, '0')"
    parts = [f"substr({full}, {first}, {size})" for first, size in
             ((1, 4), (5, 2), (7, 2), (9, 2), (11, 2), (13, 2))]  # fmt: skip
    packed = " || ".join(
        f"'{mark}' || {part}" if mark else part
        for mark, part in zip(("", "-", "-", " ", ":", ":"), parts, strict=True)
    )
    civil = f"CASE WHEN {engine.matches(text, DIGITS)} THEN {packed} ELSE {iso} END"
    local = engine.civil_seconds(civil)
    away = f"rpad(replace(substr({named}, 2), ':', ''), 4, '0')"
    hours, rest = (f"try_cast(substr({away}, {first}, 2) AS BIGINT)" for first in (1, 3))
    offset = (
        f"CASE substr({named}, 1, 1) WHEN '-' THEN -1 ELSE 1 END * (3600 * {hours} + 60 * {rest})"
    )
    utc = ", ".join(f"'{name}'" for name in UTC)
    return (
        f"CASE WHEN {named} = '' THEN {_in_zone(engine, local, civil, zone)} "
        f"WHEN {named} IN ({utc}) THEN {local} "
        f"WHEN substr({named}, 1, 1) IN ('+', '-') THEN {local} - {offset} "
        f"ELSE {engine.zoned_seconds(civil, named)} END"
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
