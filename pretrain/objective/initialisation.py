"""How weights start, where that is not as the layers do it (METHOD section 7, smaller facts)."""

from __future__ import annotations

import math

from torch import nn

from pretrain.config import ModelConfig
from pretrain.slimmable import SlimmableConv2d, slimmable_layers

PROJECTOR_STD = 0.01


def initialise(student: nn.Module, cfg: ModelConfig) -> None:
    """Draw again the weights of ``student`` that ``cfg`` wants otherwise.

    ``conv_init=torch``: convolutions as ``torch.nn.Conv2d`` starts them (uniform, Kaiming with gain sqrt(1/3)), where ours are
    Kaiming normal over the fan-out (He et al., arXiv 1502.01852). ``projector_init=normal``: the first projector layer is
    N(0, 0.01). ``distill_head_init=predictor``: the distillation head is a copy of the predictor.
    """
    if cfg.conv_init == "torch":
        for layer in slimmable_layers(student):
            if isinstance(layer, SlimmableConv2d):
                nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
    if cfg.projector_init == "normal":
        nn.init.normal_(student.projector[0].weight, std=PROJECTOR_STD)
    if cfg.distill_head_init == "predictor" and student.distill_head is not None:
        student.distill_head.load_state_dict(student.predictor.state_dict())
