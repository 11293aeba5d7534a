"""The losses of MoCo v2, MoCo v3 and SEED against loops in float64, and the queue against a list."""

import math
from collections import deque

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.config import ObjectiveConfig
from pretrain.objective.losses import Pairing, infonce_keys, infonce_queue, loss_weights, seed
from pretrain.objective.queue import Queue


def unit(row):
    length = math.sqrt(sum(v * v for v in row))
    return [v / length for v in row]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def distribution(scores):
    """Softmax of a list, from its definition, moved to be in range."""
    powers = [math.exp(s - max(scores)) for s in scores]
    return [p / sum(powers) for p in powers]


def slow_queue(student, target, queue, temperature):
    total = 0.0
    for s, t in zip(student.tolist(), target.tolist(), strict=True):
        s, t = unit(s), unit(t)
        total -= math.log(distribution([dot(s, k) / temperature for k in [t, *queue]])[0])
    return total / len(student)


def slow_keys(student, target, temperature):
    keys, total = [unit(t) for t in target.tolist()], 0.0
    for i, s in enumerate(student.tolist()):
        total -= math.log(distribution([dot(unit(s), k) / temperature for k in keys])[i])
    return 2 * temperature * total / len(student)


def slow_seed(student, target, queue, student_temperature, teacher_temperature):
    total = 0.0
    for s, t in zip(student.tolist(), target.tolist(), strict=True):
        s, t = unit(s), unit(t)
        anchors = [*queue, t]
        guided = distribution([dot(s, k) / student_temperature for k in anchors])
        guiding = distribution([dot(t, k) / teacher_temperature for k in anchors])
        total -= sum(p * math.log(q) for p, q in zip(guiding, guided, strict=True) if p > 0)
    return total / len(student)


def rows(*sizes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 6, generator=generator, dtype=dtype) for size in sizes]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_moco_v2_and_v3(dtype, temperature):
    student, target = (x.to(dtype) for x in rows(7, 7))
    queue = Queue(19, 6, seed=3, dtype=torch.float64 if dtype == torch.float64 else torch.float32).rows
    close = {"abs": 1e-10 if dtype == torch.float64 else 3e-5}
    assert float(infonce_queue(student, target, queue, temperature)) == pytest.approx(
        slow_queue(student, target, queue.tolist(), temperature), **close
    )
    assert float(infonce_keys(student, target, temperature)) == pytest.approx(slow_keys(student, target, temperature), **close)


@pytest.mark.parametrize(("student_temperature", "teacher_temperature"), [(0.2, 0.01), (0.5, 0.5), (1.0, 0.07)])
def test_seed(student_temperature, teacher_temperature):
    student, target = rows(7, 7)
    queue = Queue(19, 6, seed=3, dtype=torch.float64).rows
    value = seed(student, target, queue, student_temperature, teacher_temperature)
    assert float(value) == pytest.approx(
        slow_seed(student, target, queue.tolist(), student_temperature, teacher_temperature), abs=1e-10
    )
    value32 = seed(student.float(), target.float(), queue.float(), student_temperature, teacher_temperature)
    assert float(value32) == pytest.approx(float(value), abs=1e-4)


def test_seed_is_least_where_the_student_is_the_teacher():
    """With equal temperatures the cross-entropy's minimum is the teacher's entropy, reached by the teacher's own directions."""
    (target,) = rows(5)
    queue = Queue(40, 6, seed=1, dtype=torch.float64).rows
    student = (3 * target).requires_grad_()
    least = seed(student, target, queue, 0.2, 0.2)
    least.backward()
    assert student.grad.abs().max() < 1e-12
    for other in rows(5, 5, 5, seed=4):
        assert float(seed(other, target, queue, 0.2, 0.2)) > float(least.detach())


@pytest.mark.parametrize(
    "loss",
    [
        lambda s, t, q: infonce_queue(s, t, q, 0.2),
        lambda s, t, q: infonce_keys(s, t, 0.2),
        lambda s, t, q: seed(s, t, q, 0.2, 0.01),
    ],
)
def test_only_the_student_has_a_gradient(loss):
    student, target = (x.requires_grad_() for x in rows(4, 4))
    queue = Queue(9, 6, seed=0, dtype=torch.float64).rows
    loss(student, target, queue).backward()
    assert target.grad is None and student.grad.abs().sum() > 0
    assert torch.autograd.gradcheck(lambda s: loss(s, target.detach(), queue), student.detach().requires_grad_())


def test_pairings():
    a, b, c, d = rows(2, 2, 2, 2)

    def sum_of_products(s, t):
        return (s * t).sum()

    own, crossed = Pairing("mean", False), Pairing("mean", True)
    assert float(own(sum_of_products, (a, b), (c, d))) == pytest.approx(float(((a * c).sum() + (b * d).sum()) / 2))
    assert float(crossed(sum_of_products, (a, b), (c, d))) == pytest.approx(float(((a * d).sum() + (b * c).sum()) / 2))


# -- the queue --------------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.lists(st.integers(1, 12), max_size=6))
def test_a_queue_keeps_the_newest(size, batches):
    queue = Queue(size, 3, seed=5)
    expected = deque(queue.rows.tolist(), maxlen=size)
    for number, count in enumerate(batches):
        new = torch.randn(min(count, size), 3, generator=torch.Generator().manual_seed(number))
        queue.enqueue(*new.split(2))
        expected.extend(torch.nn.functional.normalize(new, dim=1).tolist())
    ordered = [queue.rows.tolist()[(int(queue.position) + i) % size] for i in range(size)]
    torch.testing.assert_close(torch.tensor(ordered), torch.tensor(list(expected)))
    assert torch.allclose(queue.rows.norm(dim=1), torch.ones(size))


def test_a_queue_starts_as_its_seed_says_and_goes_through_its_state():
    one, same, other = Queue(8, 4, seed=1), Queue(8, 4, seed=1), Queue(8, 4, seed=2)
    assert torch.equal(one.rows, same.rows) and not torch.equal(one.rows, other.rows)
    targets = torch.randn(3, 4)
    one.enqueue(targets)
    assert not one.rows.requires_grad and list(one.parameters()) == []
    other.load_state_dict(one.state_dict())
    for queue in (one, other):
        queue.enqueue(targets.flip(0))
    assert torch.equal(one.rows, other.rows) and torch.equal(one.position, other.position)
    with pytest.raises(ValueError, match="9 targets do not fit in a queue of 8"):
        one.enqueue(torch.randn(5, 4), torch.randn(4, 4))


def _rank(rank, store, out):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    student, target = (x[3 * rank : 3 * rank + 3] for x in rows(6, 6))
    queue = Queue(10, 6, seed=1, dtype=torch.float64)
    queue.enqueue(target[:1], target[1:])
    torch.save({"rows": queue.rows, "keys": infonce_keys(student, target, 0.2, gather=True)}, f"{out}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_have_one_queue_and_one_set_of_keys(tmp_path):
    mp.start_processes(_rank, (str(tmp_path / "store"), str(tmp_path)), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    alone = Queue(10, 6, seed=1, dtype=torch.float64)
    student, target = rows(6, 6)
    alone.enqueue(target)
    assert torch.equal(first["rows"], second["rows"]) and torch.equal(first["rows"], alone.rows)
    assert float(first["keys"] + second["keys"]) / 2 == pytest.approx(slow_keys(student, target, 0.2))


# -- weights of the losses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings_", "widths", "expected"),
    [
        ({}, [1.0, 0.5, 0.25], [1, 1, 1]),
        ({"distill_weight": 0.3}, [1.0, 0.5, 0.25], [1, 0.3, 0.3]),
        ({"distill_weight": 0.3, "distill_loss": "none"}, [1.0, 0.5], [1, 1]),
        ({"width_weights": "slimclr"}, [1.0, 0.75, 0.5, 0.25], [2.5, 1, 1, 1]),
        ({"width_weights": "slimclr", "distill_weight": 2.0}, [0.9, 0.5], [1.5, 2]),
        ({"width_weights": "slimclr"}, [1.0], [1]),
    ],
)
def test_weights_of_the_widths(settings_, widths, expected):
    assert loss_weights(ObjectiveConfig(**settings_), widths) == pytest.approx(expected)
