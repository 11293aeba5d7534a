"""METHOD section 7 slow and in float64, for the tests to compare with: what the recipes do otherwise than section 2.

As in slow_reference nothing here uses a slimmable layer, an optimizer or a loss of the project. Virtual processes are processes:
each takes its rows through its own forward pass and its own loss, and the losses are averaged.
"""

from __future__ import annotations

import torch

from tests.pretrain.slow_reference import absolute, batch_norm, encode, group_mask, head, relative


def unit(row):
    return row / row.norm()


def cosines(s, targets):
    """A list of rows, of each row of ``s`` its cosines with ``targets[i]``, a list of rows."""
    return [torch.stack([(unit(row) * unit(t)).sum() for t in targets[i]]) for i, row in enumerate(s)]


def log_softmax(logits):
    top = logits.max()
    return logits - top - torch.log(torch.exp(logits - top).sum())


def compared(t, queue):
    """For each row what MoCo compares it with: its own target first, then the queue; without a queue all targets of the process."""
    return [[row, *queue] for row in t] if queue is not None else [list(t)] * len(t)


def moco(s, t, queue, temperature):
    return sum(-log_softmax(row / temperature)[0] for row in cosines(s, compared(t, queue))) / len(s)


def kl(s, widest, t, queue, temperature):
    """Sum p log(p / q), row by row; p of the widest network, q of the narrower."""
    total = 0.0
    others = compared(t, queue)
    for own, guide in zip(cosines(s, others), cosines(widest, others), strict=True):
        p, q = log_softmax(guide / temperature), log_softmax(own / temperature)
        total = total + (torch.exp(p) * (p - q)).sum()
    return total / len(s)


def seed(s, t, queue, student_temperature, teacher_temperature):
    total = 0.0
    others = compared(t, queue)
    for own, guide in zip(cosines(s, others), cosines(t, others), strict=True):
        total = total - (torch.exp(log_softmax(guide / teacher_temperature)) * log_softmax(own / student_temperature)).sum()
    return total / len(s)


def feature_loop(maps, targets):
    """Mean over stages of the mean squared difference, image by image."""
    means = []
    for a, b in zip(maps, targets, strict=True):
        means.append(sum(((x - y) ** 2).sum() for x, y in zip(a, b, strict=True)) / a.numel())
    return sum(means) / len(means)


def adapted(p, stage, y):
    """The 1x1 convolution of a stage: a sum over the channels that there are."""
    weight = p[f"adapters.{stage}.weight"][:, :, 0, 0]
    return sum(weight[:, i].view(1, -1, 1, 1) * y[:, i : i + 1] for i in range(y.shape[1]))


class SlowRecipe:
    """A recipe, one step at a time, on copies of the weights of a student and its teacher (momentum, frozen or none)."""

    def __init__(self, cfg, student, teacher, queue, lr, alpha, processes):
        self.cfg, self.lr, self.alpha, self.processes = cfg, lr, alpha, processes
        self.p = {k: v.detach().clone().double().requires_grad_() for k, v in student.named_parameters()}
        self.k = None if teacher is None else {k: v.detach().clone().double() for k, v in teacher.named_parameters()}
        self.queue = None if queue is None else [row.clone() for row in queue.rows]
        self.velocity, self.touched = {}, set()

    # -- networks ---------------------------------------------------------------------------------------------------------------

    def project(self, p, x, width):
        maps = []
        z = head(p, "projector", encode(self.switched(p, width), x, width, maps))
        if self.cfg.model.projector_last_norm:
            z = batch_norm(z, torch.ones(z.shape[1]).double(), torch.zeros(z.shape[1]).double())
        return z, maps

    def switched(self, p, width):
        """Switchable BatchNorm: the parameters of this width by their usual names."""
        if not self.cfg.model.switchable_bn:
            return p
        index = sorted(self.cfg.widths.fixed, reverse=True).index(width)
        plain = {k: v for k, v in p.items() if ".weights." not in k and ".biases." not in k}
        for kind, one in (("weights", "weight"), ("biases", "bias")):
            ending = f".{kind}.{index}"
            plain |= {k.removesuffix(ending) + f".{one}": v for k, v in p.items() if k.endswith(ending)}
        return plain

    def rows(self, count):
        share = count // self.processes
        return [list(range(i * share, (i + 1) * share)) for i in range(self.processes)]

    def seen(self, x, width, head_name, distill):
        """For each process what the student makes of its rows: projection, output, feature maps."""
        found = []
        for rows in self.rows(len(x)):
            z, maps = self.project(self.p, x[rows], width)
            if self.cfg.objective.feature_weight and distill:
                maps = [adapted(self.p, stage, y) for stage, y in enumerate(maps)]
            found.append((z, head(self.p, head_name, z) if head_name else z, maps))
        return found

    def guided(self, x):
        """For each process the teacher's projections and feature maps of its rows; shuffled, every n-th row is in one batch."""
        shares = self.rows(len(x))
        together = [list(range(i, len(x), self.processes)) for i in range(self.processes)] if self.cfg.objective.shuffle else shares
        z, maps = {}, {}
        with torch.no_grad():
            for rows in together:
                projected, inner = self.project(self.k, x[rows], self.cfg.widths.max)
                for place, row in enumerate(rows):
                    z[row], maps[row] = projected[place], [m[place] for m in inner]
        stages = range(len(maps[0]))
        return [(torch.stack([z[r] for r in rows]), [torch.stack([maps[r][s] for r in rows]) for s in stages]) for rows in shares]

    # -- losses -----------------------------------------------------------------------------------------------------------------

    def pair(self, name, s, t, widest=None):
        own = self.cfg.objective
        if name == "mse" or (name == "seed" and own.seed_loss == "mse"):
            return absolute(s, t)
        if name == "seed":
            return seed(s, t, self.queue, own.seed_student_temperature, own.seed_teacher_temperature)
        if name == "kl":
            return kl(s, widest, t, self.queue, own.kl_temperature)
        return relative(s, t, own.temperature) if self.queue is None else moco(s, t, self.queue, own.temperature)

    def loss(self, index, process, seen, targets, top):
        """Of one pass in one process, over the pairings of views."""
        own, total = self.cfg.objective, 0.0
        pairs = {"one": [(0, 0)]}.get(own.pairings) or ([(0, 0), (1, 1)] if own.base_loss == "seed" else [(0, 1), (1, 0)])
        for view, facing in pairs:
            _, output, maps = seen[view][process]
            target, target_maps = targets[facing][process]
            if index == "base":
                total = total + self.pair(own.base_loss, output, target)
                continue
            value = self.pair(own.distill_loss, output, target, None if top is None else top[view][process])
            if own.same_view_weight:
                value = value + own.same_view_weight * self.pair(own.distill_loss, output, top[view][process])
            a = own.sub_base_weight
            total = total + (value if a == 0 else (1 - a) * value + a * self.pair(own.base_loss, output, target))
            if own.feature_weight:
                total = total + own.feature_weight * feature_loop(maps, target_maps)
        return total / len(pairs) if own.pairings == "mean" else total

    # -- the update -------------------------------------------------------------------------------------------------------------

    def coefficients(self, name, weight, widest_alone):
        """The decay of every channel of a parameter: a list, or one number."""
        reg, is_head = self.cfg.regularizer, name.startswith(("predictor", "distill_head"))
        if reg.kind == "none" or (reg.kind == "group" and reg.variant == "authors" and widest_alone and is_head):
            return 0.0
        linear = weight.ndim == 2 or (name.endswith("bias") and self.p[name.replace("bias", "weight")].ndim == 2)
        if reg.kind == "l2" or weight.ndim == 2 or (linear and reg.variant == "paper"):
            return reg.coefficient
        masks = [group_mask(len(weight), reg.groups, i) for i in range(reg.groups)]
        vector = sum(reg.coefficient * (1 - self.alpha * i) * mask for i, mask in enumerate(masks))
        return vector.view(-1, *[1] * (weight.ndim - 1))

    def sgd(self, widest_alone):
        with torch.no_grad():
            for name, weight in self.p.items():
                if weight.grad is not None:
                    self.touched.add(name)
                if name not in self.touched and self.cfg.regularizer.variant == "authors":
                    continue
                gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
                gradient = gradient + 2 * self.coefficients(name, weight, widest_alone) * weight
                self.velocity[name] = self.cfg.optimizer.momentum * self.velocity.get(name, 0.0) + gradient
                weight -= self.lr * self.velocity[name]
                weight.grad = None

    def average(self, momentum):
        if self.cfg.objective.teacher == "momentum":
            for name in self.k:
                self.k[name] = momentum * self.k[name] + (1 - momentum) * self.p[name].detach()

    def step(self, x1, x2, widths, momentum):
        own, values, targets, top = self.cfg.objective, [], None, None
        views = (x1,) if own.pairings == "one" else (x1, x2)
        keys = views if own.base_loss == "seed" else (x2,) if own.pairings == "one" else (x1, x2)
        for place, width in enumerate(widths):
            base = width == max(widths) or own.distill_loss == "none"
            if place == 0 or own.ema_update == "pass":
                self.average(momentum)
            name = (
                {"own": "distill_head", "shared": "predictor", "none": None}[own.head]
                if not base
                else ("predictor" if own.base_loss == "mse" else None)
            )
            seen = [self.seen(x, width, name, not base) for x in views]
            if self.k is not None and (base or own.ema_update == "pass"):
                targets = [self.guided(x) for x in keys]
            elif base:
                targets = [
                    [(z if own.two_sided else z.detach(), [m.detach() for m in maps]) for z, _, maps in view] for view in seen
                ]
            if base:
                top = [[output.detach() for _, output, _ in view] for view in seen]
                last_keys = targets
            shares = [self.loss("base" if base else "narrower", i, seen, targets, top) for i in range(self.processes)]
            value = sum(shares) / self.processes
            weight = 1.0 if base else own.distill_weight
            if own.width_weights == "slimclr" and base:
                weight = 1.0 + sum(w for w in widths if w != max(widths))
            (weight * value).backward()
            values.append(value.item())
            if own.update == "per_width":
                self.sgd(widest_alone=width == self.cfg.widths.max)
        if own.update == "accumulate":
            self.sgd(widest_alone=widths == [self.cfg.widths.max])
        if self.queue is not None:
            new = [unit(row) for view in last_keys for z, _ in view for row in z]
            size = len(self.queue)
            self.queue = self.queue[len(new) :] + new
            assert len(self.queue) == size
        return values
