"""A folder that NVIDIA's sample deepstream-3d-action-recognition (DeepStream 9) runs as it is.

In: an exported ONNX file of an RGB model, and what the ONNX file can't know: the streams, their size, how often to
look. Out: the app's file, nvdspreprocess's, nvinfer's (or nvinferserver's with a Triton repository), the labels, the
model and a README, whole or not at all. deepstream_check.py holds them against each other before they get their name.
"""

import shutil
from pathlib import Path

from action_recognition.deploy.bundles import raise_problems, servable_model
from action_recognition.deploy.deepstream_check import (
    APP_FILE,
    ENGINE_MODES,
    GIE_ID,
    INFER_FILE,
    LABEL_FILE,
    MODEL_FILE,
    PREPROCESS_FILE,
    TRITON_INFER_FILE,
    TRITON_MODEL,
    TRITON_REPOSITORY,
    engine_file,
    problems_in,
)
from action_recognition.deploy.deepstream_choices import Choices, Settings, make_choices
from action_recognition.deploy.deepstream_files import FILTERS
from action_recognition.deploy.deepstream_readme import readme, sampling_notes, timing
from action_recognition.deploy.triton import model_config, write_model
from action_recognition.files import new_folder


def write_deepstream(model_path: Path, target: Path, settings: Settings) -> list[str]:
    """Write the folder `target`. Returns what a person should know of it, a line each.

    SpecError for settings, DeployError for a model that the sample can't run, or for what does not go together.
    """
    choices = make_choices(servable_model(model_path), settings)
    with new_folder(target) as folder:
        (folder / APP_FILE).write_text(_app(choices), encoding="utf-8")
        (folder / PREPROCESS_FILE).write_text(_preprocess(choices), encoding="utf-8")
        (folder / LABEL_FILE).write_text(";".join(choices.model.contract.class_names), encoding="utf-8")
        if settings.with_triton:
            (folder / TRITON_INFER_FILE).write_text(_triton_infer(choices), encoding="utf-8")
            write_model(
                folder / TRITON_REPOSITORY / TRITON_MODEL, model_path, _repository_config(choices), choices.model
            )
        else:
            (folder / INFER_FILE).write_text(_infer(choices), encoding="utf-8")
            shutil.copyfile(model_path, folder / MODEL_FILE)
        raise_problems(target, problems_in(folder))
        (folder / "README.md").write_text(readme(choices), encoding="utf-8")
    return [timing(choices), *sampling_notes(choices.model.contract)]


def _app(choices: Choices) -> str:
    settings, (width, height) = choices.settings, choices.frame_size
    infer = f"triton-infer-config={TRITON_INFER_FILE}" if settings.with_triton else f"infer-config={INFER_FILE}"
    return f"""\
# README.md tells how to run it
[action-recognition]
uri-list={";".join(settings.uris)}
# 0: as fast as it goes
display-sync={int(not settings.headless)}
# 1: no display
fakesink={int(settings.headless)}
preprocess-config={PREPROCESS_FILE}
{infer}
# Every source is scaled to this size; the ROIs in {PREPROCESS_FILE} are places in it
muxer-width={width}
muxer-height={height}
# Microseconds
muxer-batch-timeout=40000
tiler-width=1280
tiler-height=720
# 1: labels in the log
debug={int(settings.headless)}
enable-fps=1
"""


def _preprocess(choices: Choices) -> str:
    contract, settings = choices.model.contract, choices.settings
    stream = contract.streams["rgb"]
    ((name, shape),) = choices.model.inputs.items()
    scales = ";".join(f"{1 / (255 * std):.9g}" for std in stream.std)  # 9 digits: the library reads 32-bit floats
    offsets = ";".join(f"{255 * mean:.9g}" for mean in stream.mean)
    rois = "\n".join(
        f"roi-params-src-{source}={';'.join(str(number) for roi in rois for number in roi)}"
        for source, rois in enumerate(choices.rois)
    )
    return f"""\
[property]
enable=1
gpu-id=0
target-unique-ids={GIE_ID}
process-on-frame=1
# {"N;C;T;H;W" if contract.is_3d else "N;C*T;H;W"}
network-input-shape={";".join(map(str, (choices.batch, *shape)))}
# 0: RGB
network-color-format=0
# 2: the library's own order
network-input-order=2
# 0: FP32
tensor-data-type=0
tensor-name={name}
processing-width={contract.width}
processing-height={contract.height}
maintain-aspect-ratio=0
scaling-pool-memory-type=0
scaling-pool-compute-hw=0
# 0: nearest, 1: bilinear
scaling-filter={FILTERS[settings.scaling_filter]}
tensor-buf-pool-size=8
custom-lib-path=/opt/nvidia/deepstream/deepstream/lib/libnvds_custom_sequence_preprocess.so
custom-tensor-preparation-function=CustomSequenceTensorPreparation

# y = scale * (pixel - offset), pixels 0..255, R;G;B: scale = 1 / (255 * std), offset = 255 * mean
[user-configs]
channel-scale-factors={scales}
channel-mean-offsets={offsets}
# The next clip starts this many of the frames that are used later
stride={settings.stride}
# Frames left out between two that are used
subsample={choices.subsample}

[group-0]
src-ids={";".join(map(str, range(len(choices.rois))))}
# Must stand before the ROIs: left;top;width;height, several one after the other
process-on-roi=1
{rois}
"""


def _infer(choices: Choices) -> str:
    precision = choices.model.description.precision
    typed = f"# TensorRT 10 takes {precision} from the tensors; network-mode would contradict them\nstrongly-typed=1\n"
    return f"""\
[property]
gpu-id=0
onnx-file={MODEL_FILE}
# Built at the first start, and only then: remove it when the model changes
model-engine-file={engine_file(choices.batch, choices.network_mode)}
labelfile-path={LABEL_FILE}
batch-size={choices.batch}
process-mode=1
input-tensor-from-meta=1
# 0: FP32, 1: INT8, 2: FP16
network-mode={ENGINE_MODES[choices.network_mode]}
{typed if choices.strongly_typed else ""}gie-unique-id={GIE_ID}
# 1: classifier
network-type=1
# A label is shown when its score is greater
classifier-threshold={choices.settings.threshold:g}
output-tensor-meta=1
tensor-meta-pool-size=8
"""


def _triton_infer(choices: Choices) -> str:
    return f"""\
infer_config {{
  unique_id: {GIE_ID}
  gpu_ids: [ 0 ]
  max_batch_size: {choices.batch}
  backend {{
    triton {{
      model_name: "{TRITON_MODEL}"
      version: -1
      # For a server of its own instead: grpc {{ url: "localhost:8001" }}
      model_repo {{
        root: "./{TRITON_REPOSITORY}"
        strict_model_config: true
      }}
    }}
    output_mem_type: MEMORY_TYPE_DEFAULT
  }}
  input_tensor_from_meta {{ is_first_dim_batch: true }}
  postprocess {{
    labelfile_path: "{LABEL_FILE}"
    classification {{ threshold: {choices.settings.threshold:g} }}
  }}
  extra {{ output_buffer_pool_size: 4 }}
}}
output_control {{ output_tensor_meta: true }}
"""


def _repository_config(choices: Choices) -> str:
    """Without a queue: nvinferserver sends whole batches, so waiting for more clips would only delay them."""
    return model_config(
        TRITON_MODEL, "onnx", choices.model.inputs, len(choices.model.contract.class_names), choices.batch
    )
