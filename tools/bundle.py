"""Make a folder that DeepStream or Triton runs as it is, out of an exported model.

  python tools/bundle.py deepstream model.onnx FOLDER --uri rtsp://camera/1 --uri rtsp://camera/2 --frame-size 1920x1080
  python tools/bundle.py deepstream model.onnx FOLDER --triton          # DeepStream with Triton inside
  python tools/bundle.py triton model.onnx FOLDER                       # ONNX Runtime on Triton
  python tools/bundle.py triton --plan model.plan FOLDER                # TensorRT on Triton
  python tools/bundle.py check FOLDER                                   # a DeepStream folder that was edited

The folder must not be there yet; it appears whole or not at all. Its README.md tells how to run it, and how what runs
there differs from the evaluation. DeepStream needs a model of RGB frames that was exported with export.softmax=true.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from action_recognition.deploy import deepstream_choices, triton
from action_recognition.deploy.deepstream import write_deepstream
from action_recognition.deploy.deepstream_check import ENGINE_MODES, check_deepstream
from action_recognition.deploy.deepstream_files import FILTERS, Roi
from action_recognition.errors import SpecError, UserError


def make_deepstream(options: argparse.Namespace) -> None:
    """MODEL and options into a folder for the sample app."""
    settings = deepstream_choices.Settings(
        uris=tuple(options.uri or [deepstream_choices.SAMPLE_URI]),
        frame_size=options.frame_size,
        rois=tuple(options.roi),
        batch=options.batch,
        stride=options.stride,
        subsample=options.subsample,
        network_mode=options.network_mode,
        scaling_filter=options.scaling_filter,
        threshold=options.threshold,
        headless=options.headless,
        with_triton=options.triton,
    )
    for note in write_deepstream(options.model, options.target, settings):
        print(note)
    _tell(options.target)


def make_triton(options: argparse.Namespace) -> None:
    """MODEL or the plan into a model repository with a client."""
    settings = triton.Settings(options.name, options.max_batch, options.cpu)
    if (options.model is None) == (options.plan is None):
        raise SpecError("give either MODEL.onnx or --plan FILE")
    if options.plan:
        triton.write_triton_plan(options.plan, options.target, settings)
    else:
        triton.write_triton_onnx(options.model, options.target, settings)
    _tell(options.target)


def check(options: argparse.Namespace) -> None:
    """A DeepStream folder, as it is now."""
    check_deepstream(options.target)
    print(f"{options.target}: its files go together")


def _tell(target: Path) -> None:
    print(f"{target} is written; how to run it: {target / 'README.md'}")


# --- the command line ---


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    added = commands.add_parser("deepstream", help="for the sample deepstream-3d-action-recognition of DeepStream 9")
    added.set_defaults(perform=make_deepstream)
    added.add_argument("model", type=Path, metavar="MODEL.onnx")
    added.add_argument("target", type=Path, metavar="FOLDER")
    _deepstream_arguments(added)
    added = commands.add_parser("triton", help="for Triton Inference Server")
    added.set_defaults(perform=make_triton)
    added.add_argument("model", type=Path, nargs="?", metavar="MODEL.onnx")
    added.add_argument("target", type=Path, metavar="FOLDER")
    added.add_argument("--plan", type=Path, metavar="FILE", help="a TensorRT plan, instead of MODEL.onnx")
    added.add_argument("--name", default=triton.Settings.name, help="of the model on the server (%(default)s)")
    added.add_argument("--max-batch", type=_at_least(1), metavar="N",
                       help=f"most clips at once ({triton.DEFAULT_MAX_BATCH}, or the plan's largest)")  # fmt: skip
    added.add_argument("--cpu", action="store_true", help="run the ONNX file on the CPU")
    added = commands.add_parser("check", help="hold the files of a DeepStream folder against each other")
    added.set_defaults(perform=check)
    added.add_argument("target", type=Path, metavar="FOLDER")
    return parser.parse_args(argv)


def _deepstream_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--uri", action="append", help="a stream, once for each (a sample video)")
    parser.add_argument(
        "--frame-size", type=_size, metavar="WxH", help="of the streams; they are scaled to it (1280x720)"
    )
    parser.add_argument("--roi", type=_rois, action="append", default=[], metavar="left,top,width,height[+...]",
                        help="where to look, in pixels of the frame: once for all streams, or once for each in their "
                        "order, several joined by + (what the evaluation saw)")  # fmt: skip
    parser.add_argument("--batch", type=_at_least(1), metavar="N", help="most clips at once (one for each ROI)")
    parser.add_argument("--stride", type=_at_least(1), default=1, metavar="S",
                        help="used frames from the start of a clip to that of the next (1)")  # fmt: skip
    parser.add_argument("--subsample", type=_at_least(0), metavar="K",
                        help="frames left out between two that are used (the model's sample_rate - 1)")  # fmt: skip
    parser.add_argument("--network-mode", choices=tuple(ENGINE_MODES), help="of the engine (fp16, or the model's own)")
    parser.add_argument("--scaling-filter", choices=tuple(FILTERS), default="bilinear", help="(%(default)s)")
    parser.add_argument("--threshold", type=_share, default=0.0, metavar="P", help="no label at this score or less (0)")
    parser.add_argument("--headless", action="store_true", help="no display: labels in the log, as fast as it goes")
    parser.add_argument("--triton", action="store_true", help="DeepStream's Triton plugin in place of nvinfer")


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:  # its name stands in argparse's message
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return int(text)

    return number


def _share(text: str) -> float:
    if not 0 <= float(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and less than 1, got {text}")
    return float(text)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)[xX]([1-9]\d*)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT, such as 1920x1080, got {text!r}")
    return int(match[1]), int(match[2])


def _rois(text: str) -> tuple[Roi, ...]:
    if not re.fullmatch(r"(\d+(,\d+){3})(\+\d+(,\d+){3})*", text):
        raise argparse.ArgumentTypeError(f"must be left,top,width,height, several joined by +, got {text!r}")
    return tuple(Roi(*map(int, part.split(","))) for part in text.split("+"))


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 2 for the command line, 1 for the model and the files."""
    options = parse_args(argv)
    try:
        options.perform(options)
    except SpecError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except (UserError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
