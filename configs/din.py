"""DIN alone: the baseline.

make train DATASET=taobao CONFIG=din
Test AUC: Amazon Beauty 0.7795 ± 0.0022 (5 seeds), Ta Feng 0.6166 ± 0.0021 (3 seeds), simulated
Taobao log 0.7984 ± 0.0003 (3 seeds).
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
