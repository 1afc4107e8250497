"""Wide & Deep with user-item match (AT4CTR gives models without a sequence this task alone).

make train DATASET=taobao CONFIG=widedeep_at4ctr
Test AUC: Amazon Beauty 0.6653 ± 0.0104 (5 seeds).
"""

from at4ctr.auxiliaries import uim
from at4ctr.backbones import widedeep
from at4ctr.config import Experiment
from at4ctr.data.dataset import Options
from configs._tuned import tuned


def experiment(data: Options) -> Experiment:
    t = tuned(data.name)
    return Experiment(
        data=data,
        backbone=widedeep.Config(dropout=t.dropout),
        auxiliaries={
            "uim": uim.Config(weight=t.uim, use_history=False, mask_duplicates=t.mask_duplicates)
        },
        embedding=t.embedding,
        fit=t.fit,
    )
