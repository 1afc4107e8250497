"""Three embedding spaces, each with the experts of a recipe (Pan et al., Ad Recommendation in a
Collapsed and Entangled World, §4.2: multi-embedding with experts of one kind).

make train DATASET=tafeng CONFIG=ipnn+three_spaces

By itself it is ``ipnn+three_spaces``. A gate weighs the experts (head ``mixture``). Each space has
the dimension of the recipe's; ``SET=spaces.first.dimension=16`` changes one. Auxiliaries read the
first space.
"""

from at4ctr.config import Experiment
from at4ctr.data.dataset import Options
from at4ctr.heads import mixture
from configs._compose import compose, dropout, in_spaces, main_space


def experiment(data: Options) -> Experiment:
    return extended(compose("ipnn", data))


def extended(made: Experiment) -> Experiment:
    """The experiment with its experts in three spaces."""
    spaces = dict.fromkeys(("first", "second", "third"), main_space(made))
    return in_spaces(made, spaces, mixture.Config(dropout=dropout(made)))
