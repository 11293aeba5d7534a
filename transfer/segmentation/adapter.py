"""Setup that mmsegmentation and mmengine need, and the private parts of them that are used.

Without a public way: ``mmengine.device.utils.DEVICE`` (here), and ``message_hub.runtime_info`` of mmengine's checkpoints (hooks).
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator

import torch

from rundir.errors import UserError

# What this module is written for: mmengine and mmsegmentation, or the maintained forks of theirs (onedl-*).
VERSIONS = {"mmengine": "0.10", "mmseg": "1."}


def apply() -> None:
    """Import mmsegmentation quietly, with the project's parts in its registries.

    Raises:
        UserError: it cannot be imported.
    """
    warnings.filterwarnings("ignore", module=r"mm(seg|cv|engine)\.")  # of optional parts, and of its own settings
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # likewise
            import mmseg  # noqa: F401

            from transfer.segmentation import registered  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"segmentation needs mmsegmentation, which cannot be imported ({error}); install it with make setup, "
            "or pip install -e '.[segmentation]'"
        ) from None


@contextlib.contextmanager
def running_on(device: torch.device) -> Iterator[None]:
    """mmengine's runner on ``device``, its checkpoints loaded with ``weights_only``.

    mmengine takes a GPU wherever there is one; its choice of a device is a variable of its module that has no public name.
    """
    import mmengine.device.utils as mmdevice

    before, variable = mmdevice.DEVICE, "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    kept = os.environ.get(variable)
    mmdevice.DEVICE, os.environ[variable] = device.type, "1"
    if device.index is not None:
        torch.cuda.set_device(device)
    try:
        yield
    finally:
        mmdevice.DEVICE = before
        os.environ.pop(variable)
        if kept is not None:
            os.environ[variable] = kept
