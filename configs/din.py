"""DIN alone: the baseline.

make train DATASET=taobao CONFIG=din
"""

from at4ctr.backbones import din
from at4ctr.config import Experiment
from at4ctr.data.dataset import Options
from configs._tuned import tuned


def experiment(data: Options) -> Experiment:
    t = tuned(data.name)
    return Experiment(
        data=data,
        backbone=din.Config(dropout=t.dropout),
        embedding=t.embedding,
        fit=t.fit,
    )
