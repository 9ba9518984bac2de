"""torch.compile for a training run: of the forward pass and its gradients, with the network's names as they were."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from action_recognition.errors import SpecError


def compiled(model: nn.Module) -> Any:
    """`model` as it is called in training; the first call compiles it, and the first of another batch size once more.

    The weights stay those of `model`. A DistributedDataParallel is compiled as a whole: torch cuts it where gradients
    are exchanged. It is for GPUs: on a CPU, 5 minutes of compiling leave a step of a 3D ResNet-18 in fp32 as long as it
    was (16x112x112, one core).
    """
    return torch.compile(model)


@contextmanager
def compile_errors_told() -> Iterator[None]:
    """SpecError in place of what torch.compile raises where it can't work, such as a missing compiler."""
    from torch._dynamo.exc import TorchDynamoException  # its import takes seconds

    try:
        yield
    except TorchDynamoException as error:
        cause = getattr(error, "inner_exception", error)
        reason = next(iter(str(cause).splitlines()), type(cause).__name__)
        raise SpecError(
            f"train.compile: the model can't be compiled here ({reason}); torch.compile needs a C++ compiler (g++), "
            "and Triton on a GPU: install them, or set train.compile=false"
        ) from error
