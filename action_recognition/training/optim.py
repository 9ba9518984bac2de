"""The optimizer, the learning rate schedule and the precision of a run, from the spec."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import MultiStepLR, ReduceLROnPlateau

from action_recognition.config import OptimSpec

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


Stages = Sequence[tuple[str, Sequence[nn.Module]]]  # a network's parts with their names, from the stem to the head


def make_optimizer(model: nn.Module, spec: OptimSpec, stages: Stages = ()) -> Optimizer:
    """SGD or AdamW, fused: one kernel a step on a GPU, one pass over memory on a CPU (2.5 times as fast).

    Over all parameters at one rate, or over those of `stages` that are trained, each stage at its own rate.
    In fp16 it looks itself whether the gradients are finite; otherwise the host would wait at each step to hear it.
    """
    groups: Any = parameter_groups(stages, spec) if stages else model.parameters()
    if spec.name == "AdamW":
        return AdamW(groups, spec.lr, (spec.momentum, 0.999), weight_decay=spec.weight_decay, fused=True)
    return SGD(groups, spec.lr, spec.momentum, weight_decay=spec.weight_decay, fused=True)


def parameter_groups(stages: Stages, spec: OptimSpec) -> list[dict[str, Any]]:
    """A group of parameters for each stage that is trained, the head's first, with its rate as a share of the head's.

    A stage has `stage_lr_decay` times the rate of the one after it (Howard & Ruder, Universal Language Model
    Fine-tuning for Text Classification, 2018, section 3.2).
    """
    groups = []
    for depth, (_, modules) in enumerate(reversed(stages)):
        trained = [p for module in modules for p in module.parameters() if p.requires_grad]
        share = spec.stage_lr_decay**depth
        if trained:
            groups.append({"params": trained, "lr": spec.lr * share, "lr_share": share})
    return groups


def restore_optimizer(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    """Load what state_dict() gave, whatever the memory format of the parameters was then.

    The fused kernel takes a parameter and its moments as blocks of memory of one order.
    """
    optimizer.load_state_dict(state_dict)
    for parameter, state in optimizer.state.items():
        for name in ("momentum_buffer", "exp_avg", "exp_avg_sq"):
            if state.get(name) is not None:
                state[name] = torch.empty_like(parameter).copy_(state[name])


class Schedule:
    """The learning rate: MultiStep by epoch, AutoReduce when its monitor stops falling, Cosine by step.

    In the `warmup_epochs` it rises step by step to what it would be. AutoReduce looks at no epoch of those.
    """

    def __init__(self, optimizer: Optimizer, spec: OptimSpec, num_epochs: int = 1, steps_per_epoch: int = 1) -> None:
        self.optimizer, self.spec, self.num_epochs, self.steps_per_epoch = optimizer, spec, num_epochs, steps_per_epoch
        self.monitor = spec.lr_monitor if spec.lr_scheduler == "AutoReduce" else None
        self._scheduler: Any
        if self.monitor:
            lowest = [spec.min_lr * _share(group) for group in optimizer.param_groups]
            self._scheduler = ReduceLROnPlateau(optimizer, factor=spec.lr_decay, patience=spec.patience, min_lr=lowest)
        else:
            steps = spec.lr_steps if spec.lr_scheduler == "MultiStep" else ()
            self._scheduler = MultiStepLR(optimizer, list(steps), spec.lr_decay)

    @property
    def lr(self) -> float:
        """The rate of the head, the highest."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step_begins(self, epoch: int, step: int) -> None:
        """Set the rate of an epoch's optimizer step, where it changes by step. The last one of the warm-up has lr."""
        warmup, done = self.spec.warmup_epochs, epoch + step / self.steps_per_epoch
        if epoch < warmup:
            factor = (epoch + (step + 1) / self.steps_per_epoch) / warmup
        elif self.spec.lr_scheduler == "Cosine":
            factor = cosine((done - warmup) / max(1, self.num_epochs - warmup))
        else:
            return
        for group in self.optimizer.param_groups:
            group["lr"] = self.spec.lr * _share(group) * factor

    def epoch_done(self, measured: Mapping[str, float]) -> None:
        """Step after an epoch; AutoReduce only after one that measured its monitor."""
        if not self.monitor:
            self._scheduler.step()
        elif self.monitor in measured and measured.get("epoch", 0) >= self.spec.warmup_epochs:
            self._scheduler.step(measured[self.monitor])

    def state_dict(self) -> dict[str, Any]:
        return self._scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scheduler.load_state_dict(state)


def cosine(done: float) -> float:
    """Half a cosine wave from 1 to 0 (Loshchilov & Hutter, SGDR, 2017, equation 5, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def _share(group: Mapping[str, Any]) -> float:
    return float(group.get("lr_share", 1.0))


def restart_schedule(
    optimizer: Optimizer, spec: OptimSpec, epochs_done: int, num_epochs: int = 1, steps_per_epoch: int = 1
) -> Schedule:
    """A schedule by a spec that has changed, as if it had been the run's from the start (MultiStep, Cosine) or from now
    on.
    """
    for group in optimizer.param_groups:
        group.pop("initial_lr", None)
        group.update(lr=spec.lr * _share(group), weight_decay=spec.weight_decay)
        group.update({"momentum": spec.momentum} if spec.name == "SGD" else {"betas": (spec.momentum, 0.999)})
    schedule = Schedule(optimizer, spec, num_epochs, steps_per_epoch)
    for group in optimizer.param_groups:
        if spec.lr_scheduler == "MultiStep":
            group["lr"] *= spec.lr_decay ** sum(step <= epochs_done for step in spec.lr_steps)
    if schedule.monitor is None:
        schedule.load_state_dict({**schedule.state_dict(), "last_epoch": epochs_done, "_last_lr": [schedule.lr]})
    return schedule


@dataclass(frozen=True)
class Precision:
    """The number format of the forward pass; weights, loss and optimizer stay in float32."""

    name: str
    device_type: str

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device_type, DTYPES[self.name], enabled=self.name != "fp32")

    def scaler(self) -> torch.amp.GradScaler:
        """Scales the loss for fp16, whose small gradients would vanish; does nothing for the others."""
        return torch.amp.GradScaler(self.device_type, enabled=self.name == "fp16")


def memory_format(name: str, precision: Precision, is_3d: bool) -> torch.memory_format:
    """The order in memory that `name` (auto, contiguous, channels_last) means for a network and its input.

    Tensor cores take channels last, and cuDNN reorders what lies otherwise before and after each convolution. A CPU
    takes 2 to 13 % longer with it in fp32 (training steps of a 3D ResNet-18, 16x112x112 and 9x64x64).
    """
    auto = "channels_last" if precision.device_type == "cuda" and precision.name != "fp32" else "contiguous"
    channels_last = (auto if name == "auto" else name) == "channels_last"
    if not channels_last:
        return torch.contiguous_format
    return torch.channels_last_3d if is_3d else torch.channels_last


def default_precision(device: torch.device) -> str:
    """bf16 on GPUs that have it (NVIDIA Ampere and later), else fp32."""
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if has_bf16 else "fp32"


def conv3d_depths(model: nn.Module, inputs: list[torch.Tensor]) -> set[int]:
    """The temporal depths at which the model's 3D convolutions of temporal size 3 see `inputs`."""
    depths: set[int] = set()

    def note(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] == 3:
            depths.add(args[0].shape[2])

    hooks = [m.register_forward_pre_hook(note) for m in model.modules() if isinstance(m, nn.Conv3d)]
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(*inputs)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return depths


def bf16_conv3d_is_right(depth: int) -> bool:
    """Whether this CPU's bf16 conv3d has the weight gradient that its fp32 one has, at a temporal depth.

    On CPUs with AVX-512 bf16, torch 2.13 to 2.15 give a wrong one at depth 2 (kernel 3, padding 1).
    """
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=generator) for shape in ((2, 16, depth, 8, 8), (16, 16, 3, 3, 3)))
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        w = weight.detach().to(dtype).requires_grad_()
        nn.functional.conv3d(x.to(dtype), w, padding=1).float().square().sum().backward()
        assert w.grad is not None
        gradients.append(w.grad.float())
    exact, rounded = gradients
    return bool((rounded - exact).norm() < 0.1 * exact.norm())
