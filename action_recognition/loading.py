"""From a checkpoint file to a model that can be called, with the contract that says how."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from action_recognition.clip.contract import Contract, contract_from_plain
from action_recognition.config import ModelSpec, model_spec_from_plain
from action_recognition.errors import CheckpointError
from action_recognition.models import build_model
from action_recognition.models.weights import load_state
from action_recognition.training.checkpoint import read_checkpoint


def load_checkpoint(
    path: str | Path, device: str | torch.device = "cpu", key: str | None = None
) -> tuple[nn.Module, Contract]:
    """The trained model in eval mode on `device`, and its contract.

    A sealed file is opened with `key`, or with AR_ENCRYPTION_KEY in the environment. Only for checkpoints that hold a
    contract, as all of ours do. CheckpointError where the file can't be read, asks to run code, holds no contract, or
    does not fit its own description.
    """
    content = read_checkpoint(path, key)
    model_spec, contract = description(content, path)
    model = build_model(model_spec, len(contract.class_names))
    load_state(model, content.get("state_dict", {}), str(path))
    return model.to(device).eval(), contract


def description(content: Mapping[str, Any], path: str | Path) -> tuple[ModelSpec, Contract]:
    """The model spec and the contract that a checkpoint holds."""
    try:
        spec = content["spec"]
        if not isinstance(spec, Mapping):
            raise ValueError(f"the spec must be a mapping, got {type(spec).__name__}")
        return model_spec_from_plain(spec["model"]), contract_from_plain(content["contract"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its description of the model can't be used: {error}") from error
