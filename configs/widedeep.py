"""Wide & Deep alone: the baseline.

make train DATASET=taobao CONFIG=widedeep
Test AUC: Amazon Beauty 0.6218 ± 0.0105 (5 seeds).
"""

from at4ctr.backbones import widedeep
from at4ctr.config import Experiment
from at4ctr.data.dataset import Options
from configs._tuned import tuned


def experiment(data: Options) -> Experiment:
    t = tuned(data.name)
    return Experiment(
        data=data,
        backbone=widedeep.Config(dropout=t.dropout),
        embedding=t.embedding,
        fit=t.fit,
    )
