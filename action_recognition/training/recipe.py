"""What a recipe adds to the plain loop, each of it off by default: losses, mixed clips, stages that are not trained or
computed twice, a running mean of the weights, an early end.

Stages come in as models.stages gives them. No files and no spec.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint
from torchvision import tv_tensors
from torchvision.transforms import v2

from action_recognition.training.optim import Stages

Loss = Callable[[Tensor, Tensor], Tensor]
Mix = Callable[[list[Tensor], Tensor], tuple[list[Tensor], Tensor]]


def clip_losses(
    logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """The cross entropy of each clip, (N, K) logits -> (N,). Targets are classes (N,) or shares of classes (N, K).

    `label_smoothing` e: (1 - e) of the target and e / K of every class (Szegedy et al., 2016, section 7).
    """
    return cross_entropy(logits, targets, class_weights, reduction="none", label_smoothing=label_smoothing)


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """A weight a class, the inverse of its share of the clips; the mean over all clips is 1 (King & Zeng, 2001).

    `counts` (K,): the clips of each class. A class without any has weight 0.
    """
    present = sum(count > 0 for count in counts)
    return [sum(counts) / (present * count) if count else 0.0 for count in counts]


def unmixed(inputs: list[Tensor], labels: Tensor) -> tuple[list[Tensor], Tensor]:
    """Nothing is mixed."""
    return inputs, labels


def mixing(mixup_alpha: float, cutmix_alpha: float, num_classes: int) -> Mix:
    """Each clip with its neighbour in the batch: a weighted sum (Zhang et al., mixup, 2018), or a rectangle of it over
    all frames (Yun et al., CutMix, 2019), by chance where both alphas are > 0. Targets become shares (N, K).

    All streams of a clip are mixed alike. The draws come from torch's generator.
    """
    alphas = {v2.MixUp: mixup_alpha, v2.CutMix: cutmix_alpha}
    ways = [way(alpha=a, num_classes=num_classes, labels_getter=itemgetter(-1)) for way, a in alphas.items() if a > 0]
    if not ways:
        return unmixed
    draw = v2.RandomChoice(ways)

    def mix(inputs: list[Tensor], labels: Tensor) -> tuple[list[Tensor], Tensor]:
        kinds = {4: tv_tensors.Image, 5: tv_tensors.Video}
        *mixed, targets = draw(*(kinds[x.ndim](x) for x in inputs), labels)
        return [x.as_subclass(Tensor) for x in mixed], targets

    return mix


def freeze(stages: Stages, last: str | None) -> list[nn.Module]:
    """Take the weights of the stages up to `last` out of training. Returns their modules, which are to be kept in eval
    mode: their batch norms' statistics are part of what they are.
    """
    if last is None:
        return []
    names = [name for name, _ in stages]
    frozen = [module for _, modules in stages[: names.index(last) + 1] for module in modules]
    for module in frozen:
        module.requires_grad_(False)
    return frozen


def compute_twice(stages: Stages) -> None:
    """Gradient checkpointing (Chen et al., 2016): of each stage but the head, only the input is held for the backward
    pass, in which the stage is computed again. The weights become the same as without.
    """
    for _, modules in stages[:-1]:
        for module in modules:
            again = partial(_contexts, module)
            module.forward = partial(checkpoint, module.forward, use_reentrant=False, context_fn=again)


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), _statistics_kept(module)


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norms take a batch into their running statistics at its first pass only, not when it is computed again."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, (_, counter) in zip(norms, kept, strict=True):
        # another counter, not none: synchronised batch norms insist on one
        norm.momentum, norm.num_batches_tracked = 0.0, None if counter is None else counter.clone()
    try:
        yield
    finally:
        for norm, (momentum, num_batches) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, num_batches


class RunningMean:
    """An exponential moving average of a network's weights and statistics (Polyak & Juditsky, 1992).

    After n steps the old has the share min(decay, (1 + n) / (10 + n)), so that a short run is not stuck at its start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._source, self._decay = model, decay
        self._averaged = AveragedModel(model, multi_avg_fn=self._mean, use_buffers=True)

    @property
    def model(self) -> nn.Module:
        """The network of the mean weights."""
        return self._averaged.module

    @property
    def num_steps(self) -> int:
        return int(self._averaged.n_averaged)

    @num_steps.setter
    def num_steps(self, value: int) -> None:
        self._averaged.n_averaged.fill_(value)

    def update(self) -> None:
        """Take in the weights as they are now."""
        self._averaged.update_parameters(self._source)

    def _mean(self, means: Any, values: Any, _: Any) -> None:
        n = self.num_steps
        with torch.no_grad():
            share = 1 - min(self._decay, (1 + n) / (10 + n))
            if means[0].is_floating_point():
                torch._foreach_lerp_(means, values, share)
            else:
                for mean, value in zip(means, values, strict=True):  # counts of batches
                    mean.copy_(value)


def stalled(history: Sequence[dict[str, Any]], best: dict[str, Any] | None, patience: int | None) -> bool:
    """True where the `best` epoch lies `patience` epochs back, or more."""
    return patience is not None and best is not None and history[-1]["epoch"] - best["epoch"] >= patience
