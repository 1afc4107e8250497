"""STEM: an embedding space of each label beside a shared one (Su et al., AAAI 2024).

make train DATASET=retailrocket CONFIG=stem

``CONFIG=<recipe>+stem`` puts the experts of any recipe into each space, as in ``dnn+stem``. By
itself it is ``din+stem``, or ``deepfm+stem`` where the log has no history. All spaces have the
dimension of the recipe's; ``SET=spaces.click.dimension=9`` changes one. Auxiliaries read the shared
space.
"""

from at4ctr.config import Experiment
from at4ctr.data.dataset import Options
from at4ctr.heads import stem
from at4ctr.model.build import label_tasks
from configs._compose import compose, dropout, in_spaces, main_space


def experiment(data: Options) -> Experiment:
    return extended(compose("din" if data.schema().history else "deepfm", data))


def extended(made: Experiment) -> Experiment:
    """The experiment with its experts in the spaces of STEM."""
    labels = label_tasks(made.data.schema(), made.tasks)
    spaces = dict.fromkeys(("shared", *labels), main_space(made))
    return in_spaces(made, spaces, stem.Config(dropout=dropout(made)))
