"""Losses as pure functions of tensors: computed in float32, finite on every legal batch."""

from at4ctr.losses.inter_task import inter_task_contrast
from at4ctr.losses.match import user_item_match
from at4ctr.losses.next_item import next_item_prediction
from at4ctr.losses.pointwise import binary_cross_entropy

__all__ = [
    "binary_cross_entropy",
    "inter_task_contrast",
    "next_item_prediction",
    "user_item_match",
]
