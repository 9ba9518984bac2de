"""ONNX files of a few weights, made without torch: fc_pred = flatten(input_rgb) @ W, for both inputs the sum."""

import json
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from action_recognition.clip.contract import Contract, Stream

RGB = {"input_rgb": (3, 2, 4, 4)}
JOINT = {**RGB, "input_of": (2, 2, 4, 4)}
STREAMS = {"rgb": Stream(2, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), "of": Stream(2, (0.5, 0.5), (0.5, 0.5))}
CONTRACT = Contract(
    "rgb", "3d", {"rgb": STREAMS["rgb"]}, 4, 4, False, 5, "consecutive", 1, "max_rad", ("fall", "sit", "walk")
)


def onnx_model(
    rows: Mapping[str, tuple[int, ...]] = RGB,
    batch: int | str = "batch",
    contract: Contract | None = CONTRACT,
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model with inputs (batch, *row) and fc_pred (batch, 3); `contract` goes into its metadata, as exported."""
    inputs = [helper.make_tensor_value_info(name, dtype, [batch, *row]) for name, row in rows.items()]
    nodes, sums = [], []
    for name in rows:
        nodes.append(helper.make_node("Cast", [name], [f"{name}_float"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Flatten", [f"{name}_float"], [f"{name}_flat"]))
        nodes.append(helper.make_node("MatMul", [f"{name}_flat", f"{name}_weight"], [f"{name}_out"]))
        sums.append(f"{name}_out")
    nodes.append(helper.make_node("Sum", sums, ["fc_pred"], name="sum"))
    weights = [numpy_helper.from_array(weight(name, row), f"{name}_weight") for name, row in rows.items()]
    output = helper.make_tensor_value_info("fc_pred", TensorProto.FLOAT, [batch, 3])
    graph = helper.make_graph(nodes, "tiny", inputs, [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if contract is not None:
        described = {"contract": json.dumps(contract.to_plain()), "output": "logits", "precision": "fp32"}
        helper.set_model_props(model, {**described, "producer": "action_recognition 0"})
    return model


def conv3d_model() -> onnx.ModelProto:
    """input_rgb (batch, 3, 8, 32, 32) -> 3x3x3 convolution to 16 channels, ReLU, mean over pixels, 5 classes."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["input_rgb", "kernel"], ["conv"], pads=[1] * 6),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["fc_pred"]),
    ]
    kernel, weights = rng.normal(size=(16, 3, 3, 3, 3)), rng.normal(size=(16, 5))
    constants = [("kernel", kernel), ("weight", weights)]
    clip = helper.make_tensor_value_info("input_rgb", TensorProto.FLOAT, ["batch", 3, 8, 32, 32])
    output = helper.make_tensor_value_info("fc_pred", TensorProto.FLOAT, ["batch", 5])
    tensors = [numpy_helper.from_array(values.astype(np.float32), name) for name, values in constants]
    graph = helper.make_graph(nodes, "conv3d", [clip], [output], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def onnx_bytes(rows: Mapping[str, tuple[int, ...]] = RGB, batch: int | str = "batch") -> bytes:
    return onnx_model(rows, batch).SerializeToString()


def weight(name: str, row: tuple[int, ...]) -> np.ndarray:
    """(values of a row, 3) float32."""
    return np.random.default_rng(len(name)).normal(size=(int(np.prod(row)), 3)).astype(np.float32)


def clips(batch: int, rows: Mapping[str, tuple[int, ...]] = RGB, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of that batch, other ones for each seed."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(batch, *row)).astype(np.float32) for name, row in rows.items()}


def expected(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """fc_pred by numpy."""
    return np.sum([x.reshape(len(x), -1) @ weight(name, x.shape[1:]) for name, x in inputs.items()], axis=0)
