"""Split, measure, check, show a data set, and write a first spec for it.

  python tools/dataset.py split videos data/split1 --hmdb51 testTrainMulti_7030_splits --split 1
  python tools/dataset.py split videos data/own --random --val 0.2 --group "seq(\\d+)" --as links
  python tools/dataset.py stats data/train --plot stats.png
  python tools/dataset.py check data/train data/val --ok data/ok.txt --bad data/bad.txt
  python tools/dataset.py show data/train -o clips.png
  python tools/dataset.py init data -o spec.yaml

A data set is a folder <class>/<video>, of video files or of folders with rgb, u, v; a folder of such folders named
train, val, test; or a list file. No command changes it. `python tools/dataset.py COMMAND -h` tells more.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from action_recognition.data.check import Finding, check_videos, twins, write_bad_list, write_ok_list
from action_recognition.data.draft import draft_of, spec_text
from action_recognition.data.lists import list_subsets, read_list
from action_recognition.data.survey import find_videos, measure, parts_of, plot, printable, summarise, table
from action_recognition.errors import DataError, SpecError, UserError
from action_recognition.files import write_text
from action_recognition.machine import num_cores
from action_recognition.preprocess.splits import (
    Member,
    Split,
    hmdb51_split,
    random_split,
    split_by_subset,
    ucf101_split,
    write_links,
    write_lists,
)

SPLIT = """Say which videos train and which test. Nothing is moved or copied: DST gets list files and a link to SRC, or
a tree of links. Videos that are listed but missing, or there but not listed, are counted and named."""
STATS = "Videos, frames, sizes and seconds, by class, from names and headers alone."
CHECK = """Decode every frame of every video. Told apart: what can't be read (exit code 1), and what can but looks wrong
(one colour, no motion, too short, flow images that lack, damage, the same content twice or on both sides)."""
SHOW = """Draw training clips as the model gets them: sampled, cropped and mirrored. A contact sheet has a row a clip;
with -o OUT.gif they move. Optical flow is drawn in the colour wheel of Baker et al., IJCV 2011."""
INIT = "Write a spec for a data set: its classes and folders, and lengths and sizes that fit, with the reasons."


def split(options: argparse.Namespace) -> int:
    """SRC's videos into parts, and the parts into DST."""
    source, target = options.source, options.target
    made = _split_by_list(source, options.list) if options.list else _split_of_tree(options)
    if options.form == "links":
        what = f"{write_links(made, source, target)} to {source}"
    else:
        write_lists(made, source, target)
        what = f"{', '.join(f'{part}.txt' for part in made.parts)}, and videos, a link to {source}"
    for line in (*made.notes(), f"{target} holds {what}"):
        print(printable(line))
    return 0


def _split_of_tree(options: argparse.Namespace) -> Split:
    source = options.source
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; SRC is a tree <class>/<video>")
    videos = [Path(video.path).relative_to(source).as_posix() for video in find_videos(source)]
    if options.hmdb51:
        return hmdb51_split(videos, options.hmdb51, options.split)
    if options.ucf101:
        return ucf101_split(videos, options.ucf101, options.split)
    val = (0.0 if options.test else 0.2) if options.val is None else options.val
    return random_split(videos, val, options.test or 0.0, options.seed, options.group)


def _split_by_list(source: Path, path: Path) -> Split:
    parts: dict[str, list[Member]] = {}
    missing: list[str] = []
    for subset, num_labelled in list_subsets(path).items():
        if not num_labelled:
            print(f"{subset} is left out: its videos have no labels")
            continue
        videos = read_list(path, source, subset=subset, allow_missing=True)
        parts[subset] = [Member(os.path.relpath(e.path, source), str(e.label)) for e in videos.entries]
        missing += [path_there for path_there, _ in videos.missing]
    if not parts:
        raise DataError(f"{path}: names no subsets (json: subset; csv: a column split)")
    return split_by_subset(parts, missing)


def stats(options: argparse.Namespace) -> int:
    """A table of each data set, or all of them as JSON."""
    summaries = {}
    for name, root in _data_sets(options.roots).items():
        videos = find_videos(root)
        summaries[name] = summarise([measure(video) for video in tqdm(videos, name, leave=False, disable=None)])
    if options.plot:
        plot(summaries, options.plot)
    if options.json:
        print(json.dumps(summaries, indent=2))
        return 0
    for name, summary in summaries.items():
        print("\n".join([f"{printable(name)}", *table(summary), ""]))
    return 0


def check(options: argparse.Namespace) -> int:
    """A line for whatever is wrong. Returns 1 where a video can't be read."""
    found: dict[str, list[Finding]] = {}
    for name, root in _data_sets(options.roots).items():
        videos = find_videos(root)
        findings = check_videos(videos, options.clip_length, min(options.workers, len(videos)))
        found[name] = list(tqdm(findings, name, len(videos), unit="video", leave=False, disable=None))
    all_found = [finding for findings in found.values() for finding in findings]
    bad, odd = [f for f in all_found if f.problem], [f for f in all_found if f.suspicions]
    lines = [f"unreadable: {f.video.path}: {f.problem}" for f in bad]
    lines += [f"suspicious: {f.video.path}: {'; '.join(f.suspicions)}" for f in odd]
    lines += [f"suspicious: {line}" for line in twins(found)]
    print("".join(f"{printable(line)}\n" for line in lines), end="")
    for path, write in ((options.ok, write_ok_list), (options.bad, write_bad_list)):
        if path:
            write(path, all_found)
    frames, num_odd = sum(f.num_frames for f in all_found), len(lines) - len(bad)
    print(f"{len(all_found)} videos, {frames} frames decoded: {len(bad)} unreadable, {num_odd} suspicious")
    return 1 if bad else 0


def show(options: argparse.Namespace) -> int:
    """Clips of the data set into a picture."""
    if options.output.suffix.lower() not in (".png", ".gif"):
        raise SpecError(f"-o {options.output}: the name must end in .png (contact sheet) or .gif (animation)")
    from action_recognition.data.sheet import animation, contact_sheet, save
    from action_recognition.tasks.show import spec_for, training_strips

    spec = spec_for(options.source, options.overrides)
    strips = training_strips(spec, options.num, options.seed)
    moves = options.output.suffix.lower() == ".gif"
    save(animation(strips) if moves else [contact_sheet(strips, options.columns)], options.output, options.fps)
    print(f"{options.output} is written")
    return 0


def init(options: argparse.Namespace) -> int:
    """A spec for the data set."""
    if options.output.exists():
        raise DataError(f"{options.output}: exists already; choose another name with -o")
    write_text(options.output, spec_text(draft_of(options.root), options.output))
    print(f"{options.output} is written; next: python tools/train.py {options.output}")
    return 0


def _data_sets(roots: list[Path]) -> dict[str, Path]:
    """{name: tree or list}, the parts of each root on their own."""
    missing = [root for root in roots if not root.exists()]
    if missing:
        raise DataError(f"{missing[0]}: no such file or folder")
    return {str(path): path for root in roots for path in parts_of(root).values()}


# --- the command line ---


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _split_arguments(_command(commands, split, SPLIT))
    added = _command(commands, stats, STATS)
    added.add_argument("roots", nargs="+", type=Path, metavar="ROOT")
    added.add_argument("--json", action="store_true", help="the figures as JSON")
    added.add_argument("--plot", type=Path, metavar="FILE.png", help="draw them, too; needs matplotlib")
    added = _command(commands, check, CHECK)
    added.add_argument("roots", nargs="+", type=Path, metavar="ROOT", help="with several, twins are looked for in all")
    added.add_argument("--clip-length", type=_at_least(1), default=1, metavar="N", help="shorter videos are suspicious")
    added.add_argument("--ok", type=Path, metavar="FILE", help="list of the videos that can be read, for training")
    added.add_argument("--bad", type=Path, metavar="FILE", help="list of those that can't, and why")
    added.add_argument("--workers", type=_at_least(1), default=num_cores(), metavar="N", help="processes (%(default)s)")
    _show_arguments(_command(commands, show, SHOW))
    added = _command(commands, init, INIT)
    added.add_argument("root", type=Path, metavar="ROOT", help="training data, or a folder with train and val")
    added.add_argument("-o", dest="output", type=Path, default=Path("spec.yaml"), metavar="FILE", help="(%(default)s)")
    options, others = parser.parse_known_args(argv)
    if options.perform is show:  # argparse does not take overrides up again after an option
        options.overrides += [word for word in others if not word.startswith("-")]
        others = [word for word in others if word.startswith("-")]
    if others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if options.perform is split and not options.random and (options.val, options.test, options.group) != (None,) * 3:
        parser.error("--val, --test and --group are for --random")
    return options


def _command(commands: Any, perform: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    added = commands.add_parser(perform.__name__, help=text.replace("\n", " ").partition(".")[0], description=text)
    added.set_defaults(perform=perform)
    return added


def _split_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SRC", help="folder <class>/<video>")
    parser.add_argument("target", type=Path, metavar="DST", help="new folder for the lists or links")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--hmdb51", type=Path, metavar="DIR", help="HMDB51's folder testTrainMulti_7030_splits")
    how.add_argument("--ucf101", type=Path, metavar="DIR", help="UCF101's folder ucfTrainTestlist")
    how.add_argument("--list", type=Path, metavar="FILE", help="json or csv that names the subset of each video")
    how.add_argument("--random", action="store_true", help="by chance, each class in the same proportion")
    parser.add_argument("--split", type=int, choices=(1, 2, 3), default=1, help="number of the official split (1)")
    parser.add_argument("--val", type=float, metavar="SHARE", help="share for validation (0.2 without --test)")
    parser.add_argument("--test", type=float, metavar="SHARE", help="share for test (0)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same number, the same split (0)")
    parser.add_argument("--group", metavar="REGEX", help="searched for in <class>/<video>; its first group, or what "
                        "it matches, names what stays on one side: a person, a recording")  # fmt: skip
    parser.add_argument("--as", dest="form", choices=("lists", "links"), default="lists", help="what DST gets (lists)")


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SPEC|ROOT", help="a spec, or data (then with the spec of init)")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="overrides of the spec")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="OUT.png|OUT.gif")
    parser.add_argument("--num", type=_at_least(1), default=8, metavar="N", help="clips (%(default)s)")
    parser.add_argument("--seed", type=_at_least(0), metavar="N", help="other clips, other draws (train.seed)")
    parser.add_argument("--columns", type=_at_least(1), default=8, metavar="N", help="most frames a row (%(default)s)")
    parser.add_argument("--fps", type=_at_least(1), default=8, metavar="N", help="of an animation (%(default)s)")


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:  # its name stands in argparse's message
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return int(text)

    return number


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 2 for the command line and the spec, 1 for the data."""
    options = parse_args(argv)
    try:
        return options.perform(options)
    except SpecError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except (UserError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
