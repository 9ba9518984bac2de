"""Training from a spec: resume, fit, and at each step and epoch what the user sees and what is saved.

What a run is made of is train_setup.py's business, what a checkpoint of it holds train_state.py's.
"""

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml

from action_recognition.config import Spec, to_plain
from action_recognition.data.dataset import EvaluationWindows, Sample, TrainingClips
from action_recognition.data.index import stop_if_too_many
from action_recognition.data.loader import (
    Batch,
    evaluation_loader,
    training_loader,
    usable_workers,
    window_batches,
)
from action_recognition.data.prefetch import Prefetcher
from action_recognition.data.workers import reader_errors_told
from action_recognition.errors import Interrupted, UserError
from action_recognition.files import write_text
from action_recognition.report.answers import Answers
from action_recognition.report.plots import check_plots
from action_recognition.report.training import write_training_report
from action_recognition.sealing import key_from
from action_recognition.tasks.packing import counted
from action_recognition.tasks.setting import (
    Readable,
    Say,
    check_single_clips,
    make_results_folder,
    opening_lines,
    workers_here,
)
from action_recognition.tasks.train_setup import Setup
from action_recognition.tasks.train_state import checkpoint_of, restore
from action_recognition.training import checkpoint as files
from action_recognition.training.compiling import compile_errors_told
from action_recognition.training.distributed import Process, connected, from_first, gather, share_buffers
from action_recognition.training.loggers import open_loggers
from action_recognition.training.loop import State, evaluate, fit
from action_recognition.training.metrics import best_epoch, confusion_matrix, mean_class_accuracy, total_accuracy
from action_recognition.training.report import (
    ProgressBar,
    StatusFile,
    Stopwatch,
    duration,
    what_limits,
    write_metrics,
)
from action_recognition.training.stopping import ORPHANED, StopRequest
from action_recognition.training.trace import Trace


def train(spec: Spec, say: Say) -> list[dict[str, Any]]:
    """Train as `spec` says, going on from the newest checkpoint in its results folder. Returns the epochs' figures."""
    check_plots("train.report", spec.train.report)
    torch.backends.cudnn.benchmark = spec.train.cudnn.benchmark
    torch.backends.cudnn.deterministic = spec.train.cudnn.deterministic
    with connected(spec.train.device, spec.train.gpu_ids, "train.device", spec.train.timeout_sec) as process:
        trainer = Trainer(spec, process, say if process.is_first else lambda text: None)
        trainer.resume()
        history = trainer.fit()
        if spec.train.report:
            trainer.say(f"the report is {trainer.folder / 'report.html'}")
        return history


class Trainer:
    """One training run: what happens before, after and beside its arithmetic (the loop's Events)."""

    def __init__(self, spec: Spec, process: Process, say: Say) -> None:
        self.spec, self.process, self.say = spec, process, say
        for line in opening_lines(spec, "train", process):
            say(line)
        self.folder = make_results_folder(spec.train.results_dir, "train.results_dir")
        key = key_from(spec.encryption_key)
        self.manager = files.CheckpointManager(self.folder, key)
        if key:
            say("checkpoints are encrypted with the key given; without it they can't be read again")
        if process.is_first:
            self.manager.remove_leftovers()
        given = spec.train.resume_training_checkpoint_path
        self._start: Path | None = from_first(Path(given) if given else self.manager.latest())
        self.setup = Setup(spec, process, key, self._start is None, say)
        self.state = State()
        self.status = StatusFile(self.folder, process.is_first)
        self.stop = StopRequest(spec.train.timeout_sec)
        self.num_workers = workers_here(spec, process, say)
        self.readers: list[Any] = []
        self.answers: Answers | None = None  # of the last validation

    # --- the run ---

    def fit(self) -> list[dict[str, Any]]:
        """Train to the last epoch. Whatever ends it early is noted in status.json.

        SIGINT and SIGTERM save at the next step and end it with Interrupted.
        """
        train, setup, state = self.spec.train, self.setup, self.state
        if self._is_over():
            self.say(f"nothing to do: {self.folder} holds {self._epochs_done()}")
            self._write_again()
            self.status.write("SUCCESS", "training finished", _figures(state.history[-1]))
            return state.history
        if setup.plan.smallest_batch == 1 and not train.sync_bn:
            check_single_clips(setup.bare_model, setup.example_input())
        batches, validate = self._training_batches(), self._validation()
        clips, size = setup.plan.num_clips, setup.plan.batch_size * self.process.num_processes
        layout = "" if setup.layout == torch.contiguous_format else ", channels last"
        self.say(f"training in {setup.precision.name}{layout}: {clips} clips an epoch, {size} in a batch")
        self._open_folder()
        try:
            with (
                self.stop,
                self._ended_by_signal(),
                reader_errors_told(self.readers, self.spec.dataset.timeout_sec),
                compile_errors_told() if train.compile else nullcontext(),
            ):
                fit(setup.run, state, train.num_epochs, setup.plan, batches, validate, train.validation_interval, self)
        except BaseException as error:
            self.status.write("FAILURE", str(error) or type(error).__name__)
            raise
        finally:
            self.trace.close()
            self.bar.close()
            for logger in self.loggers:
                logger.close()
        self.status.write("SUCCESS", "training finished", _figures(state.history[-1]))
        best = self.folder / files.BEST
        if state.epoch < train.num_epochs:
            self.say(f"ended early: {self._epochs_done()}")
        self.say(f"finished in {duration(self.watch.seconds)}; the best model is {best}")
        return state.history

    def _is_over(self) -> bool:
        return self.state.epoch >= self.spec.train.num_epochs or self.setup.run.gives_up(self.state.history)

    def _epochs_done(self) -> str:
        done, train = self.state.epoch, self.spec.train
        why = "" if done >= train.num_epochs else f", the last {train.early_stopping} without a better one"
        return f"{done} finished epochs of {train.num_epochs}{why}"

    @contextmanager
    def _ended_by_signal(self) -> Iterator[None]:
        """A process that was told to end and then lost the others has ended by the signal, not by an error."""
        try:
            yield
        except Exception as error:
            if not self.stop.number or isinstance(error, UserError):
                raise
            what = "before this step could be saved; the same command goes on from the newest checkpoint"
            raise Interrupted(f"ended by {_signal_name(self.stop.number)} {what}", self.stop.number) from error

    def _save_and_leave(self, number: int) -> NoReturn:
        self._save([files.LATEST])
        state, latest = self.state, self.folder / files.LATEST
        where = f"epoch {state.epoch}, step {state.step}"
        raise Interrupted(
            f"stopped by {_signal_name(number)} at {where}: saved as {latest}; the same command goes on from there",
            number,
        )

    def _training_batches(self) -> Iterable[Batch]:
        dataset, setup = self.spec.dataset, self.setup
        videos, num_clips = setup.index.videos, dataset.clips_per_video
        clips = TrainingClips(videos, setup.contract, setup.augmentation, num_clips, setup.seed)
        loader = training_loader(clips, setup.plan, self.num_workers, self.process.device, dataset.timeout_sec)
        self.readers.append(loader.dataset)
        return Prefetcher(Readable[Batch](loader, dataset.on_bad_video), self.process.device)

    def _validation(self) -> Callable[[], dict[str, float]] | None:
        setup, index = self.setup, self.setup.val_index
        if index is None:
            return None
        process, class_names = self.process, setup.contract.class_names
        windows = EvaluationWindows(index.videos, setup.contract)
        shard = (process.rank, process.num_processes)
        loader = evaluation_loader(windows, self.num_workers, process.device, *shard, self.spec.dataset.timeout_sec)
        self.readers.append(loader.dataset)
        videos = Readable[Sample](loader, self.spec.dataset.on_bad_video)

        def validate() -> dict[str, float]:
            share_buffers(setup.judged_model)  # one model is validated, the one that is saved
            windows = window_batches(videos, setup.plan.batch_size)
            batches = takewhile(lambda _: not self.stop.number, windows)
            scores, problems = evaluate(
                setup.judged_model, batches, setup.run.to_input, setup.precision, len(class_names)
            )
            if number := self.stop.now():
                self._save_and_leave(number)  # of this epoch nothing but its validation is left
            self.state.problems.update(problems)
            root, num_epochs = str(self.spec.dataset.val_dataset_dir), self.state.epoch + bool(self.state.step)
            self.answers = Answers(scores, index, root, class_names, num_epochs)
            confusion = confusion_matrix(scores.labels, scores.predictions, len(class_names))
            accuracies = {"val_acc": total_accuracy(confusion), "val_m_acc": mean_class_accuracy(confusion)}
            return {"val_loss": scores.loss, **accuracies}

        return validate

    def _open_folder(self) -> None:
        done = self.state.tally  # of the epoch that a resumed run goes on with
        self.watch, self.epoch_watch = Stopwatch(), Stopwatch(done.data_sec + done.compute_sec)
        self._is_compiling, self._computed_before = self.spec.train.compile, done.compute_sec
        self.bar = self._new_bar()
        project, settings = self.spec.train.wandb_project, to_plain(self.spec)
        self.loggers = open_loggers(self.folder, project, settings) if self.process.is_first else []
        trace = "trace.json" if self.process.num_processes == 1 else f"trace_rank{self.process.rank}.json"
        self.trace = Trace(self.folder / trace, self.say, self.spec.train.profile)
        self._reported_problems = 0
        if self.process.is_first:
            write_text(self.folder / "spec.yaml", yaml.safe_dump(to_plain(self.spec), sort_keys=False))
            write_metrics(self.folder / "metrics.jsonl", self.state.history)
        self.status.write("STARTED", f"training {self.setup.contract.model_type} {self.spec.model.backbone}")

    def _new_bar(self) -> ProgressBar:
        epoch, num_epochs = self.state.epoch + 1, self.spec.train.num_epochs
        return ProgressBar(f"epoch {epoch}/{num_epochs}", self.setup.plan.num_clips, enabled=self.process.is_first)

    # --- the loop's events ---

    def step_done(self, state: State, num_clips: int, lr: float, settle: Callable[[], None]) -> None:
        """Show progress; save where checkpoint_interval counts steps, and where the run is to stop."""
        if self._is_compiling:
            seconds = state.tally.compute_sec - self._computed_before
            self.say(f"train.compile: the first step took {duration(seconds)}, nearly all of it compiling")
            self._is_compiling = False
        self.trace.step_done()
        means = state.tally.means()
        self.bar.advance(
            num_clips * self.process.num_processes, loss=means["train_loss"], acc=means["train_acc"], lr=lr
        )
        train = self.spec.train
        due = train.checkpoint_interval_unit == "step" and state.step % train.checkpoint_interval == 0
        if due and state.step < self.setup.plan.num_steps:
            settle()  # a loss that is not finite must not get into a file
            self._save([files.LATEST])
        if number := self.stop.after_step():
            settle()
            self._save_and_leave(number)

    def epoch_done(self, state: State, row: dict[str, Any]) -> None:
        """Save, then write the epoch's figures down."""
        self._report_problems()
        epoch, train = row["epoch"], self.spec.train
        by_epoch = train.checkpoint_interval_unit == "epoch"
        due = (by_epoch and state.epoch % train.checkpoint_interval == 0) or self._is_over()
        is_best = row is best_epoch(state.history)
        names = [files.epoch_name(epoch)] * due + [files.BEST] * is_best + [files.LATEST] * (due or not by_epoch)
        if names:
            self._save(names)
        self.bar.close()
        self.say(self._epoch_line(row, is_best))
        self._write_figures()
        self.status.write("RUNNING", f"epoch {epoch} finished", _figures(row))
        for logger in self.loggers:
            logger.write(row)
        self.epoch_watch, self.bar = Stopwatch(), self._new_bar()

    def _write_figures(self) -> None:
        """What the epochs up to here have brought."""
        if self.process.is_first:
            write_metrics(self.folder / "metrics.jsonl", self.state.history)
            if self.spec.train.report:
                num_workers = usable_workers(self.spec.dataset.workers, self.process.num_local)
                write_training_report(
                    self.folder, self.state.history, self.spec, self.setup.contract, num_workers, self.answers
                )

    def _write_again(self) -> None:
        """The figures of a finished run, which may have been killed between its last checkpoint and these."""
        validate = self._validation() if self.spec.train.report else None
        if validate:
            with self.stop, self._ended_by_signal(), reader_errors_told(self.readers, self.spec.dataset.timeout_sec):
                validate()
        self._write_figures()

    def _epoch_line(self, row: dict[str, Any], is_best: bool) -> str:
        figures = [f"train loss {row['train_loss']:.3f}, accuracy {row['train_acc']:.1f} %"]
        if "val_acc" in row:
            figures.append(f"validation loss {row['val_loss']:.3f}, accuracy {row['val_acc']:.1f} %")
        where = what_limits(row["data_sec"], row["compute_sec"], self.num_workers)
        costs = [f"lr {row['lr']:.3g}", f"{duration(self.epoch_watch.seconds)} ({where})"]
        if "peak_gpu_mib" in row:
            costs.append(f"{row['peak_gpu_mib'] / 1024:.1f} GiB of GPU memory")
        line = f"epoch {row['epoch'] + 1}/{self.spec.train.num_epochs}: {'; '.join([*figures, ', '.join(costs)])}"
        return f"{line}, best so far" if is_best else line

    def _report_problems(self) -> None:
        problems = {path: text for part in gather(self.state.problems) for path, text in part.items()}
        num_videos, what = counted(self.setup.indices)
        skipped = [*problems.items(), *(entry for index in self.setup.indices for entry in index.skipped)]
        stop_if_too_many(skipped, num_videos, what)
        if len(problems) > self._reported_problems:
            for path, text in list(problems.items())[self._reported_problems :]:
                self.say(f"skipped {path}: {text}")
            self.say(f"{len(skipped)} of {num_videos} {what} skipped")
        self._reported_problems = len(problems)

    # --- checkpoints ---

    def _save(self, names: list[str]) -> None:
        checkpoint = checkpoint_of(self.setup, self.state)  # every process takes part
        if self.process.is_first:
            self.manager.save(checkpoint, names)
            if (keep := self.spec.train.keep_checkpoints) and (best := best_epoch(self.state.history)):
                self.manager.remove_old(keep, self.state.epoch - 1, best["epoch"])

    def resume(self) -> None:
        """Go on from the checkpoint the spec names, else from the newest in the results folder, else start anew."""
        path = self._start
        if path is None:
            return
        content = self.manager.read(path)
        self.setup.say_if_plain(path)
        restore(self.setup, self.state, content, path)
        where = f"epoch {self.state.epoch}" + (f", step {self.state.step}" if self.state.step else "")
        self.say(f"resuming from {path} at {where}")


def _signal_name(number: int) -> str:
    return "the end of its launcher (torchrun)" if number == ORPHANED else signal.Signals(number).name


def _figures(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "epoch"}
