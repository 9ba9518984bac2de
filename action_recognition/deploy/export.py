"""A trained model to one ONNX file that says what it is.

In: a network in eval mode, its contract, a precision. Out: the bytes of a file with float32 inputs input_rgb and
input_of, output fc_pred, a batch of any size and all other axes fixed, and nothing in it of the machine it was made on.
Whether it computes what the network does is for the caller to see, with `compare`. The only module here with torch.
"""

import copy
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

import action_recognition
from action_recognition.deploy.bundles import OUTPUT_NAME, clip_shapes
from action_recognition.deploy.description import Description
from action_recognition.errors import DeployError

# The largest difference from the float32 network that is accepted, as a share of its largest output.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 5e-2, "int8": 0.1}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.float32}


class Deployable(nn.Module):
    """The network as it is exported: float32 in and out, `dtype` inside, batch norms merged into the convolutions."""

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.float32, softmax: bool = False) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).cpu()
        _merge_batch_norms(self.model)  # before the weights lose digits; and ONNX can't merge them in bf16
        self.model.to(dtype)
        self.dtype, self.softmax = dtype, softmax
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor:
        """One input for each modality, (N, ...) float32 -> (N, K) logits, or probabilities, float32."""
        logits: Tensor = self.model(*(x.to(self.dtype) for x in inputs)).float()
        return logits.softmax(dim=1) if self.softmax else logits


def rounded(module: Deployable) -> Deployable:
    """What `module` computes, on a machine without its arithmetic: float32, each layer's result rounded to its type.

    bf16 convolutions on CPUs without bf16 take minutes a clip.
    """
    emulated, dtype = copy.deepcopy(module), module.dtype
    emulated.model.float()
    emulated.dtype = torch.float32
    emulated.register_forward_pre_hook(lambda _, inputs: tuple(x.to(dtype).float() for x in inputs))
    for layer in emulated.model.modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda _, inputs, output: output.to(dtype).float())
    return emulated


def to_onnx(module: Deployable, description: Description, opset: int) -> bytes:
    """The ONNX file of a module. DeployError where torch can't write it, or onnx finds it wrong."""
    example = tuple(torch.zeros(2, *shape) for shape in clip_shapes(description.contract).values())
    batch = torch.export.Dim("batch")
    try:
        # Warnings of the exporter's own machinery, and of logs to stdout, are nothing that a user can act on.
        with warnings.catch_warnings(action="ignore"), _quiet("torch.onnx", "onnxscript", "onnx_ir"):
            program = torch.onnx.export(
                module,
                example,
                input_names=list(clip_shapes(description.contract)),
                output_names=[OUTPUT_NAME],
                opset_version=opset,
                dynamic_shapes=(tuple({0: batch} for _ in example),),
                dynamo=True,
                verbose=False,
            )
    except ImportError as error:
        raise DeployError(f"exporting needs {_package(error)}: pip install '.[deploy]'") from error
    assert program is not None
    model = program.model_proto
    written = next(entry.version for entry in model.opset_import if not entry.domain)
    if written != opset:
        raise DeployError(f"opset {opset} was asked for, and this torch ({torch.__version__}) writes {written}")
    return finished(model, description)


def finished(model: Any, description: Description) -> bytes:
    """An onnx.ModelProto as it is shipped: stripped of its history, described, and found in order by onnx."""
    import onnx

    _strip(model)
    described = {"contract": json.dumps(description.contract.to_plain())}
    described |= {"output": description.output, "precision": description.precision}
    producer = f"action_recognition {action_recognition.__version__}"
    onnx.helper.set_model_props(model, {**described, "producer": producer})
    content: bytes = model.SerializeToString()
    try:
        onnx.checker.check_model(content, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise DeployError(f"onnx finds the exported model wrong: {error}") from error
    return content


def check_can_quantize() -> None:
    """DeployError where ModelOpt is missing: better now than after the export."""
    _modelopt()


def quantize(content: bytes, description: Description, clips: Mapping[str, np.ndarray], opset: int) -> bytes:
    """A float32 ONNX file with explicit int8 around its convolutions, calibrated on `clips` {input name: (N, ...)}.

    On a trained 3D ResNet-18 the ranges as they are (`max`) came four times closer to the network than `entropy`, and
    the rest in float32 twenty times closer than in float16.
    """
    import onnx

    post_training_quantization = _modelopt()
    with tempfile.TemporaryDirectory() as folder, _quiet("modelopt"):
        plain, quantized = (str(Path(folder, name)) for name in ("model.onnx", "model.quantized.onnx"))
        Path(plain).write_bytes(content)
        post_training_quantization(
            plain,
            quantize_mode="int8",
            calibration_data=dict(clips),
            calibration_method="max",
            calibration_eps=["cpu"],
            high_precision_dtype="fp32",
            opset=opset,
            output_path=quantized,
            log_level="CRITICAL",
        )
        return finished(onnx.load(quantized), description)


@dataclass(frozen=True)
class Comparison:
    """Two sets of outputs: the largest difference as a share of the largest output, and how many labels agree."""

    difference: float
    same_labels: int
    num_clips: int

    def __str__(self) -> str:
        return f"largest difference {self.difference:.1e}, {self.same_labels} of {self.num_clips} labels the same"

    def check(self, precision: str) -> None:
        """DeployError where the outputs are further apart than this precision explains, or are no numbers."""
        accepted = TOLERANCES[precision]
        if not self.difference <= accepted:  # nan is not
            hint = "" if precision == "fp32" else "; its weights or activations do not fit this precision, export fp32"
            raise DeployError(
                f"the exported model differs from the trained one by {self.difference:.1e} of the largest output; "
                f"{precision} accepts {accepted:.0e}{hint}"
            )


def compare(expected: np.ndarray, outputs: np.ndarray) -> Comparison:
    """Outputs (N, K) against those expected."""
    difference = float(np.abs(outputs - expected).max() / np.abs(expected).max())
    same = int((outputs.argmax(axis=1) == expected.argmax(axis=1)).sum())
    return Comparison(difference, same, len(expected))


def _merge_batch_norms(module: nn.Module) -> None:
    """Merge each batch norm into the convolution before it: in all our networks that is the child set before it, or the
    last layer of that child.
    """
    for (conv_name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
        if isinstance(conv, nn.Sequential):  # R(2+1)D's convolution over space, then over time
            conv_name, conv = f"{conv_name}.{len(conv) - 1}", conv[-1]
        if isinstance(conv, nn.Conv2d | nn.Conv3d) and isinstance(norm, _BatchNorm):
            module.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
            module.set_submodule(norm_name, nn.Identity())
    for child in module.children():
        _merge_batch_norms(child)


def _strip(message: Any) -> None:
    """Take out what the exporter noted for its own developers: stack traces with the paths of this machine."""
    for name in ("doc_string", "metadata_props"):
        if name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                _strip(part)


def _modelopt() -> Callable[..., None]:
    try:
        from modelopt.onnx.quantization import quantize as post_training_quantization
    except ImportError as error:
        raise DeployError(
            f"int8 needs NVIDIA ModelOpt, and {_package(error)} is not installed: pip install '.[quant]', best in an "
            "environment of its own"
        ) from error
    return post_training_quantization


def _package(error: ImportError) -> str:
    return str(error.name).partition(".")[0]


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Nothing on the terminal for the time of the block: progress bars, and what these loggers say below an error."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
