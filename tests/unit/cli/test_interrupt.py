"""Ctrl-C and SIGTERM: they end what may be cut, and nothing else."""

from __future__ import annotations

import signal

import pytest

from fanout.cli.interrupt import Interruption, on_interrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_taken_while_it_is_waited_for_and_handed_back_afterwards(number: int) -> None:
    before = signal.getsignal(number)
    came: list[str] = []
    with on_interrupt(lambda: came.append("came")):
        signal.raise_signal(number)
        signal.raise_signal(number)
    assert came == ["came"] * 2
    assert signal.getsignal(number) is before


def test_what_may_be_cut_ends_at_once_and_the_rest_goes_on() -> None:
    interruption = Interruption()
    done: list[str] = []
    interruption.set()
    done.append("what goes on")
    with interruption.may_be_cut():
        interruption.set()
        done.append("what is cut")
    assert done == ["what goes on"]
    assert interruption.came
    assert interruption.stopped.is_set()
    interruption.set()


def test_an_interrupt_of_somebody_else_is_passed_on() -> None:
    with pytest.raises(KeyboardInterrupt), Interruption().may_be_cut():
        raise KeyboardInterrupt
