"""Latency of single images, and what records say of it."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from torch import nn

from transfer import latency
from transfer.classification import Options, evaluate
from transfer.classification.task import Task
from transfer.latency import WARM_UP, device_name, latency_ms
from transfer.run import main

QUICK = Options(limit=200)


class Clock:
    """Stands for the module ``time``: no other program on the machine makes a pass longer."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    stand_in = Clock()
    monkeypatch.setattr(latency, "time", stand_in)
    return stand_in


class Timed(nn.Module):
    """Takes the next of ``seconds`` for each pass, the last one again and again."""

    def __init__(self, clock: Clock, *seconds: float):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.clock, self.seconds, self.seen = clock, list(seconds), []

    def forward(self, x):
        self.seen.append(x)
        self.clock.now += self.seconds[min(len(self.seen), len(self.seconds)) - 1]
        return x


def test_neither_the_warm_up_nor_delayed_passes_nor_a_slow_round_count(clock):
    rounds = [0.2, 0.02, 0.02], [0.1, 0.1, 0.1], [0.02, 0.2, 0.03]
    network = Timed(clock, *[0.3] * WARM_UP, *itertools.chain(*rounds))
    assert latency_ms(network, 8, rounds=3, passes=3) == pytest.approx(20)
    assert len(network.seen) == WARM_UP + 9
    assert {tuple(x.shape) for x in network.seen} == {(1, 3, 8, 8)}


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 3), (0.12, 3), (0.22, 5), (0.48, 10)])
def test_a_slow_network_gets_few_passes(clock, seconds, expected):
    network = Timed(clock, 0.05)
    assert latency_ms(network, 8, passes=5, seconds=seconds) == pytest.approx(50)
    assert len(network.seen) - WARM_UP == expected


def test_measuring_draws_no_random_numbers():
    torch.manual_seed(3)
    latency_ms(Timed(Clock(), 0.0), 8)
    after = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(4), after)


def test_the_device_is_named_with_its_threads():
    assert device_name(torch.device("cpu")).endswith(("thread", "threads"))
    assert str(torch.get_num_threads()) in device_name(torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_is_waited_for():
    wide = nn.Sequential(*[nn.Conv2d(3, 3, 31, padding=15) for _ in range(20)]).cuda()
    device = torch.device("cuda")
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    image = torch.randn(1, 3, 256, 256, device=device)
    with torch.no_grad():
        for _ in range(5):
            wide(image)
        start.record()
        wide(image)
        end.record()
    torch.cuda.synchronize()
    assert latency_ms(wide, 256) > 0.5 * start.elapsed_time(end)
    assert device_name(device) == torch.cuda.get_device_name(device)


def test_records_say_how_long_an_image_takes_and_on_what(run_directory):
    records = evaluate(run_directory, widths=[1.0, 0.5], options=QUICK)
    by_width = {width: {r["latency_ms"] for r in records if r["width"] == width} for width in (1.0, 0.5)}
    assert all(len(values) == 1 for values in by_width.values())  # measured once, for both protocols
    assert all(0 < value < 1000 for values in by_width.values() for value in values)
    assert {r["latency_on"] for r in records} == {device_name(torch.device("cpu"))}


def test_older_records_get_a_latency_and_keep_their_scores(run_directory, monkeypatch, capsys):
    records = evaluate(run_directory, widths=[0.5], protocols=["knn"], options=QUICK)
    path = run_directory / "result.json"
    content = json.loads(path.read_text())
    for record in content["records"]:
        del record["latency_ms"], record["latency_on"]
        record["value"] = 0.4321
    path.write_text(json.dumps(content))
    monkeypatch.setattr(Task, "prepare", None)  # no score is computed
    where = ["--checkpoint", str(run_directory)]
    assert main(["classification", *where, "--widths", "0.5", "--protocol", "knn", "--limit", "200"]) == 0
    [timed] = json.loads(path.read_text())["records"]
    assert timed == records[0] | {"value": 0.4321, "latency_ms": timed["latency_ms"]} and timed["latency_ms"] > 0
    shown = capsys.readouterr().out
    assert "ms per image" in shown and "43.2" in shown
