"""Which run is it, and does a run directory belong to it? Its config names the experiment, a fingerprint the user's own images."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import torch

from pretrain.checkpoints import files
from pretrain.config import Config, config_hash, from_dict
from pretrain.config.hashing import differences
from pretrain.data import fingerprint
from pretrain.distributed import choose_device
from pretrain.hardware import best_precision
from rundir.directory import RunDirectory
from rundir.errors import UserError
from rundir.schema import File
from rundir.setting import OWN_IMAGES

AUTO = "auto"


def identified(cfg: Config) -> Config:
    """``cfg`` with nothing left to find out that its numbers depend on: see :func:`with_precision` and :func:`with_images`.

    Raises:
        UserError: as these do.
    """
    return with_images(with_precision(cfg))


def tell_precision(cfg: Config) -> None:
    """Say on stdout what ``train.precision=auto`` is here, and why; nothing where ``cfg`` says another."""
    if cfg.train.precision == AUTO and os.environ.get("RANK", "0") == "0":
        precision, why = best_precision(_device(cfg))
        print(f"precision {precision}, because {why}; choose another with train.precision=fp32 or bf16", flush=True)


def with_precision(cfg: Config) -> Config:
    """``cfg`` with what ``train.precision=auto`` is on this machine. From then on it is a run of that precision, which its name and
    its config.yaml say, and which a machine that would choose another does not continue.
    """
    if cfg.train.precision != AUTO:
        return cfg
    precision, _ = best_precision(_device(cfg))
    return dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, precision=precision))


def _device(cfg: Config) -> torch.device:
    return choose_device(cfg.train.device, int(os.environ.get("LOCAL_RANK", 0)))


def with_images(cfg: Config) -> Config:
    """``cfg`` with ``data.fingerprint``, that of its training images, where these are the user's own.

    So the same images at another place are the same experiment, and others at the same place are another. Where the images are not
    seen, on a login node for example, it stays as it was; training finds out.

    Raises:
        UserError: ``data.fingerprint`` is set to another one than that of the images.
    """
    data = cfg.data
    if data.name not in OWN_IMAGES or not fingerprint.is_there(data.name, data.root):
        return cfg
    found = fingerprint.of_dataset(data.name, "train", data.root)
    if data.fingerprint not in ("", found):
        raise UserError(
            f"data.fingerprint={data.fingerprint} is not that of the training images in {data.root}, {found}: they have"
            " changed, or others are meant; put those back, or set data.root=DIR where they are"
        )
    return dataclasses.replace(cfg, data=dataclasses.replace(data, fingerprint=found))


def own_directory(parent: Path, label: str, cfg: Config) -> Path:
    """The run directory of ``cfg`` in ``parent``: label, seed and hash of the config.

    Of the user's own images it is the directory that an earlier version, which did not ask which images these are, gave the run,
    where that is there.
    """
    own = parent / f"{label}-s{cfg.seed}-{config_hash(cfg)}"
    if not cfg.data.fingerprint or own.exists():
        return own
    former = parent / f"{label}-s{cfg.seed}-{config_hash(_unidentified(cfg))}"
    return former if (former / File.CONFIG).is_file() else own


def check_directory(run: RunDirectory, cfg: Config) -> None:
    """Raise :class:`UserError` if ``run`` holds another experiment than ``cfg``, or (finished) another one's checkpoint, or a
    metrics.jsonl of the user's own, which training would truncate.
    """
    there = run.read_config()
    if there is None and (run.path / File.METRICS).exists() and not run.has_begun():
        raise UserError(f"{run.path} holds a metrics.jsonl that is of no run here; choose another --out, or move that file")
    if there is not None:
        _check_same(from_dict(there), cfg, f"{run.path} holds another experiment", "its config.yaml", "choose another --out")
    found = files.latest(run.path) if run.status().get("trained") else None
    if found is not None:
        check_checkpoint(*found, cfg)


def check_checkpoint(path: Path, payload: dict, cfg: Config, data: str | None = None) -> None:
    """Raise :class:`UserError` if the checkpoint ``payload``, of file ``path``, is not of the experiment ``cfg``.

    data: fingerprint of the training images; None where it is not known.
    """
    instead = f"remove {path.name} to start this run again, or choose another --out"
    if not isinstance(payload.get("config"), dict):
        raise UserError(f"{path} holds no config; it is not a checkpoint of pretraining; {instead}")
    _check_same(from_dict(payload["config"]), cfg, f"{path} is the checkpoint of another experiment", "the checkpoint", instead)
    if data is not None and payload.get("data") not in (None, data):
        raise UserError(
            f"{path} was trained on other images (their fingerprint is {payload['data']}, that of {cfg.data.name} in "
            f"{cfg.data.root or 'this version'} is {data}); put those back, or {instead}"
        )


def _check_same(there: Config, cfg: Config, what: str, where: str, instead: str) -> None:
    if not (there.data.fingerprint and cfg.data.fingerprint):
        there, cfg = _unidentified(there), _unidentified(cfg)
    if config_hash(there) == config_hash(cfg):
        return
    if config_hash(_unidentified(there)) == config_hash(_unidentified(cfg)):
        raise UserError(
            f"{what}: it learns from other images than those in {cfg.data.root} are now (data.fingerprint="
            f"{there.data.fingerprint} there, {cfg.data.fingerprint} here); put those back, or {instead}"
        )
    ours = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, precision=there.train.precision))
    if config_hash(_unidentified(ours)) == config_hash(_unidentified(there)):
        instead = f"set train.precision={there.train.precision} to continue it, or {instead}"
    raise UserError(f"{what} ({where} has {differences(there, cfg)}); {instead}")


def _unidentified(cfg: Config) -> Config:
    return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, fingerprint=""))
