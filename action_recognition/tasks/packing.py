"""Filling the frame cache before a task: what is missing, whether there is room, each process its share."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from action_recognition.config import Spec
from action_recognition.data.cache import (
    Job,
    KeptSize,
    default_cache_dir,
    disk_free,
    disk_needed,
    job_of,
    look_up,
    pack_all,
)
from action_recognition.data.index import Index, stop_if_too_many
from action_recognition.data.loader import usable_workers
from action_recognition.errors import DataError
from action_recognition.tasks.setting import Say, bad_video
from action_recognition.training.distributed import Process, gather
from action_recognition.training.report import ProgressBar, Stopwatch, duration

# Videos between two exchanges: a process that has packed its share must not wait longer for the others than the group
# allows.
_ROUND = 64


def packed(
    spec: Spec, wanted: Sequence[tuple[Index, KeptSize]], process: Process, say: Say, is_training: bool = False
) -> list[Index]:
    """The indices with their videos in the frame cache, packed now where they were not; the same on every process.

    `wanted` has each index with the size its frames are kept at. Without dataset.cache_dir only the video files of a
    training run are packed, into the user's cache folder, and all others stay as they are. DataError where there is no
    room, where a video can't be read (with on_bad_video skip: above 5 % of all), and where a file can't be written.
    """
    given = spec.dataset.cache_dir
    cache_dir = str(given or default_cache_dir())

    def jobs_of(index: Index, kept: KeptSize) -> dict[str, Job]:
        chosen = [video for video in index.videos if given or (is_training and video.is_file)]
        return {video.path: job_of(video, kept, cache_dir) for video in chosen}

    jobs = [jobs_of(index, kept) for index, kept in wanted]
    indices = [index for index, _ in wanted]
    if not any(jobs):
        return indices
    if not given:
        say(f"the frames of video files are kept in {cache_dir}; dataset.cache_dir=FOLDER keeps them elsewhere")
    distinct = {job.path: job for by_video in jobs for job in by_video.values()}
    missing = _missing(list(distinct.values()), cache_dir, process, say)
    problems = _pack(missing, spec, counted(indices), process, say)
    indices = [_with_packed(index, by_video, problems) for index, by_video in zip(indices, jobs, strict=True)]
    stop_if_too_many([entry for index in indices for entry in index.skipped], *counted(indices))
    return indices


def counted(indices: Sequence[Index]) -> tuple[int, str]:
    """The number of videos of these indices, and what to call them: the 5 % rule is over all of them."""
    what = "training and validation videos" if len(indices) > 1 else "videos"
    return sum(len(index.videos) + len(index.skipped) for index in indices), what


def _missing(jobs: list[Job], cache_dir: str, process: Process, say: Say) -> list[Job]:
    """Those of this process's share that have to be packed. DataError where this machine has no room for all."""
    mine = jobs[process.local_rank :: process.num_local]
    states = [look_up(job) for job in mine]
    missing = [job for job, (is_there, _) in zip(mine, states, strict=True) if not is_there]
    damaged = [problem for _, problem in states if problem]
    first_here = process.rank - process.local_rank
    parts = gather((len(missing), disk_needed(missing), any(job.video.is_file for job in missing), damaged))
    counts, sizes, guesses, damages = zip(*parts[first_here : first_here + process.num_local], strict=True)
    for problem in (text for texts in damages for text in texts):
        say(f"{problem}; packing it again")
    if sum(counts):
        about, needed, free = "about " if any(guesses) else "", sum(sizes), disk_free(cache_dir)
        amounts = f"{about}{_amount(needed)} of {_amount(free)} free in {cache_dir}"
        if needed > free:
            raise DataError(
                f"packing {sum(counts)} videos takes {amounts}; set dataset.cache_dir=FOLDER to a larger disk"
            )
        say(f"packing {sum(counts)} videos: {amounts}")
    return missing


def _pack(jobs: list[Job], spec: Spec, count: tuple[int, str], process: Process, say: Say) -> dict[str, str]:
    """Pack this process's share; {video path: why it can't be read} of all processes."""
    num_rounds = max(-(-num_jobs // _ROUND) for num_jobs in gather(len(jobs)))
    if not num_rounds:
        return {}
    watch, bar = Stopwatch(), ProgressBar("packing", len(jobs), "video", process.is_first)
    outcomes = pack_all(jobs, usable_workers(spec.dataset.workers, process.num_local))
    problems: dict[str, str] = {}
    try:
        for _ in range(num_rounds):
            for job, problem in islice(outcomes, _ROUND):
                bar.advance(1)
                if problem and spec.dataset.on_bad_video != "skip":
                    raise bad_video(job.video.path, problem)
                if problem:
                    problems[job.video.path] = problem
            problems = {path: text for part in gather(problems) for path, text in part.items()}
            stop_if_too_many(list(problems.items()), *count)
    finally:
        outcomes.close()
        bar.close()
    say(f"packed in {duration(watch.seconds)}")
    return problems


def _with_packed(index: Index, jobs: dict[str, Job], problems: dict[str, str]) -> Index:
    good = [video for video in index.videos if video.path not in problems]
    return replace(
        index,
        videos=[replace(v, packed=jobs[v.path].path) if v.path in jobs else v for v in good],
        skipped=index.skipped + [(v.path, problems[v.path]) for v in index.videos if v.path in problems],
    )


def _amount(num_bytes: int) -> str:
    """Bytes as people write them: 3.2 GB, 45 MB."""
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.0f} MB"
