"""Command line of pretraining: one config in, one run directory out.

python pretrain/run.py --preset digits --out runs/mine objective.base_loss=infonce
python pretrain/run.py --preset digits --recipe usnet-simsiam
torchrun --nproc-per-node 4 pretrain/run.py --preset cifar100 --out runs/c100
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a script: make the other rooms importable
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from pretrain import config
from pretrain.hardware import hardware
from pretrain.identity import identified, own_directory, tell_precision
from pretrain.training import pretrain
from rundir.arguments import LARGEST_SEED, Parser, place, whole, word
from rundir.cli import cli
from rundir.provenance import versions
from rundir.schema import File


def parser() -> Parser:
    """The arguments."""
    own = Parser("pretrain/run.py", config.KEYS, description="Train one universally slimmable network by self-supervision.")
    own.add_argument("--preset", default="digits", help=f"a preset ({', '.join(config.presets())}) or a YAML file; default digits")
    own.add_argument(
        "--recipe",
        help=f"a method's settings on top of the preset's ({', '.join(config.recipes())}) or a YAML file; "
        "default none: the preset's own",
    )
    own.add_argument("--out", type=place, help="run directory; default runs/pretrain/<preset>-<recipe>-s<seed>-<hash>")
    own.add_argument("--data-dir", type=word, help="shorthand for data.root=DIR")
    own.add_argument("--seed", type=whole(0, LARGEST_SEED), help="shorthand for seed=N")
    own.add_argument("--print-config", action="store_true", help="print the resolved config and stop")
    own.add_argument("--versions", action="store_true", help="print what a report of a problem should say, and stop")
    own.usage = "%(prog)s [options] [key=value ...]   for example optimizer.epochs=20"
    return own


def main(argv: Sequence[str] | None = None) -> int:
    """Parse ``argv``, train, and say where the result is."""
    arguments, overrides = parser().parse_with_settings(sys.argv[1:] if argv is None else argv)
    if arguments.versions:
        print(versions(hardware()))
        return 0
    if arguments.recipe is not None:
        overrides.insert(0, f"experiment.recipe={arguments.recipe}")
    if arguments.data_dir is not None:
        overrides.append(f"data.root={arguments.data_dir}")
    if arguments.seed is not None:
        overrides.append(f"seed={arguments.seed}")
    asked = config.load(arguments.preset, overrides)
    cfg = identified(asked)
    if arguments.print_config:
        print(config.to_yaml(cfg), end="")
        return 0
    tell_precision(asked)
    name = "-".join(filter(None, (cfg.experiment.preset, cfg.experiment.recipe)))
    out = arguments.out or own_directory(Path("runs/pretrain"), name, cfg)
    pretrain(cfg, out)
    print(f"checkpoint: {out / File.CHECKPOINT}")
    return 0


def program() -> None:
    """The installed command."""
    cli(main)


if __name__ == "__main__":
    program()
