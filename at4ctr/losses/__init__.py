"""Losses as pure functions of tensors: computed in float32, finite on every legal batch."""

from at4ctr.losses.assignment import codebook_learning, sinkhorn
from at4ctr.losses.contrast import instance_contrast, quantisation_share, quantised_contrast
from at4ctr.losses.dense import dense_next_item_prediction, dense_user_item_match
from at4ctr.losses.inter_task import inter_task_contrast
from at4ctr.losses.match import user_item_match
from at4ctr.losses.next_item import next_item_prediction
from at4ctr.losses.pairwise import pairwise_ranking
from at4ctr.losses.pointwise import binary_cross_entropy

__all__ = [
    "binary_cross_entropy",
    "codebook_learning",
    "dense_next_item_prediction",
    "dense_user_item_match",
    "instance_contrast",
    "inter_task_contrast",
    "next_item_prediction",
    "pairwise_ranking",
    "quantisation_share",
    "quantised_contrast",
    "sinkhorn",
    "user_item_match",
]
