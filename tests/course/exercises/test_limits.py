"""Limits around an answer: time, and random states that stay as they were."""

import random
import signal
import threading
import time

import numpy as np
import pytest
import torch
from checking import is_right
from small_exercises import DOUBLE

from kt_course.exercises.check import judge
from kt_course.exercises.limits import TimeLimit, not_timed, time_limit


def endless(x):
    while True:
        pass


def refusing(x):
    while True:
        try:
            endless(x)
        except Exception:
            pass


@pytest.mark.parametrize("answer", [endless, refusing])
def test_an_endless_loop_is_stopped(answer):
    began = time.monotonic()
    verdict = judge(DOUBLE, answer, seconds=0.3)
    assert verdict.status == "wrong" and "stopped after 0.3 seconds" in verdict.diagnosis
    assert time.monotonic() - began < 5


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer's signal on this platform")
def test_the_timer_comes_again_and_leaves_another_one_running():
    came = []
    before = signal.signal(signal.SIGALRM, lambda *where: came.append(1))
    signal.setitimer(signal.ITIMER_REAL, 60)
    try:
        tries = []

        def at_most_twice(x):
            while len(tries) < 2:
                try:
                    endless(x)
                except BaseException:
                    tries.append(1)
            endless(x)

        assert "stopped after" in judge(DOUBLE, at_most_twice, seconds=0.2).diagnosis
        assert 30 < signal.getitimer(signal.ITIMER_REAL)[0] < 60
        assert signal.getsignal(signal.SIGALRM)(0, 0) is None and came == [1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_answer_is_judged_outside_the_main_thread_without_a_limit():
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(judge(DOUBLE, lambda x: x + x)))
    thread.start()
    thread.join(10)
    assert verdicts[0].status == "right"


def test_an_answer_is_judged_without_a_timer(monkeypatch):
    monkeypatch.delattr(signal, "setitimer")
    is_right(DOUBLE, lambda x: x + x)


def test_random_states_stay():
    def answer(x):
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        torch.rand(3), np.random.rand(3), random.random()
        return x * 2

    is_right(DOUBLE, answer)  # judged() compares the states


def test_ctrl_c_is_no_verdict():
    def answer(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge(DOUBLE, answer)


def test_a_module_is_imported_to_its_end_and_the_time_starts_again(tmp_path, monkeypatch):
    (tmp_path / "slow_module.py").write_text("import time\ntime.sleep(0.3)\nDONE = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    with time_limit(0.1):
        import slow_module
    assert slow_module.DONE
    with pytest.raises(TimeLimit), time_limit(0.1):
        endless(0)


def test_work_that_is_not_the_learners_costs_no_time():
    def work():
        with not_timed():
            time.sleep(0.4)
        done.append(time.monotonic())
        while True:  # the limit holds again
            pass

    done = []
    with pytest.raises(TimeLimit), time_limit(0.2):
        work()
    assert len(done) == 1
