"""The protocol of preparation in plain Python loops, for small logs. Shares no code with it."""

from collections import Counter, defaultdict
from hashlib import md5, sha256

P = 2**31 - 1


def behaviours(rows, *, window=(1511539200, 1512316799), dedupe=True, least=10, only=None):
    """Raw user -> its behaviours (item, category, type, timestamp) in time order.

    rows: (user, item, category, type, timestamp) in the order of the file. Ties stay in that order;
    of exact duplicates the first stays.
    """
    sequences, met = defaultdict(list), set()
    for user, item, category, kind, time in rows:
        outside = window is not None and not window[0] <= time <= window[1]
        if outside or (only is not None and kind != only):
            continue
        if dedupe:
            if (user, item, category, kind, time) in met:
                continue
            met.add((user, item, category, kind, time))
        sequences[user].append((item, category, kind, time))
    return {u: sorted(s, key=lambda e: e[3]) for u, s in sequences.items() if len(s) >= least}


def categories(rows, sequences, window=(1511539200, 1512316799)):
    """Item -> the category of its earliest row of a user kept."""
    first = {}
    for place, (user, item, category, _, time) in enumerate(rows):
        if user not in sequences or not window[0] <= time <= window[1]:
            continue
        if item not in first or (time, place) < first[item][:2]:
            first[item] = (time, place, category)
    return {item: found[2] for item, found in first.items()}


def attribute(rows, who, at, *, own=None, shown=True):
    """What a row at a time knows of an attribute of a user or item.

    rows: (who, time, value or None) of the whole log; of one second in the order of delivery.
    own: what the row itself carries. shown: it is an impression, to which other rows of its second
    say nothing.
    """
    carried = [(time, place, value) for place, (user, time, value) in enumerate(rows)
               if user == who and value is not None]  # fmt: skip
    if not carried:
        return None
    time, _, value = min(carried)
    late = time > at or (shown and time == at and own is None)
    return None if late else value


def last_k(sequences, *, test=10, validation=1, least=1):
    """Positives of each split: (user, place in the sequence)."""
    found = {"train": [], "validation": [], "test": []}
    for user, sequence in sequences.items():
        for place in range(len(sequence)):
            left = len(sequence) - place
            split = (
                "test" if left <= test else "validation" if left <= test + validation else "train"
            )
            if place >= least:
                found[split].append((user, place))
    return found


def last_days(sequences, *, least=1):
    """As `last_k` where the user's last day is test and the one before validation; adds the cut."""
    found = {"train": [], "validation": [], "test": []}
    for user, sequence in sequences.items():
        days = sorted({e[3] for e in sequence})
        for place, event in enumerate(sequence):
            cut = sum(e[3] < event[3] for e in sequence)
            left = len(days) - days.index(event[3])
            split = {1: "test", 2: "validation"}.get(left, "train")
            if cut >= least:
                found[split].append((user, place, cut))
    return found


def seen_by_training(sequences, train):
    """The (user, place) that are training targets or stand in a training row's history."""
    last = defaultdict(lambda: -1)
    for user, place in train:
        last[user] = max(last[user], place)
    return {(u, k) for u in sequences for k in range(last[u] + 1)}


def candidates(sequences, positives, *, uniform=True, seen=False, pool=None):
    """Of each positive (user, place), the law of its negative: item -> probability.

    pool: the (user, place) that are drawn from, by default the positives.
    """
    counts = Counter(sequences[u][k][0] for u, k in (positives if pool is None else pool))
    weights = dict.fromkeys(counts, 1) if uniform else counts
    laws = []
    for user, place in positives:
        barred = {e[0] for e in sequences[user]} if seen else {sequences[user][place][0]}
        left = {item: weight for item, weight in weights.items() if item not in barred}
        total = sum(left.values())
        laws.append({item: weight / total for item, weight in left.items()})
    return laws


def sampled(users, share, seed):
    """The raw user ids that a share keeps."""

    def key(user):
        return (int(md5(user.encode()).hexdigest()[:12], 16) if isinstance(user, str) else user) % P

    return {u for u in users if u31([key(u)], f"{seed}/share") < int(share * P)}


def auc(positives, negatives):
    """Of two lists of scores: how often a positive is the higher, ties counted half."""
    wins = sum((p > n) + (p == n) / 2 for p in positives for n in negatives)
    return wins / (len(positives) * len(negatives))


def vocabulary(values):
    """Raw ids by falling frequency, ties by the raw id."""
    counts = Counter(values)
    return sorted(counts, key=lambda raw: (-counts[raw], raw))


def ordinal(sequence, place):
    """How many behaviours before this one have its item and time."""
    item, time = sequence[place][0], sequence[place][3]
    return sum(e[0] == item and e[3] == time for e in sequence[:place])


def dropped(rows, sequences, *, window=(1511539200, 1512316799), dedupe=True, only=None):
    """Rows left out by reason, each row by the first that applies, in this order."""
    found = {"window": 0, "type": 0, "duplicates": 0, "min_behaviours": 0}
    met = set()
    for row in rows:
        if window is not None and not window[0] <= row[4] <= window[1]:
            found["window"] += 1
        elif only is not None and row[3] != only:
            found["type"] += 1
        elif dedupe and row in met:
            found["duplicates"] += 1
        elif row[0] not in sequences:
            found["min_behaviours"] += 1
        met.add(row)
    return found


def u31(words, seed):
    """Horner's rule over Python's unbounded integers."""

    def constant(role, number):
        return (
            int.from_bytes(sha256(f"{seed}/{role}/{number}".encode()).digest()[:8], "big") % (P - 1)
            + 1
        )

    x = sum(constant("linear", j) * word for j, word in enumerate(words)) % P
    return sum(constant("cubic", d) * x**d for d in range(4)) % P
