"""A recipe file of ``configs/``: a recipe with the overrides that were chosen for it."""

from __future__ import annotations

import json
import keyword
import textwrap
from collections.abc import Sequence
from pathlib import Path

import configs
from at4ctr.durable import replaced
from at4ctr.errors import InputError
from at4ctr.folders import modules

MARK = "Written by a search: `make "  # a file without it was written by a person and stays
FOLDER = Path(configs.__file__).parent
TEXT = '''"""{recipe} with what was chosen on validation for {dataset}.

{written}
"""

from __future__ import annotations

import configs
from at4ctr import config
from at4ctr.config import Experiment
from at4ctr.data.dataset import Options

OVERRIDES = (
{overrides}
)


def experiment(data: Options) -> Experiment:
    return config.override(configs.recipe({quoted}, data), OVERRIDES)
'''


def demand_name(name: str, folder: Path = FOLDER) -> None:
    """InputError where no recipe file of that name can be written: before the first trial."""
    where = f"SAVE={name!r}"
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        raise InputError(
            f"{where} cannot name a file of configs; expected a Python name that begins with a "
            "letter; write SAVE=din_tuned"
        )
    if name in modules("at4ctr.backbones") or name in configs.datasets():
        raise InputError(
            f"{where} is the name of a backbone or a dataset; expected a new name; write "
            f"SAVE={name}_tuned"
        )
    path = folder / f"{name}.py"
    if path.exists() and MARK.split("`")[0] not in path.read_text():
        raise InputError(
            f"{where} would replace configs/{name}.py, which no command wrote; expected a new name "
            f"or the recipe of an earlier command; write SAVE={name}_tuned"
        )


def write(
    name: str,
    recipe: str,
    overrides: Sequence[str],
    *,
    dataset: str,
    command: str,
    reason: str,
    folder: Path = FOLDER,
) -> Path:
    """Writes ``configs/<name>.py``, which ``make train CONFIG=<name>`` runs."""
    demand_name(name, folder)
    said = f"{MARK}{command.removeprefix('make ')}`. {reason}"
    text = TEXT.format(
        written="\n".join(textwrap.wrap(said, 99, break_long_words=False, break_on_hyphens=False)),
        recipe=recipe,
        dataset=dataset,
        command=command,
        reason=reason,
        overrides="\n".join(f"    {json.dumps(o, ensure_ascii=False)}," for o in overrides),
        quoted=json.dumps(recipe),
    )
    path = folder / f"{name}.py"
    with replaced(path) as aside:
        aside.write_text(text, encoding="utf-8")
    return path
