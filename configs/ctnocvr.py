"""CTnoCVR: a click without a conversion as one more label (Zhang et al., SIGIR 2022).

make train DATASET=retailrocket CONFIG=ctnocvr

L = L(click) + λ₁ L(conversion | click) + λ₂ L(click and no conversion) (Eq. 6, whose second term
reads the conversion). λ₁ is 0.5, the best of Figure 3a. The paper does not name its λ₂; it is 1.
The new label has a tower of its own and is not served; only the answer ``score`` reads it, if
validation chooses a score weight above 0. ``CONFIG=<recipe>+ctnocvr`` adds it to any recipe, such
as ``din+uim`` or ``esmm``. Deviation: the paper sums each field; here the backbone is DIN, or
DeepFM where the log has no history.
"""

from dataclasses import replace

from at4ctr.config import Experiment
from at4ctr.data.dataset import Options
from at4ctr.errors import InputError
from at4ctr.model.build import label_tasks
from at4ctr.tasks import Task, without_name
from configs._compose import compose


def experiment(data: Options) -> Experiment:
    return extended(compose("din" if data.schema().history else "deepfm", data))


def extended(made: Experiment) -> Experiment:
    """The experiment with the label of the first conversion."""
    inner = [label for label in made.data.schema().labels if label.within is not None]
    if not inner:
        raise InputError(
            f"recipe ctnocvr: {made.data.name} has no label that is known within another; expected "
            "one, such as conversion within click; choose DATASET=retailrocket, or another CONFIG"
        )
    first, found = inner[0], label_tasks(made.data.schema(), made.tasks)
    if first.name not in found or not found[first.name].serve:
        raise InputError(
            f"recipe ctnocvr: the recipe does not serve {first.name!r}, whose probability the "
            f"score corrects; expected tasks.{first.name}.serve=true; choose another recipe, such "
            "as stem in place of stem_al"
        )
    derived, own = without_name(first), {}
    if first.name in made.spaces:  # a space of each label, as STEM has them
        made = replace(made, spaces={**made.spaces, derived: made.spaces[first.name]})
        own = {
            name.replace(first.name, derived, 1): replace(expert, space=derived)
            for name, expert in made.experts.items()
            if expert.space == first.name
        }
    tasks = {**found, first.name: replace(found[first.name], weight=0.5)}
    return replace(
        made,
        experts={**made.experts, **own},
        tasks={**tasks, derived: Task(serve=False)},
    )
