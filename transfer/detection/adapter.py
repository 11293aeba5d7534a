"""Compatibility shims for detectron2 0.6, applied before it is imported and only where the installed version needs them.

- ``PIL.Image.LINEAR``: the old name of ``BILINEAR``, which Pillow 10 dropped and detectron2 0.6 still uses.
- ``detectron2._C``: detectron2's compiled operators (deformable and rotated ones, the fast COCO evaluation). A copy without them
  is imported by a placeholder whose functions raise when they are called. None of our models calls them: RoIAlign and NMS are
  torchvision's, and COCO is evaluated by pycocotools.

What has no public way and is therefore reached into, in the modules named: ``Res5ROIHeads._build_res5_block`` (model);
``DatasetMapper._transform_annotations`` (data.mapper); ``_class_names``, ``_is_2007`` and ``_predictions`` of
``PascalVOCDetectionEvaluator`` (evaluation).
"""

from __future__ import annotations

import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import PIL.Image

VERSION = "0.6"  # of detectron2: what this module is written for


class _Placeholder(types.ModuleType):
    def __getattr__(self, name: str) -> Callable:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise NotImplementedError(
                f"detectron2._C.{name} is compiled code, and this copy of detectron2 has none; install "
                "detectron2 from conda-forge or build it"
            )

        return missing


def is_compiled(package: Path) -> bool:
    """Whether the detectron2 in the directory ``package`` brings its compiled operators."""
    return any((package / f"_C{suffix}").is_file() for suffix in EXTENSION_SUFFIXES)


def apply() -> None:
    """Apply what the installed detectron2 needs; nothing where there is no detectron2."""
    # What detectron2 does when it is imported works, and others warn of it each time.
    warnings.filterwarnings("ignore", message=r".torch\.jit\.script. is deprecated", category=FutureWarning)
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)
    warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release", category=UserWarning)
    if not hasattr(PIL.Image, "LINEAR"):
        PIL.Image.LINEAR = PIL.Image.BILINEAR
    found = importlib.util.find_spec("detectron2")
    if found and found.origin and not is_compiled(Path(found.origin).parent) and "detectron2._C" not in sys.modules:
        sys.modules["detectron2._C"] = _Placeholder("detectron2._C")
