"""What a deployed model says of itself: its contract, what comes out of it, and how exact it is.

An ONNX file carries it in its metadata; a TensorRT plan, which has no room for it, in a JSON file of its own beside it.
Owns the names of both, and the reading of model files; runs no model.
"""

import json
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from action_recognition.clip.contract import Contract, contract_from_plain
from action_recognition.errors import DeployError
from action_recognition.sealing import is_sealed_file, unseal_file

SEALED_ONNX_SUFFIX = ".etlt"
OUTPUTS = ("logits", "softmax")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True)
class Description:
    """`output` is one of OUTPUTS, `precision` one of PRECISIONS: that of the weights, input and output are float32."""

    contract: Contract
    output: str
    precision: str

    def to_plain(self) -> dict[str, Any]:
        return {"contract": self.contract.to_plain(), "output": self.output, "precision": self.precision}


def describe_onnx(path: str | Path, key: str | None = None) -> Description | None:
    """What the ONNX file says of itself; None where it carries no contract. Needs onnx.

    DeployError where the file can't be read or its description can't be used.
    """
    return description_of(parse_onnx(read_model(path, key), path), path)


def describe_plan(path: str | Path) -> Description | None:
    """What stands in the file beside the plan; None where there is none, or no contract in it."""
    beside = description_path(path)
    if not beside.exists():
        return None
    try:
        plain = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DeployError(f"{beside}: can't be read: {error}") from error
    return _from_plain(plain, beside)


def description_path(plan: str | Path) -> Path:
    """The file beside a plan: model.plan -> model.plan.json."""
    return Path(f"{plan}.json")


def description_of(model: Any, what: str | Path) -> Description | None:
    """What an onnx.ModelProto says of itself."""
    return from_metadata({entry.key: entry.value for entry in model.metadata_props}, what)


def from_metadata(metadata: Mapping[str, str], what: str | Path) -> Description | None:
    """The description in the metadata of an ONNX file; `what` names the file in errors."""
    if "contract" not in metadata:
        return None
    try:
        contract = json.loads(metadata["contract"])
    except (ValueError, RecursionError) as error:
        raise DeployError(f"{what}: metadata contract: is no JSON: {error}") from error
    return _from_plain({**metadata, "contract": contract}, what)


def _from_plain(plain: Any, what: str | Path) -> Description | None:
    if not isinstance(plain, Mapping):
        raise DeployError(f"{what}: must be a mapping with a contract, got {type(plain).__name__}")
    if plain.get("contract") is None:
        return None
    for name, accepted in (("output", OUTPUTS), ("precision", PRECISIONS)):
        if plain.get(name) not in accepted:
            raise DeployError(f"{what}: {name} {reprlib.repr(plain.get(name))} is not one of {', '.join(accepted)}")
    try:
        contract = contract_from_plain(plain["contract"])
    except ValueError as error:
        raise DeployError(f"{what}: {error}") from error
    return Description(contract, plain["output"], plain["precision"])


def read_model(path: str | Path, key: str | None = None) -> bytes:
    """The content of a model file; a sealed one is opened with `key`, or else with AR_ENCRYPTION_KEY."""
    if is_sealed_file(path) or Path(path).suffix.lower() == SEALED_ONNX_SUFFIX:  # TAO's, which are told apart there
        return unseal_file(path, key)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DeployError(f"{path}: can't be read: {error.strerror}") from error


def parse_onnx(content: bytes, what: str | Path) -> Any:
    """The onnx.ModelProto. DeployError for what is no ONNX model, and for weights that are kept in other files."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise DeployError(f"{what}: reading it needs onnx: pip install onnx") from error
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise DeployError(f"{what}: is not an ONNX model, or is cut short: {error}") from error
    if not model.graph.node:
        raise DeployError(f"{what}: is not an ONNX model: there is no graph in it")
    outside = {_location(tensor) for tensor in _tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL}
    if outside:
        names = ", ".join(sorted(outside))
        raise DeployError(f"{what}: keeps weights in other files ({names}), which are not read; export it as one file")
    for tensor in _tensors(model):
        # The smallest elements have two bits. ONNX Runtime itself is satisfied where a size, cut to 64 bits, fits.
        if min(tensor.dims, default=0) < 0 or prod(tensor.dims) > 4 * tensor.ByteSize():
            raise DeployError(
                f"{what}: {tensor.name} claims shape {list(tensor.dims)}, and the file holds no such tensor"
            )
    return model


def _tensors(message: Any) -> Iterator[Any]:
    """Every TensorProto in a protobuf message, however deep: weights hide in attributes, subgraphs and functions."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _tensors(part)


def _location(tensor: Any) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), tensor.name)
