"""What a person sees while a model trains: no speed and no time left before they mean something."""

import logging

import pytest

from at4ctr.progress import Progress


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def lines(caplog, total, seconds, start=0, every=15.0):
    """The lines of steps that take these seconds, the first one first."""
    clock = Clock()
    found = Progress(total, 64, start=start, every=every, clock=clock)
    with caplog.at_level(logging.INFO, "at4ctr.progress"):
        for step, took in enumerate(seconds, start + 1):
            clock.now += took
            found.update(step, {"click": 0.5 + 0.25 * (step % 2)}, wait=took / 4)
    return [r.getMessage() for r in caplog.records]


def test_the_first_step_tells_neither_speed_nor_time_left(caplog):
    assert lines(caplog, 209, [30.0]) == ["step 1/209  click 0.7500"]


def test_speed_and_time_left_are_of_the_steps_after_it(caplog):
    first, *_, last = lines(caplog, 101, [30.0, *[2.0] * 50])
    assert first == "step 1/101  click 0.7500"
    assert last.startswith("step 49/101  32 examples/s   104 s left  input 25%  click 0.6")


@pytest.mark.parametrize(("total", "seconds", "told"), [(1001, [5.0] * 12, False),
                                                        (1001, [5.0] * 30, True),
                                                        (21, [0.4] * 20, False)])  # fmt: skip
def test_time_left_needs_seconds_and_a_share_of_the_work(caplog, total, seconds, told):
    found = lines(caplog, total, [0.1, *seconds], every=5.0)
    assert found
    assert ("s left" in found[-1]) == told


def test_a_resumed_run_counts_its_own_steps(caplog):
    found = lines(caplog, 1000, [20.0, *[2.0] * 16], start=900)
    assert found[-1].startswith("step 917/1000  32 examples/s   166 s left")


def test_of_a_single_step_there_is_one_line(caplog):
    assert lines(caplog, 1, [0.5]) == ["step 1/1  click 0.7500"]
