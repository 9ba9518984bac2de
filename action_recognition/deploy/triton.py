"""A model repository for NVIDIA's Triton Inference Server, with a client that builds the input by the contract.

In: an exported ONNX file, or a TensorRT plan with its description beside it. Out: a folder with the repository
(<model>/config.pbtxt, labels.txt, 1/model.onnx or model.plan), contract.json, client.py and a README, whole or not at
all.
"""

import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from action_recognition.deploy.bundles import (
    OUTPUT_NAME,
    Model,
    clip_shapes,
    name_problems,
    raise_problems,
    refuse_sealed,
    servable_model,
)
from action_recognition.deploy.description import describe_plan, description_path
from action_recognition.errors import DeployError, SpecError
from action_recognition.files import new_folder

REPOSITORY = "model_repository"
DEFAULT_MAX_BATCH = 8
QUEUE_DELAY_US = 2000  # how long a clip waits for others to share a batch with: little beside what a batch takes
_PLATFORMS = {"onnx": "onnxruntime_onnx", "plan": "tensorrt_plan"}
_IMAGE_TAG = "26.10-py3"


@dataclass(frozen=True)
class Settings:
    """`max_batch` None is the plan's largest batch, for an ONNX file DEFAULT_MAX_BATCH. `on_cpu` is for ONNX only."""

    name: str = "action_recognition"
    max_batch: int | None = None
    on_cpu: bool = False


@dataclass(frozen=True)
class _Plan:
    """A TensorRT plan: the smallest and largest batch that it takes, and where it runs."""

    model: Model
    batches: tuple[int, int]
    tensorrt: str
    gpu: str


def write_triton_onnx(model_path: Path, target: Path, settings: Settings) -> None:
    """Write the folder `target` that serves an ONNX file with ONNX Runtime.

    SpecError for settings, DeployError for a model that can't be served.
    """
    model = servable_model(model_path)
    _write(
        model,
        "onnx",
        target,
        settings,
        DEFAULT_MAX_BATCH if settings.max_batch is None else settings.max_batch,
        _onnx_note(model),
    )


def write_triton_plan(plan_path: Path, target: Path, settings: Settings) -> None:
    """Write the folder `target` that serves a TensorRT plan. Errors as `write_triton_onnx`."""
    plan = _read_plan(plan_path)
    smallest, largest = plan.batches
    max_batch = largest if settings.max_batch is None else settings.max_batch
    if settings.on_cpu:
        raise SpecError("--cpu: a TensorRT plan runs on GPUs alone; serve the ONNX file")
    if smallest != 1:
        raise DeployError(
            f"{plan_path}: takes batches from {smallest}; Triton sends single clips, too: build it from 1"
        )
    if max_batch > largest:
        raise SpecError(f"--max-batch {max_batch}: {plan_path} was built for at most {largest}")
    _write(plan.model, "plan", target, settings, max_batch, _plan_note(plan))


def write_model(folder: Path, model_path: Path, config: str, model: Model) -> None:
    """One model of a repository: `folder` with config.pbtxt, labels.txt and the model as version 1."""
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config, encoding="utf-8")
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in model.contract.class_names), encoding="utf-8")
    shutil.copyfile(model_path, folder / "1" / ("model.onnx" if model_path.suffix == ".onnx" else "model.plan"))


def model_config(
    name: str,
    kind: str,
    inputs: Mapping[str, tuple[int, ...]],
    num_classes: int,
    max_batch: int,
    queue_delay_us: int | None = None,
    on_cpu: bool = False,
) -> str:
    """config.pbtxt. `kind` is onnx or plan; `inputs` are without the batch axis; without a delay no clip waits."""
    input_blocks = ",\n".join(_tensor(n, dims) for n, dims in inputs.items())
    output_block = _tensor(OUTPUT_NAME, (num_classes,), '    label_filename: "labels.txt"\n')
    batching = f"dynamic_batching {{ max_queue_delay_microseconds: {queue_delay_us} }}\n" if queue_delay_us else ""
    return f"""\
name: "{name}"
platform: "{_PLATFORMS[kind]}"
max_batch_size: {max_batch}
input [
{input_blocks}
]
output [
{output_block}
]
{batching}instance_group [
  {{ kind: {"KIND_CPU" if on_cpu else "KIND_GPU"} count: 1 }}
]
"""


def _tensor(name: str, dims: tuple[int, ...], more: str = "") -> str:
    return f"""\
  {{
    name: "{name}"
    data_type: TYPE_FP32
    dims: [ {", ".join(map(str, dims))} ]
{more}  }}"""


def _read_plan(path: Path) -> _Plan:
    """DeployError where the description beside the plan lacks or is not that of its tensors."""
    refuse_sealed(path)
    description, beside = describe_plan(path), description_path(path)
    if description is None:
        raise DeployError(
            f"{path}: {beside.name} lacks beside it, or has no contract; build the plan with tools/build_engine.py"
        )
    plain: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8"))  # describe_plan has read it already
    shapes, profiles = clip_shapes(description.contract), plain.get("inputs")
    if not isinstance(profiles, dict) or not all(
        _is_profile(profiles.get(name), shape) for name, shape in shapes.items()
    ):
        raise DeployError(f"{beside}: inputs must be [min, opt, max] shapes of {', '.join(shapes)}, got {profiles!r}")
    batches = [(profile[0][0], profile[2][0]) for profile in profiles.values()]
    return _Plan(
        model=Model(path, description, shapes),
        batches=(max(low for low, _ in batches), min(high for _, high in batches)),
        tensorrt=str(plain.get("tensorrt", "?")),
        gpu=str(plain.get("gpu", "?")),
    )


def _is_profile(profile: Any, shape: tuple[int, ...]) -> bool:
    """Three shapes (smallest, best, largest), each a batch of `shape`."""
    return (
        isinstance(profile, list)
        and len(profile) == 3
        and all(isinstance(one, list) and tuple(one[1:]) == shape and isinstance(one[0], int) for one in profile)
    )


def _write(model: Model, kind: str, target: Path, settings: Settings, max_batch: int, note: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*", settings.name, re.ASCII):
        raise SpecError(f"--name {settings.name!r}: a model's name is letters, digits, _, - and .")
    if max_batch < 1:
        raise SpecError(f"--max-batch {max_batch}: must be at least 1")
    raise_problems(model.path, list(name_problems(model.contract.class_names, "\n\r")))
    num_classes = len(model.contract.class_names)
    config = model_config(settings.name, kind, model.inputs, num_classes, max_batch, QUEUE_DELAY_US, settings.on_cpu)
    about = {"model": settings.name, "inputs": list(model.inputs), **model.description.to_plain()}
    with new_folder(target) as folder:
        write_model(folder / REPOSITORY / settings.name, model.path, config, model)
        (folder / "contract.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(Path(__file__).with_name("triton_client.py"), folder / "client.py")
        (folder / "README.md").write_text(_readme(model, settings, max_batch, note), encoding="utf-8")


# --- the README ---


def _onnx_note(model: Model) -> str:
    precision = model.description.precision
    notes = {
        "fp32": "A TensorRT plan of the same model is faster: `python tools/bundle.py triton --plan FILE FOLDER`.",
        "fp16": "ONNX Runtime computes in FP16, too. A TensorRT plan is faster.",
        "bf16": "ONNX Runtime has no BF16 convolution on a CPU, and not in every version one on a GPU; where the model "
        "does not load, serve a TensorRT plan.",
        "int8": "ONNX Runtime on a GPU computes the quantised layers in floating point: the labels are those of INT8, "
        "the speed is not. For the speed serve a TensorRT plan.",
    }
    return notes[precision]


def _plan_note(plan: _Plan) -> str:
    return (
        f"The plan was built by TensorRT {plan.tensorrt} on {plan.gpu}, and runs there alone: in a container with that "
        "TensorRT, on that kind of GPU. Elsewhere build it again in the container and put it in its place, or serve "
        "the ONNX file."
    )


def _readme(model: Model, settings: Settings, max_batch: int, note: str) -> str:
    contract = model.contract
    clip_mb = sum(4 * math.prod(shape) for shape in model.inputs.values()) / 1e6
    videos = (
        "VIDEO.mp4"
        if contract.model_type == "rgb"
        else "FOLDER   # with " + ("u, v" if contract.model_type == "of" else "rgb, u, v")
    )
    meaning = (
        "probabilities" if model.description.output == "softmax" else "logits: softmax makes probabilities of them"
    )
    return f"""\
# Action recognition with Triton

`{REPOSITORY}` serves `{settings.name}`: {len(contract.class_names)} classes, batches of up to {max_batch} clips.
{note}

## Server

`$IMAGE` is NVIDIA's image `tritonserver`, tag `{_IMAGE_TAG}`, from its NGC catalog.

```sh
docker run --rm {"" if settings.on_cpu else "--gpus all "}-p 8000:8000 -p 8001:8001 -p 8002:8002 \\
    -v "$PWD/{REPOSITORY}:/models:ro" "$IMAGE" tritonserver --model-repository=/models
curl -f localhost:8000/v2/models/{settings.name}/ready && echo ready
```

## Client

```sh
pip install "tritonclient[grpc]"   # beside action_recognition
python client.py {videos}
```

client.py samples, resizes and normalises as the evaluation does: by contract.json and with the same code. It sends
one clip of {clip_mb:.1f} MB over gRPC; `{OUTPUT_NAME}` comes back as {meaning}.
{" ".join(f"Input `{name}`: FP32 [N, {', '.join(map(str, shape))}]." for name, shape in model.inputs.items())}
For the labels by name ask for the classification: `InferRequestedOutput("{OUTPUT_NAME}", class_count=3)`.

Another version of the model: put it into `{REPOSITORY}/{settings.name}/2/`; Triton serves the highest number.
"""
