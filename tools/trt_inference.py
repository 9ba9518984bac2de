"""Slide a window over frames and label each one, with an ONNX file or a TensorRT plan. Does not need torch.

  python tools/trt_inference.py --input_images_folder data/test/fall/video_7 --trt_engine model.onnx
  python tools/trt_inference.py --input_images_folder clip.mp4 --trt_engine model.plan --stride 8 --json
  python tools/trt_inference.py --input_images_folder clip.mp4 --trt_engine model.onnx --rate 3     # every third frame
  python tools/trt_inference.py --input_images_folder 0 --trt_engine model.onnx            # camera 0; or rtsp://...

Sizes, mean, std, class names and clip length come with the model. A file without them (TAO's) takes them as options:

  python tools/trt_inference.py --input_images_folder video_7/rgb --trt_engine tao.onnx --labels push,walk \\
      --mean 0.5 --std 0.5 --seq_length 32 [--center_crop] [--input_2d]

Each frame is decoded and resized once. Prints a window's first and last frame, its label and the probability.
"""

import argparse
import json
import signal
import sys
from pathlib import Path

from action_recognition.clip.contract import CHANNELS, MODALITIES, Contract, Stream
from action_recognition.deploy.executor import Executor, open_executor
from action_recognition.deploy.recognizer import Recognizer
from action_recognition.deploy.sources import source_of
from action_recognition.deploy.window import rate_advice
from action_recognition.errors import SpecError, UserError

CENTER_CROP_EDGE = 256  # the short side that TAO's sample resizes to before it cuts the middle


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input_images_folder", required=True, metavar="SOURCE",
                        help="folder of a video or of its frames, video file, camera number, address")  # fmt: skip
    parser.add_argument("--trt_engine", required=True, type=Path, metavar="FILE", help="TensorRT plan or ONNX file")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (ONNX files: cpu; plans: cuda)")
    parser.add_argument("--stride", type=int, default=1, help="frames from one window to the next (%(default)s)")
    parser.add_argument("--rate", type=int, help="take every RATE-th frame (default: as the model was trained)")
    parser.add_argument("--batch", type=int, default=1, help="windows at a time (%(default)s)")
    parser.add_argument("--json", action="store_true", help="a JSON object a window, with all probabilities")
    parser.add_argument("--trust", action="store_true", help="let a version-compatible plan run the code it carries")
    alone = parser.add_argument_group("what the model does not say itself")
    alone.add_argument("--center_crop", action="store_true", default=None, help="cut the middle instead of squeezing")
    alone.add_argument("--input_2d", action="store_true", default=None, help="a 2D model")
    alone.add_argument("--labels", help="class names, divided by commas, or a file with one a line")
    alone.add_argument("--mean", type=float, nargs="+", help="of pixels in 0..1, for all channels or each")
    alone.add_argument("--std", type=float, nargs="+")
    alone.add_argument("--seq_length", type=int, help="frames of a clip")
    options = parser.parse_args(argv)
    for name in ("stride", "batch", "rate"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name}: must be at least 1, got {getattr(options, name)}")
    return options


def contract_for(options: argparse.Namespace, executor: Executor) -> Contract:
    """The model's own contract, or one made of the options. SpecError where they contradict or do not suffice."""
    if executor.description is None:
        return contract_from_options(options, executor)
    contract = executor.description.contract
    (first, *_) = contract.streams.values()
    own = {"center_crop": contract.center_crop, "input_2d": not contract.is_3d, "labels": contract.class_names,
           "mean": first.mean, "std": first.std, "seq_length": first.num_frames}  # fmt: skip
    given = {name: getattr(options, name) for name in own}
    given["labels"] = _labels(options.labels) if options.labels else None
    for name in ("mean", "std"):
        given[name] = _per_channel(given[name], len(first.mean)) if given[name] else None
    if contract.sample_strategy == "consecutive":
        own["rate"], given["rate"] = contract.sample_rate, options.rate
    for name, value in own.items():
        if given[name] not in (None, value):
            raise SpecError(f"--{name} {given[name]} contradicts {options.trt_engine}: it says {value}; leave it out")
    return contract


def contract_from_options(options: argparse.Namespace, executor: Executor) -> Contract:
    """A contract for a model that carries none: its inputs' names and shapes, and the options."""
    missing = [f"--{name}" for name in ("labels", "mean", "std", "seq_length") if not getattr(options, name)]
    if missing:
        raise SpecError(f"{options.trt_engine} says nothing of its input; give {', '.join(missing)}")
    modalities = tuple(name.removeprefix("input_") for name in executor.inputs)
    model_type = next((kind for kind, wanted in MODALITIES.items() if wanted == modalities), None)
    height, width = next(iter(executor.inputs.values()))[-2:]
    if model_type is None or height is None or width is None:
        raise SpecError(f"{options.trt_engine}: inputs must be input_rgb, input_of with a fixed size, "
                        f"got {executor.inputs}")  # fmt: skip
    streams = {}
    for modality in modalities:
        channels = CHANNELS[modality]
        mean, std = (_per_channel(values, channels) for values in (options.mean, options.std))
        streams[modality] = Stream(options.seq_length, mean, std)
        shape = executor.inputs[f"input_{modality}"]
        planes = (channels * options.seq_length,) if options.input_2d else (channels, options.seq_length)
        if shape[1:-2] != planes:
            raise SpecError(f"--seq_length {options.seq_length}: input_{modality} takes {shape}; see --input_2d, too")
    return Contract(
        model_type=model_type,
        input_type="2d" if options.input_2d else "3d",
        streams=streams,
        height=height,
        width=width,
        center_crop=bool(options.center_crop),
        smaller_edge=max(CENTER_CROP_EDGE, height, width),
        sample_strategy="consecutive",
        sample_rate=options.rate or 1,
        flow_encoding="max_rad",
        class_names=_labels(options.labels),
    )


def _labels(text: str) -> tuple[str, ...]:
    path = Path(text)
    return tuple(path.read_text().split("\n")[:-1]) if path.is_file() else tuple(text.split(","))


def _per_channel(values: list[float], channels: int) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        raise SpecError(f"--mean and --std take 1 or {channels} numbers, got {values}")
    return tuple(values) * (channels if len(values) == 1 else 1)


def run(options: argparse.Namespace) -> None:
    """Print a line for each window."""
    source = options.input_images_folder
    with open_executor(options.trt_engine, options.device, options.trust) as executor:
        recognize = Recognizer.from_executor(executor, options.trt_engine, contract_for(options, executor))
        names = recognize.contract.class_names
        if advice := rate_advice(recognize.contract, options.rate):
            sys.stderr.write(f"{advice}\n")
        windows = recognize.windows(source_of(source), options.stride, None, options.batch, options.rate)
        for window in windows:
            best = int(window.probabilities.argmax())
            line = f"{window.first_frame}..{window.last_frame} {names[best]} {window.probabilities[best]:.4f}"
            scores = {name: round(float(p), 6) for name, p in zip(names, window.probabilities, strict=True)}
            found = {"first": window.first_frame, "last": window.last_frame, "label": names[best], "scores": scores}
            print(json.dumps(found) if options.json else line, flush=True)
        if recognize.dropped.frames:
            sys.stderr.write(f"{recognize.dropped.frames} frames came while the model was busy and were dropped\n")


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 2 for options that contradict the model, 1 for the data and the model."""
    options = parse_args(argv)
    try:
        run(options)
    except SpecError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main())
