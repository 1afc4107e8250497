"""The gates of the nightly job: is the day's log sound, and is the candidate as good as the live
model?

`statistics` counts a day's log, `data` compares it with the days before, `model` compares a
candidate with the incumbent, which is the live model. All are pure functions: they decide, and the
job acts.
"""
