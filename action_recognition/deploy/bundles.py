"""The model that a ready-made deployment folder is made for, and the class names that such a folder can hold.

In: an exported ONNX file. Out: a Model whose tensors are those of its contract, or a DeployError that lists all that is
not. deepstream.py and triton.py write the folders. Needs onnx, nothing else of the deploy extras.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from action_recognition.clip.contract import CHANNELS, Contract
from action_recognition.deploy.description import Description, description_of, parse_onnx, read_model
from action_recognition.errors import DeployError
from action_recognition.sealing import is_sealed_file

INPUT_NAMES = {"rgb": "input_rgb", "of": "input_of"}
OUTPUT_NAME = "fc_pred"

Dims = tuple[int | None, ...]  # None: dynamic


@dataclass(frozen=True)
class Model:
    """An exported ONNX file. `inputs` are the shapes of one clip, without the batch axis, by tensor name."""

    path: Path
    description: Description
    inputs: dict[str, tuple[int, ...]]

    @property
    def contract(self) -> Contract:
        return self.description.contract


@dataclass(frozen=True)
class _Tensor:
    type_name: str
    dims: Dims


def servable_model(path: Path) -> Model:
    """The model in an ONNX file. DeployError where it can't be served: everything that is wrong at once."""
    refuse_sealed(path)
    proto = parse_onnx(read_model(path), path)
    description = description_of(proto, path)
    if description is None:
        raise DeployError(
            f"{path}: has no contract, which says what its input must be; export the checkpoint with tools/export.py"
        )
    shapes = clip_shapes(description.contract)
    raise_problems(path, list(_problems(proto.graph, description.contract, shapes)))
    return Model(path, description, shapes)


def refuse_sealed(path: Path) -> None:
    """DeployError for a file that only this program can open."""
    if is_sealed_file(path):
        raise DeployError(f"{path}: is encrypted, which neither DeepStream nor Triton can open; export without a key")


def clip_shapes(contract: Contract) -> dict[str, tuple[int, ...]]:
    """The shape of one clip by input name: 3D (C, T, H, W), 2D (C * T, H, W)."""
    shapes: dict[str, tuple[int, ...]] = {}
    for modality, stream in contract.streams.items():
        C, T = CHANNELS[modality], stream.num_frames
        shapes[INPUT_NAMES[modality]] = (*((C, T) if contract.is_3d else (C * T,)), contract.height, contract.width)
    return shapes


def name_problems(class_names: Sequence[str], separators: str, most_bytes: int | None = None) -> Iterator[str]:
    """What is wrong with class names for a file whose labels end at `separators`, of at most `most_bytes` in UTF-8."""
    for name in class_names:
        if not name:
            yield "a class name is empty; give it one in dataset.label_map and train or export again"
        if wrong := [c for c in (*separators, "\0") if c in name]:
            yield f"class name {name!r} holds {wrong[0]!r}, where a label ends; rename the class and export again"
        if most_bytes and len(name.encode()) > most_bytes:
            yield f"class name {name[:20]!r}... is {len(name.encode())} bytes long, more than the {most_bytes} shown"


def raise_problems(what: object, problems: Sequence[str]) -> None:
    """DeployError with a line for each problem of `what`; nothing where there is none."""
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise DeployError("\n  ".join([f"{what}: {count}", *problems]))


def shown(dims: Sequence[object]) -> str:
    """A shape for a message; a dynamic axis is N."""
    return "x".join("N" if d is None else str(d) for d in dims)


def _problems(graph: Any, contract: Contract, shapes: dict[str, tuple[int, ...]]) -> Iterator[str]:
    weight_names = {weights.name for weights in graph.initializer}
    inputs = {i.name: _tensor(i) for i in graph.input if i.name not in weight_names}
    outputs = {o.name: _tensor(o) for o in graph.output}
    yield from _tensor_problems("input", inputs, shapes)
    yield from _tensor_problems("output", outputs, {OUTPUT_NAME: (len(contract.class_names),)})


def _tensor(value: Any) -> _Tensor:
    import onnx

    kind = value.type.tensor_type
    dims = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    return _Tensor(onnx.TensorProto.DataType.Name(kind.elem_type), dims)


def _tensor_problems(side: str, tensors: dict[str, _Tensor], expected: dict[str, tuple[int, ...]]) -> Iterator[str]:
    """What is wrong with the inputs or outputs; `expected` are their shapes without the batch axis."""
    if set(tensors) != set(expected):
        yield f"{side}s are {', '.join(tensors) or 'none'}; the contract's model has {', '.join(expected)}"
        return
    for name, dims in expected.items():
        tensor = tensors[name]
        if tensor.type_name != "FLOAT":
            yield f"{side} {name} is {tensor.type_name}; must be FLOAT: export with FP32 inputs and outputs"
        if tensor.dims[:1] != (None,):
            yield f"{side} {name} is {shown(tensor.dims)}: its batch axis is fixed; export with a dynamic batch"
        elif tensor.dims[1:] != dims:
            yield f"{side} {name} is {shown(tensor.dims)}, by the contract it is {shown((None, *dims))}"
