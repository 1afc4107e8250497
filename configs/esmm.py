"""ESMM: a click and what follows it, learned over all impressions (Ma et al., SIGIR 2018).

make train DATASET=retailrocket CONFIG=esmm

L = L(click) + Σ_k L(click and k), each over every row (Eq. 3). The tower of a label k that is known
within a click is a model of P(k | click) and is trained by the product alone. Deviations: the paper
shares the embeddings alone, and here the first dense layers of ``shared_bottom`` are shared too.
The paper pools each field; here the backbone is DIN, or DeepFM where the log has no history.
"""

from dataclasses import replace

from at4ctr.config import Experiment
from at4ctr.data.dataset import Options
from at4ctr.errors import InputError
from configs._compose import compose


def experiment(data: Options) -> Experiment:
    inner = [label.name for label in data.schema().labels if label.within is not None]
    if not inner:
        raise InputError(
            f"recipe esmm: {data.name} has no label that is known within another; expected one, "
            "such as conversion within click; choose DATASET=retailrocket, or another CONFIG"
        )
    made = compose("din" if data.schema().history else "deepfm", data)
    tasks = {k: replace(t, over="all") if k in inner else t for k, t in made.tasks.items()}
    return replace(made, tasks=tasks)
