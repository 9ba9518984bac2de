"""Show where a deployed model and its checkpoint part, and which stage is to blame: the same clips through all of them.

  python tools/verify.py results/train/ar_model_best.pth model.onnx --data data/val
  python tools/verify.py results/train/ar_model_best.pth model.onnx model.plan --data data/val --device cuda
  python tools/verify.py results/train/ar_model_best.pth model.onnx --data data/val --deepstream FOLDER

Each MODEL takes the clips as tools/trt_inference.py does: its frames, the sliding window, ONNX Runtime or TensorRT. For
models of RGB there is also what DeepStream's preprocessing makes of the frames, computed in NumPy: set up as
tools/bundle.py does, or as in FOLDER, one of its folders that you have changed. Exits with 1 where a MODEL is not what
the checkpoint is. That DeepStream can't resize as the training did is shown, and no error.
"""

import argparse
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from action_recognition.errors import SpecError, UserError

if TYPE_CHECKING:
    from action_recognition.tasks.verify import Finding

REASONS = {
    "pixels": "the frames are read or resized in another way",
    "input": "normalisation or layout differ; compare mean, std, colour order and clip length",
    "model": "it computes something else; is it of this checkpoint and this precision?",
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint (.pth) of the trained model")
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="ONNX files and TensorRT plans")
    parser.add_argument("--data", required=True, help="folder of class folders, or a list of videos")
    parser.add_argument("--clips", type=int, default=16, help="videos to take a clip of (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (%(default)s)")
    parser.add_argument("--deepstream", type=Path, metavar="FOLDER", help="a folder that tools/bundle.py made")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, as the last line")
    options = parser.parse_args(argv)
    if options.clips < 1:
        parser.error(f"--clips: must be at least 1, got {options.clips}")
    return options


def table(findings: "list[Finding]") -> str:
    """A line a route: the largest difference of each stage with what is accepted, and the labels."""
    lines: list[tuple[str, ...]] = [
        ("", "pixels, levels", "input, levels", "model, relative", "all, relative", "labels")
    ]
    for finding in findings:
        if not finding.overall:
            continue
        stages = zip((finding.pixels, finding.input, finding.model), finding.accepted, strict=True)
        cells = (f"{value:.2g} ({most:.0g})" for value, most in stages)
        same = f"{finding.overall.same_labels} of {finding.overall.num_clips}"
        lines.append((finding.route, *cells, f"{finding.overall.difference:.2g}", same))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def verdict(finding: "Finding") -> str:
    """What a route's figures mean, in a line."""
    if finding.fault:
        return f"{finding.route}: not run: {finding.fault}"
    if finding.blamed == ("pixels",) and not finding.is_wrong:
        return f"{finding.route}: its resize has no antialiasing and makes other pixels; nothing else differs"
    if finding.blamed:
        return f"{finding.route}: to blame: " + "; ".join(f"{stage}: {REASONS[stage]}" for stage in finding.blamed)
    return f"{finding.route}: as the checkpoint, in every stage"


def run(options: argparse.Namespace) -> int:
    """Print the figures. Returns the exit code."""
    missing = [str(path) for path in (options.checkpoint, *options.models, options.data) if not Path(path).exists()]
    if missing:  # told before torch is loaded
        raise UserError(f"no such file or folder: {', '.join(missing)}")
    from action_recognition.deploy.deepstream_check import APP_FILE, PREPROCESS_FILE
    from action_recognition.deploy.deepstream_files import read_frame_size, read_preprocess
    from action_recognition.tasks.verify import DeepStream, verify

    folder, deepstream = options.deepstream, None
    if folder:
        deepstream = DeepStream(read_frame_size(folder / APP_FILE), read_preprocess(folder / PREPROCESS_FILE))
    findings = verify(
        options.checkpoint, options.models, options.data, options.clips, options.device, deepstream, print
    )
    print(table(findings))
    for finding in findings:
        print(verdict(finding))
    if options.json:
        print(json.dumps({"findings": [{**asdict(f), "blamed": f.blamed} for f in findings]}))
    return int(any(f.is_wrong for f in findings))


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 1 where a model is not what the checkpoint is, or can't be run."""
    options = parse_args(argv)
    try:
        return run(options)
    except SpecError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
