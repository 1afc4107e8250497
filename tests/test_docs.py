"""The pages that people read: every link leads somewhere, in the repository as on the site."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.publishing import CHECKOUT

PAGES = sorted(
    path.relative_to(CHECKOUT)
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "export/**/*.md")
    for path in CHECKOUT.glob(pattern)
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
OF_THE_WEB = re.compile(r"https?://")


def prose(page: Path) -> str:
    """A page without its code, in which brackets are no links."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    """What a link after # may name: a heading in small letters, words joined by hyphens."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\s-]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere, or to what is no file of the checkout."""
    found = []
    for link in LINK.findall(prose(page)):
        target, _, anchor = link.partition("#")
        there = (page.parent / target).resolve() if target else page
        if not OF_THE_WEB.match(link) and (
            not there.is_file() or (anchor and anchor not in anchors(there))
        ):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_and_anchor_resolves(page):
    assert broken(CHECKOUT / page) == []


def test_a_broken_link_and_a_broken_anchor_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Two words: one\n\n[a](#two-words-one) [b](page.md#two) [c](gone.md) [d](https://x.org)\n"
        "`[e](code.md)`\n\n```\n# No heading\n[f](code.md)\n```\n[g](#no-heading)\n"
    )
    assert broken(page) == ["page.md#two", "gone.md", "#no-heading"]


def test_the_navigation_has_every_page_that_no_command_writes():
    def named(entry) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [x for y in (entry.values() if isinstance(entry, dict) else entry) for x in named(y)]

    text = (CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8")
    results = Path("docs/results")  # docs/pages.py adds the pages of each dataset
    expected = {str(p) for p in PAGES if results not in p.parents or p.name == "README.md"}
    assert {*named(yaml.safe_load(text)["nav"])} == expected


def test_the_packages_of_the_site_are_pinned_with_hashes():
    asked = {
        line.split("<")[0]
        for line in (CHECKOUT / "docs" / "requirements.in").read_text().splitlines()
        if not line.startswith("#")
    }
    lock = (CHECKOUT / "docs" / "requirements.lock").read_text()
    pinned = re.findall(r"^([\w.-]+)==\S+ \\\n {4}--hash=sha256:", lock, re.M)
    assert asked <= {*pinned}
    assert len(pinned) == len(re.findall(r"^\w", lock, re.M))
