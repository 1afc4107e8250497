"""Waits for late reports and labels at a cutoff, row by row."""

import numpy as np

DAY = 86_400


def wait_of(time, report, at, longest, tolerance, steps, least):
    """The wait of one advertiser's rows; None with fewer conversions than `least`. report: -1 is
    none."""
    days, total = {}, 0
    for t, r in zip(time, report, strict=True):
        if t + longest < at:
            counts = days.setdefault((at - 1 - longest - t) // DAY, np.zeros(len(steps)))
            counts += [r >= 0 and r - t <= w for w in steps]
            total += r >= 0 and r - t <= longest
    if total < least:
        return None
    table = np.array(list(days.values()))
    missing = ((table - table[:, -1:]) ** 2).mean(axis=0) / table[:, -1].mean() ** 2
    return steps[int(np.flatnonzero(missing <= tolerance**2)[0])]


def label(click, t, report, wait, until, longest):
    """1, 0, None where the row has no click, -2 where it is not ripe."""
    if t + wait >= until:
        return -2
    if not click:
        return None
    return int(0 <= report < until and report - t <= longest)
