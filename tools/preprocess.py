"""Turn videos into the folders of frames, and of optical flow, that training reads.

  python tools/preprocess.py videos data/train                         # videos/<class>/<name>.avi, RGB frames
  python tools/preprocess.py videos data/train --flow dis --frames jpg # with flow from OpenCV
  python tools/preprocess.py data/train data/train --flow-only --flow auto    # flow for frames that are there
  python tools/preprocess.py train.txt data/train --root videos        # a list: a path and a class a line
  torchrun --nproc-per-node=8 tools/preprocess.py videos data/train    # shared by all processes (and machines)

videos/<class>/<name>.avi becomes data/train/<class>/<name>/{rgb,u,v}/000000... A video's folder appears whole or not at
all; started again, the tool does what is missing or changed. Needs PyAV and OpenCV: pip install ".[video]".
"""

import argparse
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

from tqdm import tqdm

from action_recognition.errors import UserError
from action_recognition.machine import num_cores, place
from action_recognition.preprocess.extract import ENCODE, FRAME_SUFFIXES, Outcome, Settings
from action_recognition.preprocess.flow import METHODS, PRESETS, chosen_method
from action_recognition.preprocess.jobs import Jobs, jobs_of_entries, jobs_of_frames, jobs_of_tree
from action_recognition.preprocess.run import SUMMARY, run_jobs, write_summary


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    default = Settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="SRC", help="folder of class folders, a list file, or one video")
    parser.add_argument("target", type=Path, metavar="DST", help="folder that gets <class>/<video>/{rgb,u,v}")
    flow = parser.add_mutually_exclusive_group()
    flow.add_argument("--flow", choices=METHODS, default=default.flow, help="how flow is computed (%(default)s)")
    flow.add_argument("--rgb-only", dest="flow", action="store_const", const="none", help="the same as --flow none")
    flow.add_argument("--from-flo", type=Path, metavar="DIR", help="take flow from DIR/<class>/<video>/*.flo")
    parser.add_argument("--flow-preset", choices=PRESETS, default=default.flow_preset, help="(%(default)s)")
    parser.add_argument("--encoding", choices=tuple(ENCODE), default=default.encoding,
                        help="of u and v: max_rad is TAO's, clip20 is I3D's (%(default)s)")  # fmt: skip
    parser.add_argument("--flow-only", action="store_true", help="SRC holds frames (<class>/<video>/rgb): add u and v")
    parser.add_argument("--raft-weights", metavar="FILE", help="for --flow raft (default: torchvision's download)")
    parser.add_argument("--frames", choices=FRAME_SUFFIXES, default=default.frames,
                        help="png, or jpg of quality 95: a quarter of the size (%(default)s)")  # fmt: skip
    parser.add_argument("--short-edge", type=int, metavar="N", help="shrink frames to a shorter side of N pixels")
    parser.add_argument("--fps", type=float, metavar="N", help="N frames a second, whatever the video's rate")
    parser.add_argument("--workers", type=int, default=num_cores(), metavar="N", help="videos at a time (%(default)s)")
    parser.add_argument("--root", type=Path, metavar="DIR", help="where a list's paths begin (its folder)")
    options = parser.parse_args(argv)
    if message := _contradiction(options):
        parser.error(message)
    return options


def _contradiction(options: argparse.Namespace) -> str:
    """What is wrong with the options taken together, or an empty text."""
    has_flow = options.flow != "none" or options.from_flo
    for name in ("workers", "short_edge", "fps"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            return f"--{name.replace('_', '-')}: must be greater than 0, got {value}"
    if options.flow_only and not has_flow:
        return "--flow-only: which flow? give --flow auto, nvof, dis or raft, or --from-flo DIR"
    if options.flow_only and (options.fps or options.short_edge):
        return "--flow-only takes the frames as they are: leave --fps and --short-edge out"
    if options.from_flo and options.fps:
        return "--from-flo has the flow of the video's own frames: leave --fps out"
    if options.raft_weights and options.flow != "raft":
        return "--raft-weights is for --flow raft"
    return ""


def check_installed(options: argparse.Namespace) -> None:
    """UserError where a package is missing that these options need."""
    needs = {"cv2": ("OpenCV", "video")} if options.flow_only else {"av": ("PyAV", "video"), "cv2": ("OpenCV", "video")}
    for module, (name, extra) in needs.items():
        if find_spec(module) is None:
            raise UserError(f"{name} is not installed: pip install '.[{extra}]'")


def find_jobs(options: argparse.Namespace) -> Jobs:
    """The jobs that SRC stands for."""
    source, target, flo = options.source, options.target, options.from_flo
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    if options.flow_only:
        return jobs_of_frames(source, target, flo)
    if source.is_dir():
        return jobs_of_tree(source, target, flo)
    if source.suffix.lower() in (".txt", ".csv", ".json"):
        from action_recognition.data.lists import read_list

        entries = [(Path(entry.path), str(entry.label)) for entry in read_list(source, options.root).entries]
        return jobs_of_entries(entries, target, flo)
    return jobs_of_entries([(source, "")], target, flo)


def preprocess(options: argparse.Namespace) -> int:
    """All of it, or this process's share of it. Returns 1 where a video could not be used."""
    rank, num_processes = place().rank, place().num_processes
    check_installed(options)
    jobs = find_jobs(options)
    method, line = ("flo", "") if options.from_flo else chosen_method(options.flow)
    settings = Settings(method, options.flow_preset, options.encoding, options.frames, options.short_edge, options.fps,
                        options.flow_only, options.raft_weights)  # fmt: skip
    if rank == 0:
        print("".join(f"{text}\n" for text in (*jobs.notes, line) if text), end="", flush=True)
    workers = options.workers if num_processes == 1 else 1
    outcomes = []
    with tqdm(total=len(jobs.jobs[rank::num_processes]), unit="video", disable=None if rank == 0 else True) as bar:
        for outcome in run_jobs(jobs.jobs[rank::num_processes], settings, workers):
            outcomes.append(outcome)
            frames = sum(o.frames for o in outcomes if not o.was_there)
            bar.set_postfix_str(f"{frames / max(bar.format_dict['elapsed'], 1e-6):.0f} frames/s", refresh=False)
            bar.update()
    outcomes = gather(outcomes, num_processes)
    if rank == 0:
        write_summary(options.target, outcomes)
        report(outcomes, options.target)
    return int(any(outcome.error for outcome in outcomes))


def gather(outcomes: list[Outcome], num_processes: int) -> list[Outcome]:
    """The outcomes of all processes of a torchrun job."""
    if num_processes == 1:
        return outcomes
    from datetime import timedelta

    from torch import distributed

    distributed.init_process_group("gloo", timeout=timedelta(days=30))  # the others may have long videos before them
    parts: list[list[Outcome]] = [[] for _ in range(num_processes)]
    distributed.all_gather_object(parts, outcomes)
    distributed.destroy_process_group()
    return [outcome for part in parts for outcome in part]


def report(outcomes: list[Outcome], target: Path) -> None:
    """What was done, what was there, what could not be used."""
    for outcome in sorted(outcomes, key=lambda o: o.video):
        if outcome.error:
            sys.stderr.write(f"left out: {outcome.error}\n")
        elif outcome.packets_skipped or outcome.frames_patched:
            print(f"{outcome.source}: {outcome.packets_skipped} damaged packets skipped, "
                  f"{outcome.frames_patched} frames made up in part")  # fmt: skip
    made = [o for o in outcomes if not o.error and not o.was_there]
    num_bad, were_there = sum(bool(o.error) for o in outcomes), sum(o.was_there for o in outcomes)
    frames = sum(o.frames for o in made)
    print(f"{len(made)} videos with {frames} frames written to {target}, {were_there} were there, {num_bad} left out; "
          f"{SUMMARY} lists them")  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 1 where a video was left out or nothing could be done."""
    try:
        return preprocess(parse_args(argv))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: finished videos stay; the same command goes on with the rest\n")
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
