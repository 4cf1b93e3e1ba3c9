"""Which calls of a body become CUDA graphs, on a pretended GPU: its graphs run their call again when they are replayed."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from zolab.probe import graphs as module
from zolab.probe.graphs import SEEN, Graphs
from zolab.probe.scratch import ScratchPool


class Event:
    """It says that the GPU was at work for so many milliseconds."""

    milliseconds = 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        pass

    def synchronize(self):
        pass

    def elapsed_time(self, done):
        return Event.milliseconds


class Graph:
    """What is inside `capturing` while it lasts."""

    latest: "Graph"

    def __init__(self):
        Graph.latest = self
        self.replay = lambda: None


@contextmanager
def capturing(graph, pool):
    yield


@pytest.fixture
def graphs(monkeypatch):
    for name, fake in {"Event": Event, "CUDAGraph": Graph, "graph": capturing, "graph_pool_handle": object}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(module.time, "perf_counter", iter(range(10**6)).__next__)  # a launch takes a second
    body = nn.Linear(3, 3).requires_grad_(False).eval()
    return Graphs(body, ScratchPool()), body


def call(graphs, body, x):
    """As a doubled call is made; returns its output and how it came about."""
    key = graphs.key([x], None, (False,))
    if replayed := graphs.replay(key, [x]):
        return replayed[0], "replayed"
    due = graphs.is_due(key)
    if not due:
        return body(x), "launched"
    with graphs.timed():
        out = body(x)
    before = len(graphs.captured)
    graphs.capture(key, [x], (0,), lambda inputs: body(*inputs))
    if len(graphs.captured) == before:
        return out, "timed"
    captured = graphs.captured[key]
    Graph.latest.replay = lambda: captured.output.copy_(body(*captured.inputs))
    return out, "captured"


def test_a_call_that_keeps_the_gpu_waiting_becomes_a_graph(graphs):
    Event.milliseconds = 1010.0
    ways = []
    for step in range(SEEN + 2):
        x = torch.randn(4, 3)
        out, way = call(*graphs, x)
        assert torch.equal(out, graphs[1](x)), step
        ways.append(way)
    assert ways == ["launched"] * (SEEN - 1) + ["captured", "replayed", "replayed"]


def test_a_call_whose_launches_hide_is_timed_once(graphs):
    Event.milliseconds = 5000.0
    assert [call(*graphs, torch.randn(4, 3))[1] for _ in range(SEEN + 2)] == ["launched"] * (SEEN - 1) + ["timed"] + [
        "launched"
    ] * 2
    Event.milliseconds = 1000.0
    assert [call(*graphs, torch.randn(2, 3))[1] for _ in range(SEEN)][-1] == "captured"  # a shorter batch by itself


def test_where_weights_lie_elsewhere_a_new_graph_is_made(graphs):
    Event.milliseconds = 1000.0
    for _ in range(SEEN + 1):
        _, way = call(*graphs, torch.randn(4, 3))
    assert way == "replayed"
    body = graphs[1]
    body.weight = nn.Parameter(torch.randn(3, 3), requires_grad=False)
    x = torch.randn(4, 3)
    out, way = call(*graphs, x)
    assert way == "captured"
    assert torch.equal(out, body(x))


@pytest.mark.parametrize("change", ["train", "hook", "family"])
def test_what_a_graph_would_pass_over_is_launched(graphs, change):
    one, body = graphs
    key = one.key([torch.zeros(2, 3)], None, (False,))
    if change == "family":
        assert one.key([torch.zeros(2, 3)], None, (False, 2)) != key
        return
    body.train() if change == "train" else body.register_forward_hook(lambda *a: None)
    assert one.key([torch.zeros(2, 3)], None, (False,)) is None
