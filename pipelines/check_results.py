"""Whether each figure that is quoted stands on a page that a command wrote: make check-results

README.md's section *Results*, docs/choosing.md and docs/results/README.md quote figures of the
pages in docs/results. A figure is a number of three decimals or more. It stands on a page if a
number of that page, rounded to its decimals, has its size. Signs are left out, because a difference
may be quoted either way.

Each paragraph, list item and table row is checked by itself, against the pages that it links. A row
of README.md's table links none: its pages are those of the folder that its log names. Where the
cell of the log is empty, it is that of the row before.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import NamedTuple

from export.streams import ignoring_closed_pipes

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path("docs") / "results"
QUOTING = (Path("README.md"), Path("docs") / "choosing.md", RESULTS / "README.md")
SECTION = "## Results"  # of README.md: what follows it up to the next heading
FIGURE = re.compile(r"(?<![\w.])\d+\.\d{3,}(?![\w.]*\d)")
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")
LINK = re.compile(r"\]\(([^)#\s]+\.md)\)")
PROSE = ("README.md", "multitask.md")  # pages written by people, whose figures are no evidence


class Missing(NamedTuple):
    """A figure that is on none of the pages. line: the first line of its paragraph, item or row,
    from 1."""

    page: Path
    line: int
    figure: str
    pages: tuple[Path, ...]

    def __str__(self) -> str:
        where = ", ".join(map(str, self.pages)) or "no page, as it links none"
        return (
            f"{self.page}:{self.line} quotes {self.figure}, which does not stand on {where}; "
            "expected a figure that a command wrote; correct it, or link its page"
        )


def missing(root: Path = ROOT) -> list[Missing]:
    """All quoted figures that stand nowhere."""
    found = []
    for page in QUOTING:
        log = ""
        text = (root / page).read_text(encoding="utf-8")
        for line, unit in _units(text, SECTION if page == QUOTING[0] else ""):
            figures, cell = FIGURE.findall(unit), unit.partition("|")[2].partition("|")[0].strip()
            log = cell or log
            if figures:
                pages = _pages(root, page, unit if cell or "|" not in unit else log)
                known = [x for p in pages for x in _numbers(root / p)]
                found += [
                    Missing(page, line, f, pages) for f in figures if not _stands(Decimal(f), known)
                ]
    return found


def _units(text: str, section: str) -> Iterator[tuple[int, str]]:
    """Paragraphs, list items and rows, each with its first line. section: only what follows it."""
    inside, begin, held = not section, 0, list[str]()
    for number, line in enumerate([*text.splitlines(), ""], 1):
        begins = line.startswith(("- ", "|", "#")) or not line.strip()
        if begins and held:
            yield begin, " ".join(held)
            held = []
        if section and line.startswith("## "):
            inside = line.strip() == section
        if inside and line.strip() and not line.startswith("#"):
            begin = begin if held else number
            held.append(line.strip())


def _pages(root: Path, page: Path, unit: str) -> tuple[Path, ...]:
    linked = [(root / page.parent / link).resolve() for link in LINK.findall(unit)]
    found = [p for p in linked if p.name not in PROSE and p.is_file()]
    if not found:
        named = re.sub("[^a-z]", "", unit.lower())
        folders = [d for d in sorted((root / RESULTS).iterdir()) if d.is_dir()]
        found = [p for d in folders if d.name.replace("_", "") in named for p in d.glob("*.md")]
    return tuple(sorted({p.relative_to(root.resolve()) for p in found}))


def _numbers(page: Path) -> list[Decimal]:
    return [Decimal(x) for x in NUMBER.findall(page.read_text(encoding="utf-8"))]


def _stands(figure: Decimal, known: Iterable[Decimal]) -> bool:
    unit = Decimal(1).scaleb(int(figure.as_tuple().exponent))
    return any(x.quantize(unit, ROUND_HALF_EVEN) == figure for x in known if x < 10**9)


@ignoring_closed_pipes()
def main() -> int:
    """Prints what is missing; 1 where something is."""
    found = missing()
    for one in found:
        print(one, file=sys.stderr)
    print(
        f"{len(found)} quoted figures stand on no page" if found else "every quoted figure stands"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
