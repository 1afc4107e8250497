"""Parts of a page that a command writes anew."""

from __future__ import annotations

from pathlib import Path

from at4ctr.errors import InputError


def rewrite(page: Path, part: str, text: str) -> None:
    """Replaces the text between the two marks of a part, and keeps the rest of the page.

    Raises InputError for a page without the marks.
    """
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    found = page.read_text(encoding="utf-8") if page.is_file() else ""
    before, first, rest = found.partition(begin)
    _, last, after = rest.partition(end)
    if not (first and last):
        raise InputError(
            f"{page} has no part between {begin} and {end}; expected both; give another page with "
            "--out, or write the marks into it"
        )
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
