"""Real signals, one after the other, in the middle of steps: the weights lie on a step's boundary whatever a handler raises."""

import os
import random
import signal
import threading
import time

import pytest
import torch
from torch import nn

from zolab import METHODS, MeZO
from zolab.probe.interrupts import DeferInterrupts

TRIALS = 100


class Stop(Exception):
    pass


def inside_a_step(frame):
    while frame is not None and frame.f_code.co_name not in ("step", "replay"):
        frame = frame.f_back
    return frame is not None


@pytest.fixture
def listen():
    """Handlers, as a host program sets them, that raise wherever they are called in a step, and nowhere else."""
    before, delivered = {}, []

    def handler(number, frame):
        delivered.append(number)
        if inside_a_step(frame):
            raise Stop(number)

    def install(*numbers):
        for number in numbers:
            before[number] = signal.signal(number, handler)
        return delivered, handler

    yield install
    for number, old in before.items():
        signal.signal(number, old)


class Sender(threading.Thread):
    """Sends signals to this process: a burst of them, a moment after it starts."""

    def __init__(self, generator, numbers):
        super().__init__()
        self.pauses = [generator.uniform(0, 0.008), *(generator.uniform(0, 0.0015 / len(numbers)) for _ in numbers[1:])]
        self.numbers = numbers

    def run(self):
        for pause, number in zip(self.pauses, self.numbers, strict=True):
            time.sleep(pause)
            os.kill(os.getpid(), number)


def wide(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(600, 500), nn.Linear(500, 200)).to(dtype)  # 0.4 million weights


def bits(model):
    return [p.detach().clone() for p in model.parameters()]


def same(model, saved):
    return all(torch.equal(p, q) for p, q in zip(model.parameters(), saved, strict=True))


def wrong_after_bursts(model, step, numbers, trials=TRIALS):
    """How often the weights are others than before, over so many bursts in the middle of steps of lr 0."""
    step()  # compiles
    step()
    saved, generator, wrong = bits(model), random.Random(0), 0
    for _ in range(trials):
        sender = Sender(generator, numbers)
        sender.start()
        while sender.is_alive():
            try:
                step()
            except Stop:
                wrong += not same(model, saved)
        sender.join()
        wrong += not same(model, saved)
        for p, q in zip(model.parameters(), saved, strict=True):
            p.data.copy_(q)
    return wrong


@pytest.mark.parametrize("through", [False, True], ids=["in place", "through"])
@pytest.mark.parametrize(
    "numbers",
    [[signal.SIGINT] * 2, [signal.SIGINT] * 3, [signal.SIGTERM, signal.SIGALRM, signal.SIGINT]],
    ids=["twice", "thrice", "three kinds"],
)
def test_interrupts_one_after_the_other_leave_the_weights_exactly(listen, numbers, through):
    delivered, handler = listen(*set(numbers))
    model, x = wide(), torch.ones(1, 600)
    optimizer = MeZO(model.named_parameters(), lr=0.0).look_through(model if through else None)
    assert wrong_after_bursts(model, lambda: optimizer.step(lambda: model(x).square().sum()), numbers) == 0
    assert len(delivered) > TRIALS / 2
    assert all(signal.getsignal(number) is handler for number in numbers)


def test_a_timer_of_the_host_that_goes_off_all_the_time(listen):
    delivered, _ = listen(signal.SIGALRM)
    model, x, stopped = wide(torch.bfloat16), torch.ones(1, 600, dtype=torch.bfloat16), 0
    saved, optimizer = bits(model), MeZO(model.named_parameters(), lr=0.0)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.003)
    try:
        for _ in range(TRIALS):
            try:
                optimizer.step(lambda: model(x).float().square().sum())
            except Stop:
                stopped += 1
            assert same(model, saved)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert stopped > TRIALS / 10  # a step may take less time than the timer, on a fast machine
    assert len(delivered) >= stopped


def test_a_step_inside_another_ones_closure(listen):
    listen(signal.SIGINT)
    outer, inner = wide(), wide()
    saved, x = bits(inner), torch.ones(1, 600)
    one, two = (MeZO(model.named_parameters(), lr=0.0) for model in (outer, inner))

    def closure():
        two.step(lambda: inner(x).square().sum())
        return outer(x).square().sum()

    assert wrong_after_bursts(outer, lambda: one.step(closure), [signal.SIGINT] * 3, 30) == 0
    assert same(inner, saved)


@pytest.mark.parametrize("name", ["mezo", "mezo_adam"])
def test_a_replay_that_is_broken_off_has_taken_whole_steps(listen, name):
    delivered, _ = listen(signal.SIGINT)
    model, x = wide(), torch.ones(1, 600)
    optimizer, at = METHODS[name](model.named_parameters(), lr=1e-4), [bits(model)]
    for _ in range(12):
        optimizer.step(lambda: model(x).square().mean())
        at.append(bits(model))
    generator = random.Random(0)
    for _ in range(10):
        base = wide()
        again, sender = METHODS[name](base.named_parameters(), lr=1e-4), Sender(generator, [signal.SIGINT] * 3)
        sender.start()
        while again.steps < 12:
            try:
                again.replay(optimizer.trajectory.records[again.steps :])
            except Stop:
                assert same(base, at[again.steps])
        sender.join()
        assert same(base, at[12])
    assert delivered


def test_what_comes_during_a_pass_is_delivered_once_each_when_the_weights_are_back(listen):
    delivered, _ = listen(signal.SIGINT, signal.SIGTERM)
    with DeferInterrupts() as interrupts:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        assert not delivered
        interrupts.allow()
        assert sorted(delivered) == [signal.SIGINT, signal.SIGTERM]
        signal.raise_signal(signal.SIGINT)
        interrupts.hold()
        signal.raise_signal(signal.SIGTERM)
        assert len(delivered) == 3
    assert delivered[-1] == signal.SIGTERM
    assert len(delivered) == 4


def test_every_handler_is_called_and_given_back_although_one_raises():
    delivered = []

    def handler(number, frame):
        delivered.append(number)
        raise Stop(number)

    numbers = (signal.SIGUSR1, signal.SIGUSR2)
    before = [signal.signal(number, handler) for number in numbers]
    try:
        with pytest.raises(Stop), DeferInterrupts() as interrupts:
            for number in numbers:
                signal.raise_signal(number)
            try:
                interrupts.allow()
            finally:
                assert len(delivered) == 1  # the other one is held until the block is left
        assert sorted(delivered) == sorted(numbers)
        assert all(signal.getsignal(number) is handler for number in numbers)
    finally:
        for number, old in zip(numbers, before, strict=True):
            signal.signal(number, old)


def test_a_handler_of_the_host_in_c_stays(monkeypatch):
    """Python knows no handler then: `getsignal` gives None, and `signal` would not take it back."""
    from zolab.probe import interrupts

    getsignal = interrupts.getsignal
    monkeypatch.setattr(interrupts, "getsignal", lambda number: None if number == signal.SIGINT else getsignal(number))
    before = signal.getsignal(signal.SIGINT)
    parameter = nn.Parameter(torch.ones(3))
    MeZO([parameter], lr=0.1).step(lambda: parameter.sum())
    assert signal.getsignal(signal.SIGINT) is before


def test_a_step_in_another_thread_than_the_main_one(listen):
    delivered, _ = listen(signal.SIGINT)
    model, x, losses = wide(), torch.ones(1, 600), []
    saved, optimizer = bits(model), MeZO(model.named_parameters(), lr=0.0)
    thread = threading.Thread(target=lambda: [losses.append(optimizer.step(lambda: model(x).sum())) for _ in range(10)])
    thread.start()
    while thread.is_alive():
        signal.raise_signal(signal.SIGINT)
        thread.join(0.01)
    assert len(losses) == 10
    assert same(model, saved)
    assert delivered
