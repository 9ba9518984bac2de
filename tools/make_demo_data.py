"""Renders a data set of people who walk, sit, squat, fall and bend, to try training on.

    python tools/make_demo_data.py data/demo                          # 500 training, 300 test videos of 24 frames
    python tools/make_demo_data.py data/demo --no-flow --size 72      # rgb only, small: half a minute on two cores
    python tools/make_demo_data.py data/pairs --pairs                 # walk, sit, stand, fall, getup

Writes DST/{train,test}/<class>/<video>/{rgb,u,v}/000000.jpg... (flow in the max_rad encoding) and DST/demo.json. No
person is in both train and test. The same options give the same bytes; run again to complete an interrupted folder.
With --pairs two classes are two others backwards: only a model that sees the order of frames can tell them apart, and
--order shuffled writes the videos without it.
"""

import argparse
import signal
import sys
import time
from pathlib import Path

from tqdm import tqdm

from action_recognition.demo import ORDERS, DemoSpec, missing_videos, open_dataset, render_videos
from action_recognition.errors import SpecError, UserError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = DemoSpec()
    parser.add_argument("dst", metavar="DST", type=Path, help="folder to fill: new, empty, or begun with these options")
    parser.add_argument("--train-per-class", type=int, default=default.train_per_class, metavar="N")
    parser.add_argument("--test-per-class", type=int, default=default.test_per_class, metavar="N")
    parser.add_argument("--frames", type=int, default=default.frames, help="frames a video (%(default)s)")
    parser.add_argument("--size", type=int, default=default.size, help="side of a frame in pixels (%(default)s)")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--pairs", action="store_true", help="classes walk, sit, stand, fall, getup")
    parser.add_argument("--order", choices=ORDERS, default=default.order, help="of a video's frames (%(default)s)")
    parser.add_argument("--flow", action=argparse.BooleanOptionalAction, default=default.flow, help="write u and v too")
    parser.add_argument("--workers", type=int, default=2, help="processes (%(default)s)")
    image_format = parser.add_mutually_exclusive_group()
    for name in ("png", "jpg"):
        image_format.add_argument(f"--{name}", dest="image_format", action="store_const", const=name)
    parser.set_defaults(image_format=default.image_format)
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error(f"--workers: must be at least 1, got {args.workers}")
    try:
        names = (
            "train_per_class",
            "test_per_class",
            "frames",
            "size",
            "seed",
            "pairs",
            "flow",
            "image_format",
            "order",
        )
        args.spec = DemoSpec(**{name: getattr(args, name) for name in names})
    except SpecError as error:
        parser.error(str(error))
    return args


def main(argv: list[str] | None = None) -> int:
    """Render what is missing. Returns the exit code."""
    args = parse_args(argv)
    try:
        _render(args.dst, args.spec, args.workers)
    except (UserError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"error: interrupted; the same command completes {args.dst}\n")
        return 128 + signal.SIGINT
    return 0


def _render(dst: Path, spec: DemoSpec, workers: int) -> None:
    started = time.perf_counter()
    open_dataset(dst, spec)
    videos = missing_videos(dst, spec)
    # disable=None: no bar where stderr is not a terminal
    for _ in tqdm(render_videos(dst, spec, videos, workers), total=len(videos), unit="video", disable=None):
        pass
    seconds = time.perf_counter() - started
    print(f"{len(videos)} videos, {len(videos) * spec.frames} frames rendered into {dst} in {seconds:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
