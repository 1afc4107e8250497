"""Each quoted figure stands on a page that a command wrote, and one that does not is found."""

from pathlib import Path

import pytest

from pipelines import check_results

README = """# at4ctr

0.123 is of no section that quotes.

## Results

| log | model | alone |
|---|---|---|
| Ta Feng, half the users | DIN | {0} ± 0.002 |
| | DIEN | 0.601 |

## More

0.999
"""
RESULTS = """# Results

- **One** ([table](tafeng/table2.md)): it has 0.5979
  and loses −{1}.
"""
CHOOSING = "# Choosing\n\n| DIEN has {2} ([table](results/tafeng/table2.md)). |\n"
TABLE = "| DIN | 0.5979 ± 0.0016 |\n| DIEN | 0.6011 |\n| p | 6.4e-07 | -0.0436 |\n"


def written(root: Path, *of_readme_and_results: str, choosing: str = "0.6011") -> Path:
    figures = (*of_readme_and_results, choosing)
    (root / "docs" / "results" / "tafeng").mkdir(parents=True)
    (root / "docs" / "results" / "tafeng" / "table2.md").write_text(TABLE)
    (root / "README.md").write_text(README.format(*figures))
    (root / "docs" / "results" / "README.md").write_text(RESULTS.format(*figures))
    (root / "docs" / "choosing.md").write_text(CHOOSING.format(*figures))
    return root


def test_of_this_project_all_stand():
    assert [str(one) for one in check_results.missing()] == []


def test_rounded_figures_stand(tmp_path):
    assert check_results.missing(written(tmp_path, "0.5979", "0.044")) == []


@pytest.mark.parametrize(
    ("figures", "wrong", "line", "page"),
    [
        (("0.5978", "0.044", "0.6011"), "0.5978", 9, "README.md"),
        (("0.5979", "0.043", "0.6011"), "0.043", 3, "docs/results/README.md"),
        (("0.5979", "0.044", "0.6012"), "0.6012", 3, "docs/choosing.md"),
    ],
)
def test_another_figure_is_found_with_its_line(tmp_path, figures, wrong, line, page):
    *first, choosing = figures
    (found,) = check_results.missing(written(tmp_path, *first, choosing=choosing))
    assert (found.page.as_posix(), found.line, found.figure) == (page, line, wrong)
    assert "docs/results/tafeng/table2.md" in str(found)


def test_a_figure_without_a_page_is_found(tmp_path):
    root = written(tmp_path, "0.598", "0.044")
    page = root / "docs" / "results" / "README.md"
    page.write_text(page.read_text() + "\n- Nobody wrote 0.5979.\n")
    assert "no page, as it links none" in str(*check_results.missing(root))
