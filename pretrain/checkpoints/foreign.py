"""Checkpoints that others wrote: the authors of US3L, and torchvision's and timm's ResNets, MobileNetV2s and ViTs.

The authors' files hold ``epoch``, ``arch`` (``us_cifar_resnet18``, ``us_vit_tiny``, ...), ``optimizer`` and ``state_dict``, whose
names begin with ``module.encoder_q.`` (student), ``module.encoder_k.`` (momentum teacher), ``module.predictor.`` and
``module.predictor_new.`` (distillation head); of ViTs with ``module.base_encoder.`` and ``module.momentum_encoder.``. Then come
this project's names and the projector as ``fc`` or ``head``. Their networks work at any width. Running BatchNorm statistics
that some of them carry are a mixture over widths and are not used (METHOD section 3): a width is calibrated instead.

All others are dense networks, used at width 1.0 with their running statistics. A network is found by a name that only its family
has, whatever its prefix.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from pretrain.checkpoints import dense
from pretrain.checkpoints.checkpoint import Checkpoint
from pretrain.checkpoints.dense import names_of, words
from pretrain.checkpoints.inert import StandIn, StoredTensor, parts_of, printable
from pretrain.checkpoints.weights import load_weights
from pretrain.config import Config, DataConfig, ModelConfig, WidthsConfig
from pretrain.models import ARCHITECTURES, build
from pretrain.models.dense import CIFAR_SIZE, FAMILIES, HEADS, IMAGENET_SIZE, MOCO_V3_HEADS, DenseEncoder, Untold
from pretrain.models.encoder import Encoder
from rundir.errors import UserError

BRANCHES = ("student", "teacher")
# A parameter that only one family of networks has.
ANCHORS = {
    "layer1.0.conv1.weight": "resnet",
    "features.1.body.0.weight": "mobilenetv2",
    "patch_embed.proj.weight": "vit",
    "features.1.conv.0.0.weight": "mobilenetv2_torchvision",
    "conv_stem.weight": "mobilenetv2_timm",
    "conv_proj.weight": "vit_torchvision",
}
# Words in the prefixes of a momentum teacher: encoder_k (the authors, MoCo), momentum_encoder (MoCo v3),
# teacher (DINO, iBOT), state_dict_ema (timm), model_ema (torchvision), momentum_backbone (solo-learn), backbone_momentum (lightly),
# target_encoder (byol-pytorch, I-JEPA), target_net (mmselfsup), key_encoder.
TEACHER_WORDS = {"k", "key", "momentum", "teacher", "ema", "target"}
STUDENT_WORDS = {"q", "query", "student", "online"}
SELF_SUPERVISED = {"encoder_q", "encoder_k", "base_encoder", "momentum_encoder"}
STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")
LOWEST_WIDTH = 0.25  # of the authors' networks, whose files do not say it (METHOD section 1)
US = "us_"  # begins the authors' names of slimmable networks
DEEPEST, MOST_MAPPINGS = 40, 100_000  # mappings in mappings that are searched for tensors


def adopt(payload: object, path: Path, branch: str = "student", arch: str | None = None) -> Checkpoint:
    """The encoder in ``payload``, which :func:`pretrain.checkpoints.reading.read` got from ``path``.

    Args:
        branch: ``student`` or ``teacher``, where the file holds both; or the prefix of one of its networks.
        arch: the authors' or this project's name of a slimmable network, where the file does not name it; or a family of dense
            networks and settings to override (:class:`~pretrain.models.dense.Untold`): ``resnet,padding=2``.

    Raises:
        UserError: there is no known network in it, not this branch, or its weights do not fit: the first that does not is named.
    """
    tensors = dict(_tensors(payload))
    found = {
        name[: -len(anchor)]: family
        for name in tensors
        for anchor, family in ANCHORS.items()
        if name == anchor or name.endswith("." + anchor)
    }
    if not found:
        raise UserError(
            f"{path} is not a checkpoint of this project, of the authors of US3L, nor a ResNet, MobileNetV2 or ViT of "
            f"torchvision or timm ({_described(tensors, payload)})"
        )
    prefix = _choose(found, tensors, path, branch)
    family = found[prefix]
    within = tuple(other for other in found if other != prefix and other.startswith(prefix))
    state = {
        name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix) and not name.startswith(within)
    }
    named = arch or _said(payload, "arch", str, "")
    epoch = _said(payload, "epoch", int, 0)
    if not _asks_for_dense(arch, family, path) and (arch or _is_slimmable(named, family, prefix, state)):
        slimmable = _slimmable(state, family, named, path, epoch, branch)
        if not named:  # MoCo v3's ViTs have the same names and, without their heads, no other sign
            print(
                f"note: taken for a slimmable {slimmable.arch} of US3L's authors, since {path} does not say what it is and its "
                f"network is called {prefix.rstrip('.')}; where it is an ordinary one set --arch {family}",
                flush=True,
            )
        return slimmable
    heads = MOCO_V3_HEADS if SELF_SUPERVISED & set(prefix.split(".")) else HEADS
    untold = Untold.parse((arch or "").partition(",")[2], heads)
    network = dense.load(state, family, path, untold, names_of(payload))
    if network.note:
        print(network.note, flush=True)
    return _checkpoint(network.encoder, family, network.encoder.size, path, epoch, branch, network.aside)


def _checkpoint(
    encoder: Encoder, arch: str, size: int, path: Path, epoch: int, branch: str, behind: dict[str, Tensor]
) -> Checkpoint:
    low = 1.0 if isinstance(encoder, DenseEncoder) else LOWEST_WIDTH
    config = Config(model=ModelConfig(arch=arch), data=DataConfig(name="", size=size), widths=WidthsConfig(min=low, max=1.0))
    return Checkpoint(encoder, config, path, epoch, branch, foreign=True, behind=behind)


def _said(payload: object, key: str, kind: type, default):
    value = payload.get(key) if isinstance(payload, dict) else None
    return value if isinstance(value, kind) else default


def _asks_for_dense(arch: str | None, family: str, path: Path) -> bool:
    """Whether ``--arch`` is a family of dense networks; :class:`UserError` for another than ``family``, or an unknown name."""
    name, comma, settings = (arch or "").partition(",")
    if not arch or _own_name(arch):
        return False
    if name not in FAMILIES:
        known = ", ".join(name for name in ARCHITECTURES if not name.endswith("_heads"))
        raise UserError(
            f"unknown architecture {arch!r}; set --arch to us_ and a name of the authors, to one of {known}, or to one "
            f"of {', '.join(FAMILIES)} with settings (resnet,padding=2)"
        )
    if name != family:
        raise UserError(f"{path} holds a {family}, not a {name}; set --arch {family}{comma}{settings}")
    return True


def _tensors(payload: object) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested mappings and modules, by its dotted name; an optimizer's are not of interest."""
    waiting, searched = deque([("", payload, 0)]), 0
    while waiting and searched < MOST_MAPPINGS:  # a file may hold itself, or one mapping at exponentially many places
        prefix, value, depth = waiting.popleft()
        searched += 1
        for key, part in (parts_of(value) or {}).items():
            key = printable(key)
            if isinstance(part, Tensor):
                yield f"{prefix}{key}", part.as_subclass(Tensor) if isinstance(part, StoredTensor) else part.detach()
            elif key != "optimizer" and depth < DEEPEST:
                waiting.append((f"{prefix}{key}.", part, depth + 1))


def _choose(found: Iterable[str], tensors: dict[str, Tensor], path: Path, branch: str) -> str:
    """The prefix of the requested branch's network among all that were ``found``."""
    names = {prefix.rstrip(".") or ".": prefix for prefix in found}
    if branch not in BRANCHES:
        if branch not in names:
            raise UserError(f"unknown branch {branch!r} of {path}; set --branch to student, teacher or one of {', '.join(names)}")
        return names[branch]
    mine = [prefix for prefix in found if bool(TEACHER_WORDS & words(prefix)) == (branch == "teacher")]
    if not mine:
        raise UserError(f"{path} holds no {branch}; set --branch {'teacher' if branch == 'student' else 'student'}")
    mine = _different(mine, tensors)
    told = [prefix for prefix in mine if STUDENT_WORDS & words(prefix)]
    mine = told if len(told) == 1 else mine
    if len(mine) > 1:
        shown = ", ".join(name for name, prefix in names.items() if prefix in mine)
        raise UserError(f"{path} holds several networks ({shown}); set --branch to one of these names")
    return mine[0]


def _different(found: Iterable[str], tensors: dict[str, Tensor]) -> list[str]:
    """Without networks that are another one again, by the same tensors."""
    kept: list[str] = []
    for prefix in found:
        own = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if not any(all(_same(tensor, tensors.get(other + name)) for name, tensor in own.items()) for other in kept):
            kept.append(prefix)
    return kept


def _same(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def _described(tensors: dict[str, Tensor], payload: object) -> str:
    """What a file holds instead of a network that we know."""
    first = next(iter(tensors), None)
    if first:
        return f"its first tensor is {first[:100]}"
    values = [payload, *payload.values()] if isinstance(payload, Mapping) else [payload]
    kinds = [value if isinstance(value, type) else type(value) for value in values]
    other = next((kind.path for kind in kinds if issubclass(kind, StandIn)), "")
    advice = f" but a {other}; where it was written, save its weights: torch.save(model.state_dict(), 'weights.pth')"
    return "it holds no tensors" + (advice if other else "")


def _is_slimmable(arch: str, family: str, prefix: str, state: dict[str, Tensor]) -> bool:
    if arch:
        return arch.startswith(US) or family == "mobilenetv2"
    # The authors' BatchNorms have no running statistics; MoCo's dense ones, of the same prefixes, have.
    ours = family == "mobilenetv2" or (family in ("resnet", "vit") and bool(SELF_SUPERVISED & set(prefix.split("."))))
    return ours and not (family == "resnet" and "bn1.running_mean" in state)


def _slimmable(state: dict[str, Tensor], family: str, named: str, path: Path, epoch: int, branch: str) -> Checkpoint:
    arch = _own_name(named) or _by_shapes(state, family, path)
    encoder = build(arch)
    state, behind = dense.split(state, encoder)
    state = {name: tensor for name, tensor in state.items() if not name.endswith(STATISTICS)}
    load_weights(encoder, state, path, f"{named} ({arch})" if named not in ("", arch) else arch)
    own_size = encoder.patch_size * encoder.grid_size if family == "vit" else IMAGENET_SIZE
    return _checkpoint(encoder, arch, CIFAR_SIZE if arch.endswith("_cifar") else own_size, path, epoch, branch, behind)


def _own_name(arch: str) -> str | None:
    """This project's name of what the authors call ``arch``: their us_cifar_resnet18 is resnet18_cifar here."""
    if arch in ARCHITECTURES:
        return arch
    name = arch.removeprefix(US)
    name = f"{name.removeprefix('cifar_')}_cifar" if name.startswith("cifar_") else name
    return name if arch.startswith(US) and name in ARCHITECTURES else None


@functools.cache
def _shapes(arch: str) -> frozenset[tuple[str, tuple[int, ...]]]:
    with torch.device("meta"):
        return frozenset((name, tuple(tensor.shape)) for name, tensor in build(arch).state_dict().items())


def _by_shapes(state: dict[str, Tensor], family: str, path: Path) -> str:
    """The architecture that agrees with most parameters; the authors slim ViTs by ``input``."""
    here = {(name, tuple(tensor.shape)) for name, tensor in state.items()}
    candidates = [arch for arch in ARCHITECTURES if arch.startswith(family) and not arch.endswith("_heads")]
    score = {arch: len(here & _shapes(arch)) - len(_shapes(arch) - here) for arch in candidates}
    best = [arch for arch in candidates if score[arch] == max(score.values())]
    if family == "mobilenetv2":  # shapes do not tell strides
        raise UserError(f"{path} does not say which MobileNetV2 it is; set --arch {' or --arch '.join(best)}")
    return best[0]
