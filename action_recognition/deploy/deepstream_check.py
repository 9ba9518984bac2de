"""The files of a DeepStream folder held against each other and against the model's contract.

`problems_in` reads the folder back, so that it judges what will run: a folder just written, or one edited since. It
knows what nvdspreprocess, its sequence library, nvinfer and the sample app do with the values (DeepStream 9), above
all where they go on without a word: clips dropped, labels cut off, an engine built again at every start.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from action_recognition.deploy.bundles import Model, name_problems, raise_problems, servable_model, shown
from action_recognition.deploy.deepstream_files import (
    KeyFile,
    Roi,
    channel_numbers,
    read_key_file,
    rois_of,
    whole_number,
    whole_numbers,
)
from action_recognition.errors import DeployError

APP_FILE = "deepstream_action_recognition_config.txt"
PREPROCESS_FILE = "config_preprocess.txt"
INFER_FILE = "config_infer.txt"
TRITON_INFER_FILE = "config_triton_infer.txt"
LABEL_FILE = "labels.txt"
MODEL_FILE = "model.onnx"
TRITON_REPOSITORY, TRITON_MODEL = "triton_model_repo", "action_recognition"
GIE_ID = 1
ENGINE_MODES = {"fp32": 0, "int8": 1, "fp16": 2}  # nvinfer's network-mode
MOST_CLIPS = 1024  # NVDSINFER_MAX_BATCH_SIZE
MOST_LABEL_BYTES = 127  # MAX_LABEL_SIZE less the closing 0; what is longer is cut off
_LABEL_ENDS = ";\n\r"

# What the parsers insist on, and what they would take for something else when it lacks.
MANDATORY: dict[str, dict[str, tuple[str, ...]]] = {
    APP_FILE: {
        "action-recognition": (
            *("uri-list", "display-sync", "fakesink", "preprocess-config", "muxer-height", "muxer-width"),
            *("muxer-batch-timeout", "tiler-height", "tiler-width", "debug", "enable-fps"),
        )
    },
    PREPROCESS_FILE: {
        "property": (
            *("target-unique-ids", "process-on-frame", "network-input-shape", "network-color-format"),
            *("network-input-order", "tensor-data-type", "tensor-name", "processing-width", "processing-height"),
            *("scaling-filter", "scaling-pool-memory-type", "custom-lib-path", "custom-tensor-preparation-function"),
        ),
        "user-configs": ("channel-scale-factors", "channel-mean-offsets", "stride", "subsample"),
        "group-0": ("src-ids", "process-on-roi"),
    },
    INFER_FILE: {
        "property": (
            *("onnx-file", "model-engine-file", "labelfile-path", "batch-size", "process-mode", "network-mode"),
            *("input-tensor-from-meta", "gie-unique-id", "network-type", "output-tensor-meta"),
        )
    },
}
# Other values would run, and compute something else.
_FIXED: dict[str, dict[str, str]] = {
    PREPROCESS_FILE: {
        "process-on-frame": "1",
        "network-color-format": "0",
        "network-input-order": "2",
        "tensor-data-type": "0",
        "maintain-aspect-ratio": "0",
        "custom-tensor-preparation-function": "CustomSequenceTensorPreparation",
    },
    INFER_FILE: {
        "process-mode": "1",
        "input-tensor-from-meta": "1",
        "network-type": "1",
        "onnx-file": MODEL_FILE,
        "labelfile-path": LABEL_FILE,
    },
}


@dataclass(frozen=True)
class _Bundle:
    app: dict[str, str]
    preprocess: KeyFile
    infer: dict[str, str]
    labels: str
    model: Model
    with_triton: bool

    @property
    def network(self) -> dict[str, str]:
        return self.preprocess["property"]

    @property
    def group(self) -> dict[str, str]:
        return self.preprocess["group-0"]

    @property
    def uris(self) -> list[str]:
        return [uri for uri in self.app["uri-list"].split(";") if uri]

    @property
    def rois(self) -> list[tuple[Roi, ...]]:
        """Of each source; the whole frame where process-on-roi is 0."""
        if self.group["process-on-roi"] != "1":
            return [(Roi(0, 0, *self.frame_size),)] * len(self.uris)
        return [rois_of(self.group, source) for source in range(len(self.uris))]

    @property
    def frame_size(self) -> tuple[int, int]:
        return whole_number(self.app, "muxer-width"), whole_number(self.app, "muxer-height")

    @property
    def batch(self) -> int:
        return whole_numbers(self.network, "network-input-shape")[0]


def check_deepstream(folder: Path) -> None:
    """DeployError with everything that is wrong in a DeepStream folder."""
    raise_problems(folder, problems_in(folder))


def problems_in(folder: Path) -> list[str]:
    """What is wrong in a DeepStream folder, a line each. DeployError where a file is missing or can't be read."""
    with_triton = (folder / TRITON_INFER_FILE).exists()
    names = [APP_FILE, PREPROCESS_FILE, *([] if with_triton else [INFER_FILE])]
    files = {name: read_key_file(folder / name) for name in names}
    if missing := list(_missing_keys(files)):
        return missing
    bundle = _Bundle(
        app=files[APP_FILE]["action-recognition"],
        preprocess=files[PREPROCESS_FILE],
        infer=_triton_values(folder) if with_triton else files[INFER_FILE]["property"],
        labels=_read(folder / LABEL_FILE),
        model=servable_model(
            folder / (f"{TRITON_REPOSITORY}/{TRITON_MODEL}/1/model.onnx" if with_triton else MODEL_FILE)
        ),
        with_triton=with_triton,
    )
    checks = (_app, _fixed_values, _shape, _batch, _sources, _rois, _arithmetic, _infer, _labels)
    try:
        return [problem for check in checks for problem in check(bundle)]
    except ValueError as error:  # of a value that is no number: nothing can be said of the others
        return [str(error)]


def engine_file(batch: int, network_mode: str) -> str:
    """The name under which nvinfer keeps the engine that it builds, on GPU 0."""
    return f"{MODEL_FILE}_b{batch}_gpu0_{network_mode}.engine"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DeployError(f"{path}: can't be read ({error})") from error


def _triton_values(folder: Path) -> dict[str, str]:
    """What nvinferserver's file shares with nvinfer's, by nvinfer's names."""
    text = _read(folder / TRITON_INFER_FILE)
    keys = {"batch-size": "max_batch_size", "gie-unique-id": "unique_id"}
    found = {key: re.search(rf"^\s*{name}: *(\d+)", text, re.MULTILINE) for key, name in keys.items()}
    if missing := [keys[key] for key, match in found.items() if match is None]:
        raise DeployError(f"{folder / TRITON_INFER_FILE}: {missing[0]} lacks")
    return {key: match[1] for key, match in found.items() if match is not None}


# --- the checks: each gives what is wrong, a line each ---


def _missing_keys(files: dict[str, KeyFile]) -> Iterator[str]:
    for name, content in files.items():
        for section, keys in MANDATORY[name].items():
            for key in keys:
                if key not in content.get(section, {}):
                    yield f"{name}: [{section}] lacks {key}"


def _app(bundle: _Bundle) -> Iterator[str]:
    if not bundle.uris:
        yield f"{APP_FILE}: uri-list is empty; give at least one file:///... or rtsp://..."
    for uri in bundle.uris:
        if not urlsplit(uri).scheme or re.search(r"[\s\\]", uri):
            yield f"{APP_FILE}: uri-list: {uri!r} is no URI; a file is file:///full/path, a blank %20, a ; %3B"
    if bundle.app["preprocess-config"] != PREPROCESS_FILE:
        yield f"{APP_FILE}: preprocess-config is {bundle.app['preprocess-config']!r}, not {PREPROCESS_FILE}"
    key, name = ("triton-infer-config", TRITON_INFER_FILE) if bundle.with_triton else ("infer-config", INFER_FILE)
    if bundle.app.get(key) != name:
        yield f"{APP_FILE}: {key} is {bundle.app.get(key)!r}, must be {name}"


def _fixed_values(bundle: _Bundle) -> Iterator[str]:
    contents = {PREPROCESS_FILE: bundle.network}
    if not bundle.with_triton:
        contents[INFER_FILE] = bundle.infer
    for name, values in contents.items():
        for key, value in _FIXED[name].items():
            if values.get(key, value) != value:
                yield f"{name}: {key} is {values[key]}, must be {value}"


def _shape(bundle: _Bundle) -> Iterator[str]:
    ((name, shape),) = bundle.model.inputs.items()
    configured = whole_numbers(bundle.network, "network-input-shape")
    if configured[1:] != shape:
        yield (
            f"{PREPROCESS_FILE}: network-input-shape is {';'.join(map(str, configured))}, "
            f"the model's is {shown((None, *shape))}: write N;{';'.join(map(str, shape))}"
        )
    if bundle.network["tensor-name"] != name:
        yield f"{PREPROCESS_FILE}: tensor-name is {bundle.network['tensor-name']!r}, the model's input is {name!r}"
    contract = bundle.model.contract
    for key, size in (("processing-width", contract.width), ("processing-height", contract.height)):
        if whole_number(bundle.network, key) != size:
            yield f"{PREPROCESS_FILE}: {key} is {bundle.network[key]}, the model's is {size}"


def _batch(bundle: _Bundle) -> Iterator[str]:
    batch, num_rois = bundle.batch, sum(map(len, bundle.rois))
    if whole_number(bundle.infer, "batch-size") != batch:
        yield f"batch-size is {bundle.infer['batch-size']}, network-input-shape begins with {batch}: must be the same"
    if batch < num_rois:
        yield (
            f"a batch of {batch} is too small for the {num_rois} ROIs of all sources together: of the clips that are "
            f"ready at once, the library would drop the rest; at least --batch {num_rois}"
        )
    if not 1 <= batch <= MOST_CLIPS:
        yield f"a batch of {batch} is not in 1..{MOST_CLIPS}, which nvinfer accepts"


def _sources(bundle: _Bundle) -> Iterator[str]:
    expected = tuple(range(len(bundle.uris)))
    if whole_numbers(bundle.group, "src-ids") != expected:
        yield (
            f"{PREPROCESS_FILE}: src-ids is {bundle.group['src-ids']}, for {len(expected)} URIs it must be "
            f"{';'.join(map(str, expected))}"
        )
    if whole_number(bundle.infer, "gie-unique-id") not in whole_numbers(bundle.network, "target-unique-ids"):
        yield (
            f"gie-unique-id {bundle.infer['gie-unique-id']} is not among target-unique-ids "
            f"{bundle.network['target-unique-ids']}: nvinfer would get no clip"
        )


def _rois(bundle: _Bundle) -> Iterator[str]:
    keys = list(bundle.group)
    places = [i for i, key in enumerate(keys) if key.startswith("roi-params-src-")]
    if bundle.group["process-on-roi"] == "1" and places and places[0] < keys.index("process-on-roi"):
        yield f"{PREPROCESS_FILE}: process-on-roi must stand before roi-params-src-..., which are skipped else"
    for source, rois in enumerate(bundle.rois):
        if not rois:
            yield f"{PREPROCESS_FILE}: roi-params-src-{source} lacks: source {source} has no ROI"
        for roi in rois:
            for problem in _roi_problems(roi, *bundle.frame_size):
                yield f"ROI {';'.join(map(str, roi))} of source {source}: {problem}"
        yield from _roi_collisions(source, rois)


def _roi_problems(roi: Roi, width: int, height: int) -> Iterator[str]:
    if roi.width < 2 or roi.height < 2:
        yield "width and height must be at least 2"
    if min(roi.left, roi.top) < 0 or roi.left + roi.width > width or roi.top + roi.height > height:
        yield f"is not inside the {width}x{height} frame"
    if any(number % 2 for number in roi):
        yield "all four must be even: nvdspreprocess rounds what is odd"


def _roi_collisions(source: int, rois: Sequence[Roi]) -> Iterator[str]:
    """The library tells the ROIs of a source apart by corner, right edge and top * height, so some look the same."""
    seen: dict[tuple[int, ...], Roi] = {}
    for roi in rois:
        other = seen.setdefault((roi.left, roi.top, roi.left + roi.width, roi.top * roi.height), roi)
        if other is not roi:
            yield (
                f"ROIs {';'.join(map(str, other))} and {';'.join(map(str, roi))} of source {source} are one to the "
                "sequence library, which would mix their frames; move or narrow one by 2 pixels"
            )


def _arithmetic(bundle: _Bundle) -> Iterator[str]:
    values, stream = bundle.preprocess["user-configs"], bundle.model.contract.streams["rgb"]
    for key, expected in (
        ("channel-scale-factors", [1 / (255 * std) for std in stream.std]),
        ("channel-mean-offsets", [255 * mean for mean in stream.mean]),
    ):
        pairs = zip(channel_numbers(values, key), expected, strict=True)
        if not all(math.isclose(is_, should_be, rel_tol=1e-5, abs_tol=1e-9) for is_, should_be in pairs):
            yield (
                f"{PREPROCESS_FILE}: {key} is {values[key]}, by the model's mean and std it is "
                f"{';'.join(f'{number:.9g}' for number in expected)}"
            )
    for key, least in (("stride", 1), ("subsample", 0)):
        if whole_number(values, key) < least:
            yield f"{PREPROCESS_FILE}: {key} must be {least} or more, got {values[key]}"


def _infer(bundle: _Bundle) -> Iterator[str]:
    if bundle.with_triton:
        return
    modes = {str(number): mode for mode, number in ENGINE_MODES.items()}
    number, typed = bundle.infer["network-mode"], bundle.infer.get("strongly-typed", "0") == "1"
    precision = bundle.model.description.precision
    if number not in modes:
        yield f"{INFER_FILE}: network-mode is {number}, must be 0 (FP32), 1 (INT8) or 2 (FP16)"
        return
    if typed != (precision != "fp32"):
        yield f"{INFER_FILE}: strongly-typed must be {int(precision != 'fp32')} for an {precision} model"
    elif typed and number != "0":
        yield f"{INFER_FILE}: network-mode must be 0 with strongly-typed=1: the model's tensors say {precision}"
    if number == "1":
        yield f"{INFER_FILE}: network-mode 1 (INT8) needs a calibration table, without one nvinfer takes FP16 instead"
    engine = engine_file(bundle.batch, modes[number])
    if bundle.infer["model-engine-file"].removeprefix("./") != engine:
        yield (
            f"{INFER_FILE}: model-engine-file is {bundle.infer['model-engine-file']}, nvinfer keeps it as {engine}: "
            "under another name it is built again at every start"
        )
    if "infer-dims" in bundle.infer:
        yield f"{INFER_FILE}: infer-dims describes an image, not a clip; remove it"


def _labels(bundle: _Bundle) -> Iterator[str]:
    class_names = bundle.model.contract.class_names
    yield from name_problems(class_names, _LABEL_ENDS, MOST_LABEL_BYTES)
    labels = bundle.labels.removesuffix("\n")
    if "\n" in labels:
        yield f"{LABEL_FILE}: has {labels.count(chr(10)) + 1} lines; all labels stand in one, divided by ;"
    elif len(labels.split(";")) != len(class_names):
        yield f"{LABEL_FILE}: has {len(labels.split(';'))} labels, the model has {len(class_names)} classes"
