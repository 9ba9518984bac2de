"""Exported models as far as deployment folders look at them: names, shapes and metadata, without a network inside."""

import json
import re
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from action_recognition.clip.contract import CHANNELS, MODALITIES, Contract, Stream

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def make_contract(
    num_classes: int = 5, norm: tuple[tuple[float, ...], tuple[float, ...]] = HALF, **fields: Any
) -> Contract:
    """32 frames of 224x224, rgb and 3d but for `fields` of the contract."""
    model_type = fields.get("model_type", "rgb")
    streams = {"rgb": Stream(32, *norm), "of": Stream(32, (0.5, 0.5), (0.5, 0.5))}
    values = {
        "model_type": "rgb",
        "input_type": "3d",
        "streams": {modality: streams[modality] for modality in MODALITIES[model_type]},
        "height": 224,
        "width": 224,
        "center_crop": False,
        "smaller_edge": 256,
        "sample_strategy": "consecutive",
        "sample_rate": 1,
        "flow_encoding": "max_rad",
        "class_names": tuple(f"class_{i}" for i in range(num_classes)),
    }
    return Contract(**{**values, **fields})


def export(
    path: Path,
    contract: Contract | None,
    output: str = "softmax",
    precision: str = "fp32",
    inputs: dict[str, list[int | str]] | None = None,
    scores: list[int | str] | None = None,
    dtype: int = TensorProto.FLOAT,
) -> Path:
    """An ONNX file at `path` with the inputs and the output of the contract, or with the shapes that are given."""
    if contract is not None:
        inputs = inputs or {f"input_{m}": ["batch", *clip_shape(contract, m)] for m in contract.modalities}
        scores = scores or ["batch", len(contract.class_names)]
    assert inputs is not None
    values = [helper.make_tensor_value_info(name, dtype, dims) for name, dims in inputs.items()]
    out = helper.make_tensor_value_info("fc_pred", TensorProto.FLOAT, scores or ["batch", 5])
    node = helper.make_node("Identity", [next(iter(inputs))], ["fc_pred"])
    model = helper.make_model(helper.make_graph([node], "nothing", values, [out]))
    if contract is not None:
        described = {"contract": json.dumps(contract.to_plain()), "output": output, "precision": precision}
        helper.set_model_props(model, described)
    onnx.save(model, path)
    return path


def clip_shape(contract: Contract, modality: str) -> list[int]:
    channels, frames = CHANNELS[modality], contract.lengths[modality]
    time = [channels, frames] if contract.is_3d else [channels * frames]
    return [*time, contract.height, contract.width]


def parse_pbtxt(text: str) -> dict[str, list[Any]]:
    """Protobuf's text format as {field: [values]}; messages are dicts, lists are flattened, enums are texts."""
    tokens = re.findall(r'"[^"\n]*"|[{}\[\]:,]|[^\s{}\[\]:,"]+', re.sub(r"#.*", "", text))
    message = _message(tokens, "")
    assert tokens == [], f"left over: {tokens}"
    return message


def _message(tokens: list[str], end: str) -> dict[str, list[Any]]:
    fields: dict[str, list[Any]] = {}
    while tokens and tokens[0] != end:
        name = tokens.pop(0)
        assert name.isidentifier(), name
        if tokens[0] == ":":
            tokens.pop(0)
        fields.setdefault(name, []).extend(_values(tokens))
    return fields


def _values(tokens: list[str]) -> list[Any]:
    token = tokens.pop(0)
    if token == "{":
        message = _message(tokens, "}")
        assert tokens.pop(0) == "}"
        return [message]
    if token == "[":
        values = []
        while tokens[0] != "]":
            values += _values(tokens)
            if tokens[0] == ",":
                tokens.pop(0)
        tokens.pop(0)
        return values
    if token.startswith('"'):
        return [token[1:-1]]
    return [float(token) if re.fullmatch(r"-?[\d.]+(e-?\d+)?", token) else token]
