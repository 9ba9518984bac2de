"""An exported model in the place of the network: evaluation and inference run it as they run a checkpoint.

In: an ONNX file or a TensorRT plan. Out: a module that is called as the network is and answers its logits.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from action_recognition.clip.contract import Contract
from action_recognition.config import Spec
from action_recognition.data.agreement import check_agreement, contract_of
from action_recognition.deploy.bundles import clip_shapes, shown
from action_recognition.deploy.executor import MODEL_SUFFIXES, Executor, open_executor, run_any
from action_recognition.errors import DeployError, SpecError
from action_recognition.sealing import key_from


class Exported(nn.Module):
    """An executor that is called as a network is: inputs (N, ...) in the contract's order -> logits (N, K).

    Of probabilities it answers the logarithms, whose softmax they are.
    """

    def __init__(self, executor: Executor, is_softmax: bool) -> None:
        super().__init__()
        self.executor, self.is_softmax = executor, is_softmax

    def forward(self, *inputs: Tensor) -> Tensor:
        arrays = (np.ascontiguousarray(x.float().cpu().numpy()) for x in inputs)
        (name,) = self.executor.outputs
        outputs = torch.from_numpy(run_any(self.executor, dict(zip(self.executor.inputs, arrays, strict=True)))[name])
        return outputs.log() if self.is_softmax else outputs


def is_exported(path: str) -> bool:
    """Whether a path names an exported model: by its suffix, as open_executor does."""
    return Path(path).suffix.lower() in MODEL_SUFFIXES


def load_exported(
    spec: Spec, path: str, fallback_classes: tuple[str, ...], device: torch.device
) -> tuple[Exported, Contract, str]:
    """The model in an ONNX file or a plan on `device`, its contract, and what to say of it.

    The spec describes a file that carries no contract. SpecError where it contradicts one that does, DeployError where
    the file can't be run here or takes other inputs than its contract says.
    """
    executor = open_executor(path, str(device), key=key_from(spec.encryption_key))
    description = executor.description
    if description is None:
        label_map = spec.dataset.label_map
        names = tuple(sorted(label_map, key=label_map.__getitem__)) if label_map else fallback_classes
        if "model.model_type" not in spec.origins or not names:
            raise SpecError(
                f"{path}: carries no contract; give the SPEC that its model was trained with as the first argument, "
                "with its dataset.label_map"
            )
        contract, note = contract_of(spec, names), "exported; it carries no contract, the spec says what it takes"
    else:
        contract, note = description.contract, f"exported in {description.precision}, and runs so"
        check_agreement(spec, contract, {}, path)
    check_tensors(executor, contract, path)
    return Exported(executor, description is not None and description.output == "softmax"), contract, note


def check_tensors(executor: Executor, contract: Contract, path: str | Path) -> None:
    """DeployError where a model's tensors are not those of a contract."""
    wanted = {name: (None, *shape) for name, shape in clip_shapes(contract).items()}
    found = {name: (None, *shape[1:]) for name, shape in executor.inputs.items()}
    answers = list(executor.outputs.values())
    if found != wanted or [shape[1:] for shape in answers] != [(len(contract.class_names),)]:
        taken, right = (", ".join(f"{name} {shown(shape)}" for name, shape in s.items()) for s in (found, wanted))
        raise DeployError(
            f"{path}: takes {taken} and answers {', '.join(map(shown, answers))}; it should take {right} and answer "
            f"Nx{len(contract.class_names)}"
        )
