"""The README of a DeepStream folder: how to run it, and how what runs there differs from the evaluation."""

from collections.abc import Iterator

from action_recognition.clip.contract import Contract
from action_recognition.clip.transform import evaluation_box, short_side_to
from action_recognition.deploy.bundles import shown
from action_recognition.deploy.deepstream_check import (
    APP_FILE,
    LABEL_FILE,
    MODEL_FILE,
    TRITON_MODEL,
    TRITON_REPOSITORY,
    engine_file,
)
from action_recognition.deploy.deepstream_choices import Choices

_SAMPLE = "/opt/nvidia/deepstream/deepstream/sources/apps/sample_apps/deepstream-3d-action-recognition"


def readme(choices: Choices) -> str:
    """README.md of a folder."""
    contract, settings = choices.model.contract, choices.settings
    ((name, shape),) = choices.model.inputs.items()
    sources = _counted(len(settings.uris), "source", "sources")
    classes = _counted(len(contract.class_names), "class", "classes")
    differences = "\n".join(f"- {line}" for line in _differences(choices))
    where = "DeepStream's Triton container" if settings.with_triton else "the DeepStream container"
    return f"""\
# Action recognition with DeepStream

For `deepstream-3d-action-recognition` of DeepStream 9: {sources}, {classes},
input `{name}` {shown((choices.batch, *shape))}.

## Run

In {where}. Once, build the sample and its library, with the CUDA version that `nvcc --version` tells:

```sh
cd {_SAMPLE}
CUDA_VER=13.2 make install
export PATH=$PATH:/opt/nvidia/deepstream/deepstream/bin
```

Then in this folder, since its files name one another by relative paths:

```sh
deepstream-3d-action-recognition -c {APP_FILE}
```

{_triton_note(choices) if settings.with_triton else _engine_note(choices)}

- {timing(choices)}.
- Your own streams: `uri-list` in {APP_FILE} (`file:///...`, `rtsp://...`, divided by `;`).
  For another number of sources, or frames of another size, write a new folder: batch and ROIs depend on both.
- After other edits: `python tools/bundle.py check FOLDER`.

## What differs from the evaluation

{differences}

## Limits

- An ROI keeps its place. The library collects a clip for each rectangle, so one that follows a person never fills it.
- The batch ({choices.batch}) must not be smaller than the number of all sources' ROIs: the library would drop clips.
- The class names are those of {LABEL_FILE}. The five names in the sample's source are for its log only.
"""


def timing(choices: Choices) -> str:
    """When the labels come."""
    num_frames, step = choices.model.contract.streams["rgb"].num_frames, choices.subsample + 1
    first, then = (num_frames - 1) * step + 1, choices.settings.stride * step
    often = "with every frame" if then == 1 else f"every {then} frames"
    return (
        f"The first label comes after {first} frames of a source, then one {often} "
        f"(clips of {num_frames} frames, stride {choices.settings.stride}, subsample {choices.subsample})"
    )


def sampling_notes(contract: Contract) -> list[str]:
    """What a stream can't give a model that was trained on whole videos."""
    if contract.sample_strategy == "consecutive":
        return []
    return [
        "The model was trained on frames spread over a whole video (random_interval). A stream has no end to spread "
        "them to: it gets frames at a fixed distance; choose `--subsample` so that a clip lasts as long as an action."
    ]


def _engine_note(choices: Choices) -> str:
    engine, precision = engine_file(choices.batch, choices.network_mode), choices.model.description.precision
    why = (
        f"\nIts name says fp32 as network-mode is 0; it computes in {precision}, which the tensors of {MODEL_FILE} say."
    )
    return f"""\
The first start builds the engine, which takes minutes, and keeps it as `{engine}`. DeepStream does
not see when it is out of date: after a change of {MODEL_FILE}, of the container or of the GPU, `rm -f *.engine`.\
{why if choices.strongly_typed else ""}"""


def _triton_note(choices: Choices) -> str:
    folder = f"{TRITON_REPOSITORY}/{TRITON_MODEL}"
    ((name, shape),) = choices.model.inputs.items()
    ranges = " ".join(
        f"--{which}Shapes={name}:{shown((batch, *shape))}"
        for which, batch in (("min", 1), ("opt", choices.batch), ("max", choices.batch))
    )
    precision = "--stronglyTyped" if choices.strongly_typed else "--fp16" if choices.network_mode == "fp16" else ""
    return f"""\
The ONNX file runs in ONNX Runtime. TensorRT is faster: build a plan in this container, as no other TensorRT can read
it, and write `platform: "tensorrt_plan"` into {folder}/config.pbtxt:

```sh
trtexec --onnx={folder}/1/model.onnx --saveEngine={folder}/1/model.plan \\
    {ranges} {precision}
```"""


def _differences(choices: Choices) -> Iterator[str]:
    settings, contract, roi = choices.settings, choices.model.contract, choices.rois[0][0]
    width, height = choices.frame_size
    yield f"Every source is first scaled to {width}x{height}, whatever its shape. The ROIs are places in that frame."
    yield _place(choices)
    taken = "the nearest pixel" if settings.scaling_filter == "nearest" else "the four nearest pixels (bilinear)"
    shrinks = max(roi.width / contract.width, roi.height / contract.height)
    texture = "fine texture flickers here" if shrinks > 2 else "little is lost"
    yield (
        f"Resizing takes {taken}; the evaluation averages all pixels that become one (antialiased bilinear). "
        f"The ROI is {shrinks:.1f} times the model's size: {texture}."
    )
    yield "The hardware decoder turns YUV into RGB, in the evaluation FFmpeg did: colours may differ by a few levels."
    yield "Frames count as they come: for more frames a second than the training videos have, raise `--subsample`."
    yield from sampling_notes(contract)
    if choices.network_mode == "fp16" and not settings.with_triton:
        yield "The engine computes in FP16; with `--network-mode fp32` in FP32 or TF32, and more slowly."
    yield "A label is that of one clip; `video_eval_mode=conv` averages the scores of several."


def _place(choices: Choices) -> str:
    contract, roi = choices.model.contract, choices.rois[0][0]
    if choices.settings.rois:
        seen = "the middle of whole frames" if contract.center_crop else "whole frames"
        return f"The ROIs are your own; the evaluation saw {seen}."
    if not contract.center_crop:
        return f"The whole frame is squashed to {contract.width}x{contract.height}, as in the evaluation."
    edges = ", ".join(f"{edge:.1f}" for edge in evaluation_box(choices.frame_size, contract))
    resized = "x".join(map(str, short_side_to(choices.frame_size, contract.smaller_edge)))
    return (
        f"The evaluation resizes to {resized} and crops the middle {contract.width}x{contract.height}, in this frame "
        f"left, top, right, bottom = {edges}; "
        f"the ROI is {roi.left}, {roi.top}, {roi.left + roi.width}, {roi.top + roi.height}."
    )


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
