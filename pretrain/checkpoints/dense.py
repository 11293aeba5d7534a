"""Dense networks from files of others: by the names of today's libraries, loaded exactly, or refused by what they are.

Many networks have all the parameters of a plain ResNet or ViT and something else besides. What is left out of these parameters, or
differs without any, would silently give other features; so a name that is not known is an error, the network that the
file says it is must be a plain one, and a note names what is assumed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pretrain.checkpoints.inert import parts_of
from pretrain.checkpoints.weights import load_weights
from pretrain.models.dense import DenseEncoder, Untold, positions_before_patches, shaped_like
from rundir.errors import UserError

# Words in the first part of the names of modules that come after an encoder: classifiers, projectors, decoders,
# queues, tokens that masks put in.
ASIDE_WORDS = {
    "fc",
    "head",
    "heads",
    "classifier",
    "projector",
    "projection",
    "proj",
    "predictor",
    "prediction",
    "prototype",
    "prototypes",
    "logits",
    "queue",
    "decoder",
    "mask",
    "masked",
}
COUNTERS = ("num_batches_tracked", "total_ops", "total_params")  # last parts of names; nothing is computed from them
# Names that tell networks of which we know that we do not have them, and what these have.
UNKNOWN_NETWORKS = [
    (r"\.filt$", "anti-aliased (BlurPool)"),
    (r"\.(se|se_module|eca|attn_last)\.", "one with channel attention (SE, ECA)"),
    (r"^attnpool\.", "CLIP's, with attention pooling"),
    (r"^conv1\.\d", "one with a stem of several convolutions (ResNet-D)"),
    (r"\.shortcut\.", "one whose shortcuts are named otherwise (no torchvision or timm ResNet)"),
    (r"^dist_token", "a distilled DeiT, with a distillation token"),
    (r"rel_pos|relative_position|\.q_bias$", "one with relative positions (BEiT)"),
    (r"^layers\.\d", "a Swin Transformer"),
    (r"\.mlp\.(w12|w1|fc1_g)\.", "one with SwiGLU layers"),
    (r"\.(q|k)_norm\.", "one that normalises queries and keys"),
    (r"^(norm_pre|ln_pre)\.", "CLIP's, with a norm before its blocks"),
    (r"^patch_embed\.(backbone|norm|proj\.\d)", "a hybrid, or one with another patch embedding"),
    (r"lora_", "one with LoRA layers, which must be merged first"),
    (r"weight_(orig|g|v)$|parametrizations", "pruned or reparametrised, which must be removed first"),
]
# How each assumption is named in the note, and the option that overrides it.
GRANTED = {
    "padding": ("padding {} in its 3x3 stem (solo-learn's for CIFAR have 2)", "padding=2"),
    "max_pool": ("{} max-pool after that", "max_pool=yes"),
    "stride": ("strides in the {0}x{0} convolutions of its bottlenecks (v1.5; v1: 1x1)", "stride=1"),
    "heads": ("{} attention heads", "heads=N"),
}


@dataclass
class Loaded:
    """A dense encoder, what comes after it in the file (``aside``), and what was assumed, on one line (``note``)."""

    encoder: DenseEncoder
    aside: dict[str, Tensor]
    note: str


def load(state: dict[str, Tensor], family: str, path: Path, untold: Untold, names: set[str]) -> Loaded:
    """The network of ``family`` whose weights ``state`` holds.

    Args:
        untold: what the user says about it.
        names: what the file says that it is.

    Raises:
        UserError: it is not a plain network of that family, or its weights do not fit or are not finite.
    """
    state = _by_library_names(state, family)
    named = _timm_network(names) if family in ("resnet", "vit") else None
    if named and not untold.heads and family == "vit" and hasattr(named[1], "blocks"):
        untold = untold.with_heads(named[1].blocks[0].attn.num_heads)
    encoder = shaped_like(family, state, untold)
    state, aside = split(state, encoder.network)
    _refuse_unknown(state, encoder.network, family, path)
    if named:
        _refuse_other(*named, encoder.network, family, path)
    # Counters of batches are in newer files only.
    counters = {name: torch.tensor(0) for name in encoder.network.state_dict() if name.endswith(COUNTERS)}
    state = {name: tensor for name, tensor in state.items() if not name.endswith(COUNTERS)}
    load_weights(encoder.network, counters | state, path, f"a dense {family}")
    return Loaded(encoder, aside, _note(encoder, family, path, untold))


def _note(encoder: DenseEncoder, family: str, path: Path, untold: Untold) -> str:
    granted = {key: value for key, value in encoder.untold.items() if key not in untold.told}
    said = [
        GRANTED[key][0].format({True: "a", False: "no"}[value] if isinstance(value, bool) else value)
        for key, value in granted.items()
    ]
    if family == "resnet":
        said.append("no anti-aliasing (such networks are not supported)")
    if not said:
        return ""
    otherwise = " or ".join(f"--arch {family},{GRANTED[key][1]}" for key in granted)
    return (
        f"note: assumed about the {family} in {path}, since its weights do not tell: {', '.join(said)}"
        + f"; where it is otherwise set {otherwise}" * bool(granted)
    )


def words(name: str) -> set[str]:
    """The parts of a name between dots and underscores."""
    return set(re.split(r"[._]", name.lower()))


def names_of(payload: object, depth: int = 0) -> set[str]:
    """What a file calls its network: the strings behind ``arch``, ``model`` and their like, also in saved arguments."""
    found = set()
    for key, value in (parts_of(payload) or {}).items():
        if isinstance(value, str) and key in ("arch", "model", "model_name", "architecture", "backbone"):
            found.add(value)
        elif depth < 2 and key in ("args", "config", "cfg", "hyper_parameters", "hparams", "opt", "meta"):
            found |= names_of(value, depth + 1)
    return found


def split(state: dict[str, Tensor], network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """``state`` without what comes after the encoder, and that: neither in ``network`` nor named as a part of an encoder."""
    own = {name.partition(".")[0] for name in network.state_dict()}
    aside = {
        name: tensor
        for name, tensor in state.items()
        if name.partition(".")[0] not in own and ASIDE_WORDS & words(name.partition(".")[0])
    }
    return {name: tensor for name, tensor in state.items() if name not in aside}, aside


def _by_library_names(state: dict[str, Tensor], family: str) -> dict[str, Tensor]:
    """``state`` by the names of today's torchvision and timm.

    torchvision called a ViT's linear layers linear_1 and linear_2 when it published weights, and reads them so still. DeiT III's
    LayerScale is called gamma_1, DINOv2's registers register_tokens, and its blocks may be numbered within chunks.
    """
    if family == "vit_torchvision":
        return {
            re.sub(r"\.mlp\.linear_([12])\.", lambda found: f".mlp.{3 * int(found[1]) - 3}.", name): tensor
            for name, tensor in state.items()
        }
    if family != "vit":
        return state
    named = {}
    for name, tensor in state.items():
        name = re.sub(r"^(blocks\.\d+)\.gamma_([12])$", r"\1.ls\2.gamma", name)
        name = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name)
        named["reg_token" if name == "register_tokens" else name] = tensor
    return _class_position_in_token(named)


def _class_position_in_token(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """DINOv2 with registers: the class token has a position and the registers have none; the sum of both is timm's class token."""
    token, positions, registers = (state.get(name) for name in ("cls_token", "pos_embed", "reg_token"))
    if any(tensor is None or tensor.ndim != 3 for tensor in (token, positions, registers)):
        return state
    patches = positions.shape[1] - 1
    if patches < 1 or positions_before_patches(patches + 1, 1, registers.shape[1]) != 1 or token.shape != positions[:, :1].shape:
        return state
    return state | {"cls_token": token.float() + positions[:, :1].float(), "pos_embed": positions[:, 1:]}


def _refuse_unknown(state: dict[str, Tensor], network: nn.Module, family: str, path: Path) -> None:
    """Raise :class:`UserError` for a network of which a name says that it is another kind of its family."""
    own = network.state_dict()
    unknown = [name for name in state if name not in own]
    for pattern, what in UNKNOWN_NETWORKS:
        name = next((name for name in unknown if re.search(pattern, name)), None)
        if name:
            raise UserError(
                f"{path} does not fit a dense {family}: {name} is not one of its parameters; this network is {what}, "
                f"which is not supported: give a plain {family} of torchvision or timm"
            )
    if any(name.endswith(".running_mean") for name in own) and not any(name.endswith(".running_mean") for name in state):
        raise UserError(
            f"{path} does not fit a dense {family}: it has no running statistics (no running_mean), so its norms are "
            "no BatchNorms (GroupNorm?) or its buffers were left out; give all of model.state_dict() of a network with "
            "BatchNorm"
        )


def _timm_network(names: set[str]) -> tuple[str, nn.Module] | None:
    """The name and the network of timm that the file says it is of, without weights; None where it names none."""
    special = sorted(name for name in names if not re.fullmatch(r"(wide_)?resnet\d+(_2)?|vit_[a-z]+|", name))
    if not special:
        return None
    import timm  # slow, and seldom needed

    known = [name for name in special if timm.is_model(name)]
    if not known:
        return None
    with torch.device("meta"):
        return known[0], timm.create_model(known[0], num_classes=0, pretrained=False)


def _refuse_other(name: str, named: nn.Module, network: nn.Module, family: str, path: Path) -> None:
    """Raise :class:`UserError` where the network that the file names has what ours has not, though its weights may look alike."""

    def kinds(network: nn.Module) -> set[str]:
        plain = {
            "Identity",
            "Dropout",
            "MaxPool2d",
            "SelectAdaptivePool2d",
            "AdaptiveAvgPool2d",
            "FastAdaptiveAvgPool",
            "Flatten",
            "Linear",
        }
        return {type(module).__name__ for module in network.modules() if not list(module.children())} - plain

    def strides(network: nn.Module) -> dict[str, tuple]:
        return {
            name: (module.stride, module.dilation)
            for name, module in network.named_modules()
            if isinstance(module, nn.Conv2d) and name.startswith("layer")
        }

    def shapes(network: nn.Module) -> dict[str, tuple]:
        return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if name != "pos_embed"}

    if shapes(named) != shapes(network):  # the name is of something else, a teacher for example
        return
    more = sorted(kinds(named) - kinds(network))
    if more or strides(named) != strides(network):
        raise UserError(
            f"{path} says that it is a {name}, which is not a plain {family} "
            f"({', '.join(more) or 'other strides'}) and not supported; give a plain {family} of torchvision or timm"
        )
