"""Compatibility shims: of the version they are written for, applied when detection starts, and raising where they are no help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest

from transfer.detection import adapter


def test_it_is_written_for_the_version_that_is_installed():
    import detectron2
    from detectron2.data import DatasetMapper
    from detectron2.evaluation import PascalVOCDetectionEvaluator
    from detectron2.modeling.roi_heads import Res5ROIHeads

    assert detectron2.__version__ == adapter.VERSION
    assert Res5ROIHeads._build_res5_block and DatasetMapper._transform_annotations
    assert {"_class_names", "_is_2007", "_predictions"} <= {
        *PascalVOCDetectionEvaluator.__init__.__code__.co_names,
        *PascalVOCDetectionEvaluator.reset.__code__.co_names,
    }


def test_nothing_happens_at_import():
    """The command lines import every task; what a task patches is patched when it starts."""
    code = (
        "import sys, warnings, PIL.Image; before = list(warnings.filters)\n"
        "import transfer.finetuning, transfer.detection.command, transfer.segmentation.command\n"
        "assert not {'detectron2', 'detectron2._C', 'mmseg', 'mmengine'} & sys.modules.keys()\n"
        "assert not hasattr(PIL.Image, 'LINEAR') or '.LINEAR' in open(PIL.Image.__file__).read()\n"
        "assert not [f for f in warnings.filters if f[1] and 'torch.jit.script' in f[1].pattern]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_compiled_operators_raise_when_they_are_called(tmp_path):
    import detectron2

    if adapter.is_compiled(Path(detectron2.__file__).parent):
        pytest.skip("this detectron2 brings its compiled operators")
    from detectron2.layers import nms_rotated  # what uses them can be imported

    assert callable(nms_rotated)
    with pytest.raises(NotImplementedError, match="compiled code"):
        sys.modules["detectron2._C"].COCOevalAccumulate()
    assert PIL.Image.LINEAR == PIL.Image.BILINEAR


def test_a_real_build_gets_no_placeholder(tmp_path, monkeypatch):
    package = tmp_path / "detectron2"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / f"_C{adapter.EXTENSION_SUFFIXES[0]}").write_bytes(b"")
    assert adapter.is_compiled(package)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "detectron2"]:
        monkeypatch.delitem(sys.modules, name)
    adapter.apply()
    assert "detectron2._C" not in sys.modules
