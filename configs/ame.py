"""AME: labels choose by gates among embedding spaces of several dimensions (Pan et al., Ad
Recommendation in a Collapsed and Entangled World, §5.1).

make train DATASET=retailrocket CONFIG=ame

The spaces have the paper's 16, 32 and 64 dimensions. ``CONFIG=<recipe>+ame`` puts the experts of
any recipe into each of them. ``SET=spaces.large.dimension=48`` changes one. Auxiliaries read the
small space.
"""

from dataclasses import replace

from at4ctr.config import Experiment
from at4ctr.data.dataset import Options
from at4ctr.heads import ame
from configs._compose import compose, dropout, in_spaces, main_space

DIMENSIONS = {"small": 16, "medium": 32, "large": 64}


def experiment(data: Options) -> Experiment:
    return extended(compose("din" if data.schema().history else "deepfm", data))


def extended(made: Experiment) -> Experiment:
    """The experiment with its experts in three spaces."""
    space = main_space(made)
    spaces = {name: replace(space, dimension=d) for name, d in DIMENSIONS.items()}
    return in_spaces(made, spaces, ame.Config(dropout=dropout(made)))
