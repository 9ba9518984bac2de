"""Measure how fast this machine works, beside the reference's way of doing the same in the same run.

  python tools/benchmark.py data                              # training clips from folders and from the frame cache
  python tools/benchmark.py train                             # training steps; on a GPU also layouts and inference
  python tools/benchmark.py evaluate                          # the windows of an evaluation
  python tools/benchmark.py infer                             # a sliding window over a stream
  python tools/benchmark.py preprocess --videos FOLDER        # video files to frames and flow
  python tools/benchmark.py startup                           # the answer to -h, the index of a large data set
  python tools/benchmark.py data configs/rgb2d.yaml model.rgb_seq_length=16 --frames FOLDER
  python tools/benchmark.py data --json                       # the last line is JSON
  python tools/benchmark.py all                               # all of these, into docs/benchmarks.md
  python tools/benchmark.py scaling                           # cost as work grows, into docs/scaling.md; takes longer

Sizes, clip length, crop, batch size and backbone are the spec's; without one a 3D ResNet-18 sees 32 rgb frames of
224x224, in training steps on a CPU two clips of 16 frames of 112x112. Frames and videos are rendered
(tools/benchmark_frames.py says how) where no folder is given.

Ours and the reference's way (tools/benchmark_reference.py) take turns after a warm-up; the table has the medians. `of
the limit` is ours over what the bare library calls reach. Rates a core are for a second of CPU time, so other work on
the machine disturbs them little; those by the clock want an idle machine.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmark_rows import Result, table

from action_recognition.config import Spec, load_spec
from action_recognition.errors import SpecError, UserError

# The spec where none is given: the reference's 3D ResNet-18 on rgb, in training steps on a CPU smaller.
DEFAULTS = ("model.model_type=rgb", "model.input_type=3d", "model.rgb_seq_length=32")
ON_CPU = ("model.rgb_seq_length=16", "model.input_height=112", "model.input_width=112", "dataset.batch_size=2")


def measure(options: argparse.Namespace, spec: Spec) -> Result:
    """Run one subcommand. Each loads no more than it measures."""
    if options.what == "preprocess":
        from benchmark_preprocess import preprocess

        return preprocess(options.videos, options.rounds)
    if options.what == "startup":
        from benchmark_startup import startup

        return startup(options.rounds)
    if options.what == "train":
        from benchmark_train import train

        return train(spec, options.rounds)
    from benchmark_data import data, evaluate, infer

    way = {"data": data, "evaluate": evaluate, "infer": infer}[options.what]
    return way(spec, options.frames, options.rounds)


def spec_of(what: str, words: list[str]) -> Spec:
    """The spec of `[SPEC] [key=value ...]`. SpecError where it is wrong, or of a model that sees flow."""
    path = words[0] if words and "=" not in words[0] else None
    if path:
        spec = load_spec(path, words[1:])
    else:
        spec = load_spec(None, [*DEFAULTS, *words])
        if what == "train" and not _has_gpu():
            spec = load_spec(None, [*DEFAULTS, *ON_CPU, *words])
    given = spec.model.model_type
    if given != "rgb":
        raise SpecError(f"model.model_type: {given}, and only rgb can be measured; add model.model_type=rgb")
    return spec


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def report(options: argparse.Namespace, spec: Spec) -> int:
    """Run what fills a file of docs/."""
    if options.what == "scaling":
        from benchmark_scaling import scaling

        return scaling(spec, options.frames, options.rounds)
    from benchmark_report import write_report

    return write_report(options.rounds)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, and with --json the rows. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    single = ("data", "train", "evaluate", "infer", "preprocess", "startup")
    parser.add_argument("what", choices=(*single, "all", "scaling"))
    parser.add_argument("words", nargs="*", metavar="SPEC or section.key=value", help="the YAML spec; overrides")
    parser.add_argument("--frames", type=Path, metavar="FOLDER", help="images to use (default: rendered ones)")
    parser.add_argument("--videos", type=Path, metavar="FOLDER", help="video files to use (default: rendered ones)")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON, as the last line")
    options = parser.parse_intermixed_args(arguments)
    try:
        spec = spec_of(options.what, options.words)
        if options.what not in single:
            return report(options, spec)
        result = measure(options, spec)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2 if isinstance(error, SpecError) else 1
    print(table(result))
    if options.json:
        print(json.dumps({"rows": [row.to_plain() for row in result.rows]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
