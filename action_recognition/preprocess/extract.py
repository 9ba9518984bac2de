"""One video file to one finished folder of frames, or none."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from action_recognition.clip.video import SUFFIXES, Damage, read_video
from action_recognition.errors import DataError


@dataclass(frozen=True)
class Job:
    """A video file and the folder that its frames go to."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a job: frames written, or the problem why none were."""

    job: Job
    num_frames: int = 0
    packets_skipped: int = 0
    was_there: bool = False
    problem: str = ""


def find_videos(source: Path, target: Path) -> list[Job]:
    """The jobs for source/<class>/<video file> -> target/<class>/<stem>, sorted.

    DataError where there is no video, and where two files would share a folder.
    """
    files = sorted(p for p in source.glob("[!.]*/[!.]*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise DataError(f"{source}: no video file found; expected <class>/<video>{{{','.join(SUFFIXES[:4])},...}}")
    jobs: dict[Path, Job] = {}
    for file in files:
        folder = target / file.parent.name / file.stem
        if folder in jobs:
            raise DataError(f"{file} and {jobs[folder].source} would both become {folder}; rename one of them")
        jobs[folder] = Job(file, folder)
    return list(jobs.values())


def extract(job: Job) -> Outcome:
    """Write job.target/rgb/000000.png ...; the folder appears when its last frame is written, or not at all."""
    if job.target.exists():
        return Outcome(job, was_there=True)
    temporary = job.target.with_name(f".{job.target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed run: in containers process ids come again
    damage, num_frames = Damage(), 0
    try:
        (temporary / "rgb").mkdir(parents=True)
        for num_frames, frame in enumerate(read_video(job.source, damage), start=1):
            Image.fromarray(frame).save(temporary / "rgb" / f"{num_frames - 1:06d}.png", compress_level=1)
        temporary.rename(job.target)
    except DataError as error:
        return Outcome(job, packets_skipped=damage.packets_skipped, problem=str(error))
    except OSError as error:
        return Outcome(job, problem=f"{job.target}: can't be written ({error.strerror or error})")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Outcome(job, num_frames, damage.packets_skipped)
