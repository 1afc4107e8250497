"""What the documentation site consists of: make docs

Pages keep the places that they have in the repository, so that a link that is right there is right
on the site. The files that they link are beside them. The pages of the API name modules alone, and
mkdocstrings reads their docstrings without importing them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

from griffe import Attribute, Class, Docstring, Extension, Function, Object
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "WORKSPACE.md", "docs/**/*.md", "benchmarks/*.md", "export/**/*.md")
ASSETS = ("docs/iframe-worker.js", "docs/pages.css")  # which mkdocs.yml names
LINK = re.compile(r"\]\(([^)#\s:]+)[^)]*\)")  # of a file beside the page
PART = """A part has the name of its module. `SET=` overrides the fields of its `Config`, as
[Training](../docs/training.md) describes."""
API = {  # a module, or the package of several, with a sentence that its page begins with
    "contracts": "",
    "losses": "",
    "metrics": "",
    "analysis": "",
    "backbones": PART,
    "heads": PART,
    "auxiliaries": PART,
    "encodings": PART,
    "perturbations": PART,
}


def on_config(config: MkDocsConfig) -> None:
    """Adds to the navigation what folders decide."""
    for entry in config.nav or ():
        if "Results" in entry:
            entry["Results"] += [{name: pages} for name, pages in results()]
        elif "API" in entry:
            entry["API"] = [f"api/{name}.md" for name in API]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The repository's pages, what they link, the API's pages, and the theme's files."""
    theme = [file for file in files if file.src_dir != config.docs_dir]
    pages = {path for pattern in PAGES for path in ROOT.glob(pattern)}
    linked = {path for page in pages for path in links(page)}
    ours = [
        File(path.relative_to(ROOT).as_posix(), str(ROOT), config.site_dir, False)
        for path in sorted({*pages, *linked, *(ROOT / name for name in ASSETS)})
    ]
    made = [File.generated(config, f"api/{name}.md", content=api(name)) for name in API]
    return Files([*ours, *made, *theme])


def results() -> Iterator[tuple[str, list[str]]]:
    """Each dataset with its pages: those of its folder, and the one beside the folder."""
    folder = ROOT / "docs" / "results"
    for dataset in sorted({path.stem for path in folder.iterdir()} - {"README"}):
        pages = sorted([*(folder / dataset).glob("*.md"), *folder.glob(f"{dataset}.md")])
        yield dataset, [page.relative_to(ROOT).as_posix() for page in pages]


def links(page: Path) -> Iterator[Path]:
    """The files that a page links, where they are there."""
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve()
        if path.is_file():
            yield path


def api(name: str) -> str:
    """A page of the API. A package that names what it offers is described as a whole."""
    package = ROOT / "at4ctr" / name
    modules = [f"at4ctr.{name}"]
    if package.is_dir() and "__all__" not in (package / "__init__.py").read_text(encoding="utf-8"):
        files = sorted(package.glob("[!_]*.py"))
        modules = [f"at4ctr.{name}.{path.stem}" for path in files]
    return "\n\n".join([f"# {name.capitalize()}", API[name], *(f"::: {m}" for m in modules)])


class Text(Extension):
    """Docstrings are text and not Markdown: their signs stay, and what they list becomes a list.

    A comment behind a field describes it as a docstring would.
    """

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if isinstance(obj, Attribute) and isinstance(obj.parent, Class) and not obj.docstring:
            comment = obj.source.partition("  # ")[2]
            obj.docstring = Docstring(comment, parent=obj) if comment else None
        if obj.docstring:
            names = [*obj.all_members] if isinstance(obj, Class) else []
            names += [p.name for p in obj.parameters] if isinstance(obj, Function) else []
            paragraphs = obj.docstring.value.split("\n\n")
            obj.docstring.value = "\n\n".join(markdown(text, names) for text in paragraphs)


def markdown(text: str, names: list[str]) -> str:
    """A paragraph of a docstring. names: fields or parameters, each of which may begin an item."""
    head, _, rest = text.partition("\n")
    if head in ("Args:", "Returns:", "Raises:"):
        return f"{head}\n\n{markdown(dedent(rest), names)}"
    if text.startswith(" "):  # an example
        return text
    if names:
        name = "(?:" + "|".join(map(re.escape, names)) + ")"
        item = rf"(?:^|(?<=[.] ))({name}(?:,\s+{name})*):\s"
        text = re.sub(item, r"\n\n- \1: ", text, flags=re.M)
    return escaped(text).lstrip("\n")


def escaped(text: str) -> str:
    """With the signs that Markdown would read, code aside."""
    pieces = re.split("(`+[^`]+`+)", text)
    pieces[::2] = [re.sub(r"([*_<>\[\]])", r"\\\1", piece) for piece in pieces[::2]]
    return "".join(pieces)
