"""Weights of repeated exposures, row by row."""

import numpy as np


def repeats(user, ad, time, click, *, strength, count, days):
    """w_rep [N] of every row."""
    weight = np.ones(len(user))
    for i in range(len(user)):
        ages = [
            (time[i] - time[j]) / (86_400 * days)
            for j in range(len(user))
            if user[j] == user[i] and ad[j] == ad[i] and time[j] < time[i] and not click[j]
        ]
        if ages:
            often = sum(0.5**age for age in ages)
            weight[i] = 1 + strength * (count * often + (1 - count) * 0.5 ** min(ages))
    return weight
