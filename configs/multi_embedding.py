"""Heterogeneous experts with multi-embedding (Pan et al., Ad Recommendation in a Collapsed and
Entangled World, §4.2).

make train DATASET=tafeng CONFIG=multi_embedding

GwPFM and a plain network share the first embedding space, IPNN and DCN V2 the second. A gate
weighs the four experts. The paper's pCTR model of Moments has these spaces and the first three
experts; it names DCN V2 as another expert that it uses widely. The spaces have the dimension that
``din`` has; GwPFM needs an even one.
"""

from dataclasses import replace

from at4ctr.backbones import dcnv2, dnn, gwpfm, ipnn
from at4ctr.config import Experiment
from at4ctr.data.dataset import Options
from at4ctr.heads import mixture
from at4ctr.model.build import ExpertConfig
from configs._compose import compose, dropout, main_space


def experiment(data: Options) -> Experiment:
    made = compose("dnn", data)
    pool = bool(data.schema().history)
    return replace(
        made,
        experts={
            "gwpfm": ExpertConfig(gwpfm.Config(pool_history=pool), "first"),
            "dnn": ExpertConfig(dnn.Config(pool_history=pool), "first"),
            "ipnn": ExpertConfig(ipnn.Config(pool_history=pool), "second"),
            "dcnv2": ExpertConfig(dcnv2.Config(pool_history=pool), "second"),
        },
        spaces=dict.fromkeys(("first", "second"), main_space(made)),
        head=mixture.Config(dropout=dropout(made)),
    )
