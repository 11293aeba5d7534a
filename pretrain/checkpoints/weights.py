"""Load weights into networks, exactly or not at all; and fingerprints of weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from pretrain.checkpoints.inert import printable
from rundir.errors import UserError


def fingerprint(network: nn.Module, settings: str = "") -> str:
    """Eight hex digits of all parameters and buffers of ``network``, and of ``settings``: equal for equal ones."""
    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:8]


def load_weights(network: nn.Module, state: dict[str, Tensor], path: str | Path, name: str) -> None:
    """Put ``state`` into ``network``, called ``name``; floating-point weights of any precision become those of ``network``.

    Raises:
        UserError: a parameter is missing, unknown, of another shape or kind, or not finite: the first is named.
    """
    own = network.state_dict()
    for key, tensor in own.items():
        if key not in state:
            raise UserError(f"{path} does not fit {name}: {key} is missing")
        if not isinstance(state[key], Tensor):
            raise UserError(f"{path} does not fit {name}: {key} is not a tensor")
        if tuple(state[key].shape) != tuple(tensor.shape):
            raise UserError(
                f"{path} does not fit {name}: {key} has shape {tuple(state[key].shape)}, expected {tuple(tensor.shape)}"
            )
        if not _is_plain(state[key]) or state[key].is_floating_point() != tensor.is_floating_point():
            raise UserError(
                f"{path} does not fit {name}: {key} is {_kind(state[key])}, expected {tensor.dtype}; "
                "save the network's plain floating-point weights"
            )
    unknown = next((key for key in state if key not in own), None)
    if unknown is not None:
        raise UserError(f"{path} does not fit {name}: {printable(unknown)} is not one of its parameters")
    state = {key: tensor.to(own[key].dtype) for key, tensor in state.items()}
    check_finite(state, path)
    # A network without memory of its own takes the tensors as they are.
    network.load_state_dict(state, assign=any(tensor.is_meta for tensor in own.values()))


def check_finite(state: dict[str, Tensor], path: str | Path) -> None:
    """Raise :class:`UserError` if there is NaN or infinity in a tensor of ``state``: names the first and counts."""
    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            count = int((~torch.isfinite(tensor)).sum())
            raise UserError(
                f"{path} cannot be used: {key} holds NaN or infinity ({count:,} of {tensor.numel():,} values), so its "
                "training diverged or half precision overflowed; take an earlier checkpoint"
            )


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta and not tensor.is_complex()


def _kind(tensor: Tensor) -> str:
    if tensor.layout != torch.strided:
        return "sparse"
    return "without values (on the meta device)" if tensor.is_meta else str(tensor.dtype)
