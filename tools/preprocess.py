"""Turn class folders of video files into the folders of frames that training reads.

  python tools/preprocess.py videos data/train

videos/<class>/<name>.avi becomes data/train/<class>/<name>/rgb/000000.png ... A video's folder appears whole or not at
all; started again, the tool does what is missing. Needs PyAV: pip install ".[video]".
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tqdm import tqdm

from action_recognition.errors import UserError
from action_recognition.preprocess.extract import extract, find_videos


def main() -> int:
    """Extract all videos. Returns 1 where one could not be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="SRC", help="folder of class folders of video files")
    parser.add_argument("target", type=Path, metavar="DST", help="folder that gets <class>/<video>/rgb")
    parser.add_argument("--workers", type=int, default=None, help="videos at a time (default: one a core)")
    options = parser.parse_args()
    try:
        jobs = find_videos(options.source, options.target)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    with ProcessPoolExecutor(options.workers) as pool:
        outcomes = list(tqdm(pool.map(extract, jobs), total=len(jobs), unit="video", disable=not sys.stderr.isatty()))
    for outcome in outcomes:
        if outcome.problem:
            sys.stderr.write(f"left out: {outcome.problem}\n")
        elif outcome.packets_skipped:
            print(f"{outcome.job.source}: {outcome.packets_skipped} damaged packets skipped")
    num_bad = sum(bool(o.problem) for o in outcomes)
    done, frames = sum(o.num_frames > 0 for o in outcomes), sum(o.num_frames for o in outcomes)
    were_there = sum(o.was_there for o in outcomes)
    print(
        f"{done} videos with {frames} frames written to {options.target}, {were_there} were there, {num_bad} left out"
    )
    return 1 if num_bad else 0


if __name__ == "__main__":
    sys.exit(main())
