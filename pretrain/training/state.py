"""The state of training as a checkpoint stores and restores it."""

from __future__ import annotations

from pretrain.checkpoints import weights
from pretrain.slimmable import calibration_state
from pretrain.training.build import Training
from rundir.errors import UserError


def of(training: Training, gathering: bool) -> dict:
    """Weights, optimizer, teacher, statistics and, while gradients are ``gathering`` over steps, those so far."""
    student = training.student
    return {
        **{name: module.state_dict() if module is not None else None for name, module in _modules(training).items()},
        "seed_teacher": weights.fingerprint(training.teacher) if training.frozen else None,
        "touched": [name for name, p in student.named_parameters() if p in training.regularizer.touched],
        "gradients": {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None and gathering},
        "optimizer": training.optimizer.state_dict(),
        "scaler": training.scaler.state_dict(),
        "regularizer": training.regularizer.state(),
        "calibration": calibration_state(student.encoder),
    }


def restore(training: Training, payload: dict) -> None:
    """Put back what :func:`of` has returned.

    Raises:
        UserError: the frozen teacher is another one.
    """
    if training.frozen and payload["seed_teacher"] != weights.fingerprint(training.teacher):
        raise UserError(
            f"objective.seed_teacher={training.cfg.objective.seed_teacher} has other weights than when this run began; "
            "put them back, or start in another run directory"
        )
    for name, module in _modules(training).items():
        if module is not None:
            module.load_state_dict(payload[name])
    training.optimizer.load_state_dict(payload["optimizer"])
    student = training.student
    touched = [student.get_parameter(name) for name in payload.get("touched", ())]
    training.regularizer.touch(touched)
    for parameter in touched if training.gradients else ():
        training.gradients.settle(parameter)
    for name, gradient in payload.get("gradients", {}).items():
        parameter = student.get_parameter(name)
        if training.gradients:
            training.gradients.settle(parameter, gradient)
        else:
            parameter.grad = gradient.to(training.device)
    training.scaler.load_state_dict(payload["scaler"])
    training.regularizer.restore(payload.get("regularizer", {}))


def _modules(training: Training) -> dict:
    """What has weights of its own, by name; None where there is none, and of a teacher that is another run's."""
    student, memory = training.student, training.objective.state
    return {
        "encoder": student.encoder,
        "projector": student.projector,
        "predictor": student.predictor,
        "distill_head": student.distill_head,
        "decoder": student.decoder,
        "adapters": student.adapters,
        "teacher": None if training.frozen else training.teacher,
        "queue": training.queue,
        "base_loss": memory if any(True for _ in memory.buffers()) else None,
    }
