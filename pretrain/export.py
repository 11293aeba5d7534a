"""A width as files that need none of this project's code: dense weights (safetensors), ONNX, a torch program.

    python pretrain/export.py --checkpoint runs/mine --width 0.5 --out exported
    python pretrain/export.py --checkpoint runs/mine --width 0.5 --out exported --format onnx

``docs/export.md`` says what is in them and how to load them.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: make the other rooms importable
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
from torch import Tensor, nn

from pretrain.checkpoints import Checkpoint, add_checkpoint_arguments, open_checkpoint
from pretrain.config import Config, DataConfig
from pretrain.data import calibration_batches, sources
from pretrain.models.mobilenetv2 import STAGES, InvertedResidual, MobileNetV2
from pretrain.models.resnet import BasicBlock, ResNet
from pretrain.models.vit import VisionTransformer
from pretrain.slimmable import PrefixLinear, Resized, extract
from pretrain.slimmable.calibrate import batch_norms
from rundir.arguments import MOST_PIXELS, Parser, a_width, place, whole, word
from rundir.atomic import make_folder
from rundir.cli import cli
from rundir.errors import UserError, check_choice, settings_are_options
from rundir.records import of_width
from rundir.schema import EXPORT_FORMAT
from rundir.subnet import Subnet, Width

WEIGHTS, CONFIG, ONNX, PROGRAM = "model.safetensors", "config.json", "model.onnx", "model.pt2"
FILES = {"safetensors": WEIGHTS, "onnx": ONNX, "program": PROGRAM}
NEEDS = {"safetensors": ["safetensors"], "onnx": ["onnx", "onnxscript", "onnxruntime"], "program": []}
DEFAULT_FORMATS = ("safetensors", "onnx")
TOLERANCE = 1e-4  # of features of order one, relative to their largest where that is above one
CHECKED_BATCHES = (1, 3)
OPTIONS = {"data.root": "--data-dir", "data.name": "--dataset", "data.size": "--size"}


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    own = Parser(prog="pretrain/export.py", description="Write one width of a checkpoint as an ordinary network.")
    add_checkpoint_arguments(own)
    own.add_argument(
        "--width",
        type=a_width,
        default=1.0,
        metavar="W",
        help="a width, or a sub-network such as 'w[1,.75,.5,.5]d[2,1,2,2]'; default 1.0",
    )
    own.add_argument("--out", required=True, type=place, metavar="DIR", help="where the files go")
    own.add_argument(
        "--format",
        nargs="+",
        choices=list(NEEDS),
        default=list(DEFAULT_FORMATS),
        metavar="F",
        help=f"some of {', '.join(NEEDS)}; default {' '.join(DEFAULT_FORMATS)}",
    )
    own.add_argument(
        "--dataset",
        metavar="D",
        help="to calibrate on where there are no BatchNorm statistics for the width: "
        f"{', '.join(sources.NAMES)}; default: that of pretraining",
    )
    own.add_argument("--data-dir", type=word, metavar="DIR", help="where it is stored; default: where pretraining found it")
    own.add_argument("--size", type=whole(1, MOST_PIXELS), metavar="N", help="pixels of an image; default: the size of pretraining")
    return own


def main(argv: Sequence[str] | None = None) -> int:
    """Parse ``argv``, write the files, and say where they are."""
    arguments = parser().parse_args(argv)
    with settings_are_options(OPTIONS):
        written = export(
            arguments.checkpoint,
            arguments.width,
            arguments.out,
            arguments.format,
            branch=arguments.branch,
            arch=arguments.arch,
            dataset=arguments.dataset,
            root=arguments.data_dir,
            size=arguments.size,
        )
    for path in written:
        print(f"written: {path} ({path.stat().st_size / 2**20:.1f} MiB)")
    return 0


def export(
    checkpoint: Path,
    width: Width,
    out: Path,
    formats: Sequence[str] = DEFAULT_FORMATS,
    *,
    branch: str = "student",
    arch: str | None = None,
    dataset: str | None = None,
    root: str | None = None,
    size: int | None = None,
) -> list[Path]:
    """Write ``width`` of ``checkpoint`` into the directory ``out``, with ``config.json``; returns the files.

    A network that neither torchvision nor timm has (a ViT slimmed by ``input``) gets a torch program next to its safetensors file.
    ``dataset``, ``root`` and ``size`` say what an uncalibrated width is calibrated on; None: as in pretraining.

    Raises:
        UserError: the checkpoint, the width or the data cannot be used, a package is missing, or what was written computes
            something else than the network.
    """
    check_packages(formats)
    found = open_checkpoint(checkpoint, branch=branch, arch=arch)
    width = found.canonical(width, "--width")
    found.check_widths([width], "--width")
    config = _with_data(found.config, dataset, root, size)
    found.check_size(config.data.size, [width], "--width")
    make_folder(out, "files")
    _calibrate(found, width, config)
    network = extract(found.encoder, width)
    network = network.body if found.dense else network  # by its library's own names
    size = made_for(network, config.data.size)
    described = describe(found, network, width, config) | {"size": size, "source": found.origin()}
    if "safetensors" in formats and described["network"] is None:
        formats = list(dict.fromkeys([*formats, "program"]))
    written = [_write(out / CONFIG, lambda path: path.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8"))]
    writers = {"safetensors": write_safetensors, "onnx": write_onnx, "program": write_program}
    return written + [writers[name](network, out, size) for name in dict.fromkeys(formats)]


def made_for(network: nn.Module, size: int) -> int:
    """The side of the images that the extracted ``network`` gets: ``size``, or the resolution of a sub-network, to which it then
    no longer brings images itself.
    """
    resize = getattr(network, "resize", None)
    if not isinstance(resize, Resized):
        return size
    network.resize = nn.Identity()
    if isinstance(network, VisionTransformer):
        side, dim = resize.side // network.patch_size, network.pos_embed.shape[-1]
        network.pos_embed = nn.Parameter(network.positions(side, side, network.pos_embed.device)[..., :dim], requires_grad=False)
        network.grid_size = side
    return resize.side


def check_packages(formats: Sequence[str]) -> None:
    """Raise :class:`UserError` where writing one of ``formats`` needs a package that is not installed."""
    for name in formats:
        missing = [package for package in NEEDS[name] if importlib.util.find_spec(package) is None]
        if missing:
            raise UserError(f"writing {name} needs {', '.join(missing)}, which is not installed; pip install 'us3l-bench[export]'")


def _with_data(config: Config, dataset: str | None, root: str | None, size: int | None) -> Config:
    """``config`` with the data to calibrate on."""
    data = config.data
    if dataset is not None:
        check_choice("--dataset", dataset, sources.NAMES, "data set")
    if dataset is not None and dataset != data.name:
        data = DataConfig(name=dataset, root=root or "", size=data.size)
    changed: dict[str, Any] = {"root": root or data.root} | ({"size": size} if size is not None else {})
    return dataclasses.replace(config, data=dataclasses.replace(data, **changed))


def _calibrate(found: Checkpoint, width: Width, config: Config) -> None:
    """Calibrate ``width`` unless the checkpoint has its statistics and the images are those of pretraining."""
    if found.dense or not batch_norms(found.encoder):
        return
    before, data = found.config.data, config.data
    if found.is_calibrated(width) and (before.name, before.size) == (data.name, data.size):
        return
    if not data.name:
        raise UserError(f"{found.path} has no BatchNorm statistics; set --dataset NAME for images to calibrate them on")
    source = sources.load_for(data, "train")
    print(f"calibrating {'' if isinstance(width, Subnet) else 'width '}{width:g} on {data.name} at {data.size} pixels", flush=True)
    found.calibrate([width], calibration_batches(source, config.calibration, config.augment, data.size, config.seed, "cpu"))


def describe(found: Checkpoint, network: nn.Module, width: Width, config: Config) -> dict:
    """What ``config.json`` holds: what the files compute, on which images, and which library's network they fit."""
    mean, std = sources.normalisation(config.data) if config.data.name else (None, None)
    counted = found.cost(width, config.data.size)
    return {
        "format": EXPORT_FORMAT,
        "arch": found.arch,
        **of_width(width),
        "size": config.data.size,
        "mean": mean,
        "std": std,
        "features": found.encoder.feature_dim(width),
        "channels": found.encoder.stage_dims(width),
        "flops": counted.flops,
        "parameters": counted.parameters,
        "network": library_network(network),
    }


def library_network(network: nn.Module) -> dict | None:
    """What to build in torchvision or timm so that :func:`library_weights` fit it; None where they have no such network."""
    if isinstance(network, ResNet):
        block = "BasicBlock" if isinstance(network.layer1[0], BasicBlock) else "Bottleneck"
        depths = [len(_kept(network.get_submodule(f"layer{stage}"))) for stage in range(1, len(network.stage_rules) + 1)]
        cifar = network.stem == "cifar"
        return {
            "library": "torchvision",
            "name": "ResNet",
            "block": block,
            "depths": depths,
            "max_pool": not cifar,
            "strides": {"conv1": 1} if cifar else {},
        }
    if isinstance(network, MobileNetV2):
        cifar = network.features[0][0].stride == (1, 1)
        return {
            "library": "torchvision",
            "name": "MobileNetV2",
            "strides": {"features.0.0": 1, "features.2.conv.1.0": 1} if cifar else {},
            **_mobilenet_rows(network),
        }
    if isinstance(network, VisionTransformer):
        return _timm_vit(network)
    return None


def _timm_vit(network: VisionTransformer) -> dict | None:
    """timm's has layers that read all they get, computes on all patches, and has as many channels in its heads as in its residual
    stream.
    """
    blocks, dim = _kept(network.blocks), network.cls_token.shape[-1]
    block, hidden = blocks[0], blocks[0].mlp.fc1.out_features
    cut = any(isinstance(layer, PrefixLinear) and layer.in_features != dim for layer in network.modules())
    cut |= network.keep.share is not None
    if cut or any((each.attn.qkv.out_features, each.mlp.fc1.out_features) != (3 * dim, hidden) for each in blocks):
        return None
    return {
        "library": "timm",
        "name": "VisionTransformer",
        "arguments": {
            "img_size": network.patch_size * network.grid_size,
            "patch_size": network.patch_size,
            "embed_dim": dim,
            "depth": len(blocks),
            "num_heads": dim // block.attn.head_dim,
            "mlp_ratio": (hidden + 0.5) / dim,
            "num_classes": 0,
        },
    }


def _kept(blocks: nn.Sequential) -> list[nn.Module]:
    """Those of ``blocks`` that a sub-network has not skipped."""
    return [block for block in blocks if not isinstance(block, nn.Identity)]


def _mobilenet_rows(network: MobileNetV2) -> dict[str, Any]:
    """torchvision's arguments for a network with fewer blocks in some stages; nothing where all are there."""
    kept = [isinstance(layer, InvertedResidual) for layer in network.features[1:-1]]
    if all(kept):
        return {}
    counts, place = [], 0
    for _, _, blocks, _ in STAGES:
        counts.append(sum(kept[place : place + blocks]))
        place += blocks
    rows = [[expansion, channels, count, stride] for (expansion, channels, _, stride), count in zip(STAGES, counts, strict=True)]
    return {"arguments": {"inverted_residual_setting": rows}}


def library_weights(network: nn.Module) -> dict[str, Tensor]:
    """The weights of a dense ``network`` by the names that torchvision and timm give them: MobileNetV2's differ from ours, and
    blocks behind those that a sub-network skips have other numbers.
    """
    state = network.state_dict()
    if isinstance(network, MobileNetV2):
        state = {_torchvision_name(name, network): tensor for name, tensor in state.items()}
    for list_name in ("features", "blocks"):
        blocks = getattr(network, list_name, None)
        if isinstance(blocks, nn.Sequential):
            state = {_renumbered(name, list_name, blocks): tensor for name, tensor in state.items()}
    return {name: tensor.detach().contiguous() for name, tensor in state.items()}


def _renumbered(name: str, list_name: str, blocks: nn.Sequential) -> str:
    """``name`` with the number that its block has without those that are skipped."""
    parts = name.split(".")
    if parts[0] != list_name:
        return name
    return ".".join([list_name, str(len(_kept(blocks[: int(parts[1])]))), *parts[2:]])


def _torchvision_name(name: str, network: MobileNetV2) -> str:
    """features.N.body.M.weight as torchvision has it: each convolution, BatchNorm, ReLU6 in a block, but the last two."""
    parts = name.split(".")
    if "body" not in parts:
        return name
    block, layer = network.features[int(parts[1])], int(parts[3])
    threes = (len(block.body) - 2) // 3  # convolution, BatchNorm, ReLU6
    place = f"{layer // 3}.{layer % 3}" if layer < 3 * threes else str(threes + layer - 3 * threes)
    return ".".join(["features", parts[1], "conv", place, *parts[4:]])


def _write(path: Path, write) -> Path:
    """``write`` to a temporary file that becomes ``path`` only when it is whole."""
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_safetensors(network: nn.Module, out: Path, size: int) -> Path:
    """Dense weights and BatchNorm statistics as ``model.safetensors``."""
    from safetensors.torch import save_file

    return _write(out / WEIGHTS, lambda path: save_file(library_weights(network), path, metadata={"format": "pt"}))


def write_onnx(network: nn.Module, out: Path, size: int) -> Path:
    """``model.onnx``: images (batch, 3, size, size) float32 to features (batch, D); onnxruntime must compute the same."""

    def write(path: Path) -> None:
        with _quiet():
            torch.onnx.export(
                network,
                (_images(2, size),),
                path,
                dynamo=True,
                input_names=["images"],
                output_names=["features"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
            )
        _check(network, _onnx_session(path), size, "the ONNX program")

    return _write(out / ONNX, write)


def _onnx_session(path: Path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"images": x.numpy()})[0]


def write_program(network: nn.Module, out: Path, size: int) -> Path:
    """``model.pt2``, a torch program that ``torch.export.load`` reads: images (batch, 3, size, size) to features (batch, D)."""

    def write(path: Path) -> None:
        with _quiet():
            program = torch.export.export(network, (_images(2, size),), dynamic_shapes=({0: torch.export.Dim("batch")},))
            torch.export.save(program, path)
        loaded = torch.export.load(path).module()
        _check(network, lambda x: loaded(x).numpy(), size, "the torch program")

    return _write(out / PROGRAM, write)


def _images(count: int, size: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))


@torch.no_grad()
def _check(network: nn.Module, written, size: int, what: str) -> None:
    """Raise :class:`UserError` if ``written`` does not compute what ``network`` does, for several batch sizes."""
    for count in CHECKED_BATCHES:
        x = _images(count, size)
        expected = network(x).numpy()
        difference = float(np.abs(written(x) - expected).max())
        allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
        if not difference <= allowed:  # nan too
            raise UserError(
                f"{what} differs from the network by {difference:.2g} on a batch of {count} (allowed {allowed:.2g}): "
                "not kept; set another --format, or report it with the versions of torch and onnxruntime"
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' warnings about their own internals."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


if __name__ == "__main__":
    cli(main)
