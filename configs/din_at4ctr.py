"""DIN with user-item match and next-item prediction: the main recipe.

make train DATASET=taobao
"""

from at4ctr.auxiliaries import nip, uim
from at4ctr.backbones import din
from at4ctr.config import Experiment
from at4ctr.data.dataset import Options
from configs._tuned import tuned


def experiment(data: Options) -> Experiment:
    t = tuned(data.name)
    return Experiment(
        data=data,
        backbone=din.Config(dropout=t.dropout),
        auxiliaries={
            "uim": uim.Config(weight=t.uim, mask_duplicates=t.mask_duplicates),
            "nip": nip.Config(weight=t.nip, mask_duplicates=t.mask_duplicates, block=t.block),
        },
        embedding=t.embedding,
        fit=t.fit,
    )
