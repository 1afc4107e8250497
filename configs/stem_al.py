"""STEM-AL: further labels are learned for the sake of the first one (Pan et al., Ad Recommendation
in a Collapsed and Entangled World, §5.2).

make train DATASET=retailrocket CONFIG=stem_al

The first label is the main one. Each other label is auxiliary: its tower reads the embedding space
of that label alone and is not served. ``CONFIG=<recipe>+stem_al`` does the same to any recipe.
Another main label needs three overrides, such as ``SET="head.auxiliary=click
tasks.click.serve=false tasks.conversion.serve=true"``.
"""

from dataclasses import replace

from at4ctr.config import Experiment
from at4ctr.data.dataset import Options
from at4ctr.errors import InputError
from at4ctr.heads import stem
from at4ctr.model.build import label_tasks
from configs._compose import compose, dropout, in_spaces, main_space


def experiment(data: Options) -> Experiment:
    return extended(compose("din" if data.schema().history else "deepfm", data))


def extended(made: Experiment) -> Experiment:
    """The experiment with its first label as the main one and the others auxiliary."""
    found = label_tasks(made.data.schema(), made.tasks)
    main, *others = found
    if not others:
        raise InputError(
            f"recipe stem_al: {made.data.name} has the label {main!r} alone; expected another one "
            "to learn beside it; choose DATASET=retailrocket, or another CONFIG"
        )
    spaces = dict.fromkeys(found, main_space(made))
    head = stem.Config(auxiliary=tuple(others), dropout=dropout(made))
    tasks = {k: replace(t, serve=t.serve and k == main) for k, t in found.items()}
    return replace(in_spaces(made, spaces, head), tasks=tasks)
