"""Training from a spec: data, model, resume, fit, checkpoints."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from torch import nn

from action_recognition.clip.contract import CHANNELS, Contract
from action_recognition.config import Spec, to_plain
from action_recognition.config.backbones import KINETICS
from action_recognition.data.agreement import contract_of
from action_recognition.data.augment import Augmentation
from action_recognition.data.cache import kept_for_evaluation, kept_for_training
from action_recognition.data.dataset import EvaluationWindows, Sample, TrainingClips
from action_recognition.data.flow_record import checked_flow
from action_recognition.data.frames import open_frames
from action_recognition.data.index import Index, class_names_of, index_classes, stop_if_too_many
from action_recognition.data.index_cache import with_memory
from action_recognition.data.loader import (
    Batch,
    ToInput,
    TrainingPlan,
    evaluation_loader,
    training_loader,
    usable_workers,
    window_batches,
)
from action_recognition.data.prefetch import Prefetcher
from action_recognition.data.workers import reader_errors_told
from action_recognition.errors import CheckpointError, Interrupted, SpecError, UserError
from action_recognition.files import write_text
from action_recognition.loading import description
from action_recognition.models import build_model
from action_recognition.models.stages import stages
from action_recognition.models.weights import load_pretrained, load_state
from action_recognition.report.answers import Answers
from action_recognition.report.plots import check_plots
from action_recognition.report.training import write_training_report
from action_recognition.sealing import key_from, plain_note
from action_recognition.tasks.packing import counted, packed
from action_recognition.tasks.setting import (
    Readable,
    Say,
    check_single_clips,
    make_results_folder,
    opening_lines,
    seed_everything,
    trainable_precision,
    workers_here,
)
from action_recognition.training import checkpoint as files
from action_recognition.training.compiling import compile_errors_told, compiled
from action_recognition.training.distributed import Process, connected, from_first, gather, parallel, share_buffers
from action_recognition.training.loggers import open_loggers
from action_recognition.training.loop import Run, State, Tally, evaluate, fit
from action_recognition.training.memory import LARGEST_BATCH, bytes_per_clip, fitting_batch_size, free_memory
from action_recognition.training.metrics import confusion_matrix, mean_class_accuracy, total_accuracy
from action_recognition.training.optim import (
    Precision,
    Schedule,
    default_precision,
    make_optimizer,
    memory_format,
    restart_schedule,
    restore_optimizer,
)
from action_recognition.training.recipe import (
    RunningMean,
    balanced_weights,
    clip_losses,
    compute_twice,
    freeze,
    mixing,
    stalled,
)
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
    """One training run: everything it is made of, and what happens beside its arithmetic (the loop's Events)."""

    def __init__(self, spec: Spec, process: Process, say: Say) -> None:
        self.spec, self.process, self.say = spec, process, say
        for line in opening_lines(spec, "train", process):
            say(line)
        self.folder = make_results_folder(spec.train.results_dir, "train.results_dir")
        self.key = key_from(spec.encryption_key)
        self.manager = files.CheckpointManager(self.folder, self.key)
        if self.key:
            say("checkpoints are encrypted with the key given; without it they can't be read again")
        self.seed = seed_everything(spec.train.seed, process.rank)
        indices: list[Index] = from_first(self._list_videos() if process.is_first else None)
        self.contract = contract_of(spec, indices[0].class_names)
        self.augmentation = self._make_augmentation()
        self.indices = self._pack_videos(indices)
        self.index = self.indices[0]
        self.val_index = self.indices[1] if len(self.indices) > 1 else None
        self.bare_model = self._build_model()
        self.precision = Precision(self._precision(), process.device.type)
        self.plan = self._make_plan()
        self.run = self._make_run()
        self.state = State()
        self.status = StatusFile(self.folder, process.is_first)
        self.stop = StopRequest(spec.train.timeout_sec)
        self.num_workers = workers_here(spec, process, say)
        self.readers: list[Any] = []
        self.answers: Answers | None = None  # of the last validation

    # --- what a run is made of ---

    def _list_videos(self) -> list[Index]:
        """The training and the validation videos as they lie on the disk."""
        dataset = self.spec.dataset
        names = class_names_of(dataset.label_map, str(dataset.train_dataset_dir))
        if not dataset.label_map:
            origin = "the list" if os.path.isfile(str(dataset.train_dataset_dir)) else "the sorted folder names"
            self.say(f"classes, from {origin}: {', '.join(names)}")
        modalities = contract_of(self.spec, names).modalities
        indices = [
            with_memory(partial(index_classes, root, names, modalities, dataset.on_bad_video), root, dataset)
            for root in self._roots
        ]
        return [checked_flow(index, dataset.flow_encoding, "dataset.flow_encoding") for index in indices]

    @property
    def _roots(self) -> list[str]:
        dataset = self.spec.dataset
        return [root for root in (dataset.train_dataset_dir, dataset.val_dataset_dir) if root]

    def _make_augmentation(self) -> Augmentation:
        augmentation, size = self.spec.dataset.augmentation_config, (self.contract.width, self.contract.height)
        return Augmentation(
            augmentation.train_crop_type,
            size,
            augmentation.crop_smaller_edge,
            augmentation.scales,
            augmentation.horizontal_flip_prob,
            augmentation.color_jitter,
        )

    def _pack_videos(self, indices: list[Index]) -> list[Index]:
        """The same videos, out of the frame cache where they belong there, and what is worth saying of them."""
        kept = (kept_for_training(self.augmentation), kept_for_evaluation(self.contract))
        wanted = list(zip(indices, kept, strict=False))
        indices = packed(self.spec, wanted, self.process, self.say, is_training=True)
        if self.process.is_first:
            for root, index in zip(self._roots, indices, strict=True):
                for note in (*index.notes, *(f"skipped {path}: {reason}" for path, reason in index.skipped)):
                    self.say(note)
                num_frames = sum(open_frames(video).num_frames for video in index.videos)
                self.say(f"{root}: {len(index.videos)} videos, {num_frames} frames")
        return indices

    def _build_model(self) -> nn.Module:
        spec, num_classes = self.spec, len(self.contract.class_names)
        model = build_model(spec.model, num_classes)
        num_parameters = sum(p.numel() for p in model.parameters())
        network = f"{spec.model.input_type} {spec.model.backbone} for {spec.model.model_type}"
        self.say(f"model: {network}, {num_classes} classes, {num_parameters:,} parameters, on {self.process.device}")
        if self.process.is_first:  # the others get the weights from the first when they connect
            for report in load_pretrained(model, spec.model, num_classes, self.key):
                self.say(str(report))
            own = None if spec.model.pretrained == KINETICS else spec.model.pretrained
            self._say_if_plain(
                own, *(getattr(spec.model, f"{m}_pretrained_model_path") for m in ("rgb", "of", "joint"))
            )
        return model.to(self.process.device)

    def _make_plan(self) -> TrainingPlan:
        dataset, process = self.spec.dataset, self.process
        clip_labels = [video.label for video in self.index.videos for _ in range(dataset.clips_per_video)]
        return TrainingPlan(
            len(clip_labels),
            dataset.batch_size or self._fitting_batch_size(),
            self.spec.train.accumulate_steps,
            self.seed,
            process.rank,
            process.num_processes,
            clip_labels if dataset.balance == "sampling" else None,
        )

    def _fitting_batch_size(self) -> int:
        """What dataset.batch_size auto means here, the same on all processes."""
        two_clips = _example_input(self.contract, self.process.device, num_clips=2)
        clip_bytes = bytes_per_clip(self.bare_model, two_clips, self.precision)
        free_bytes = free_memory(self.process.device, self.process.num_local)
        size = min(gather(LARGEST_BATCH if free_bytes is None else fitting_batch_size(clip_bytes, free_bytes)))
        free = "an unknown amount" if free_bytes is None else f"{free_bytes / 2**30:.1f} GiB"
        self.say(f"dataset.batch_size: {size} (auto: a clip holds {clip_bytes / 2**20:.0f} MiB, {free} is free)")
        return size

    def _make_run(self) -> Run:
        train, device, model = self.spec.train, self.process.device, self.bare_model
        self.layout = memory_format(train.memory_format, self.precision, self.contract.is_3d)
        model.to(memory_format=self.layout)
        by_stage = bool(train.freeze) or train.optim.stage_lr_decay < 1
        parts = stages(model) if by_stage or train.gradient_checkpointing else []
        frozen = freeze(parts, train.freeze)
        self.mean = RunningMean(model, train.ema_decay) if train.ema_decay else None
        if train.gradient_checkpointing:
            compute_twice(parts)
        optimizer = make_optimizer(model, train.optim, parts if by_stage else ())
        parallel_model = self._parallel(model)
        return Run(
            model=compiled(parallel_model) if train.compile else parallel_model,
            optimizer=optimizer,
            schedule=Schedule(optimizer, train.optim, train.num_epochs, self.plan.num_steps),
            scaler=self.precision.scaler(),
            precision=self.precision,
            to_input=ToInput(self.contract, device, self.layout),
            device=device,
            clip_grad_norm=train.clip_grad_norm,
            loss=partial(clip_losses, label_smoothing=train.label_smoothing, class_weights=self._class_weights()),
            mix=mixing(train.mixup_alpha, train.cutmix_alpha, len(self.contract.class_names)),
            frozen=frozen,
            stepped=self.mean.update if self.mean else lambda: None,
            gives_up=lambda history: stalled(history, best_epoch(history), train.early_stopping),
        )

    def _class_weights(self) -> torch.Tensor | None:
        if self.spec.dataset.balance != "loss":
            return None
        names = self.contract.class_names
        labels = [video.label for video in self.index.videos]
        weights = balanced_weights([labels.count(i) for i in range(len(names))])
        shown = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(names, weights, strict=True))
        self.say(f"dataset.balance: a clip's loss weighs by class: {shown}")
        return torch.tensor(weights, device=self.process.device)

    @property
    def judged_model(self) -> nn.Module:
        """The network that is validated and whose weights a checkpoint holds."""
        return self.mean.model if self.mean else self.bare_model

    def _precision(self) -> str:
        device = self.process.device
        name = self.spec.train.precision or default_precision(device)
        example = _example_input(self.contract, device)
        return trainable_precision(name, device, self.bare_model, example, self.say)

    def _parallel(self, model: nn.Module) -> nn.Module:
        device = self.process.device
        if self.spec.train.sync_bn:
            if device.type != "cuda":
                raise SpecError(f"train.sync_bn: works on GPUs only, and this run is on {device.type}; set it to false")
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # makes the host wait for the GPU at each layer
        return parallel(model, device)

    # --- the run ---

    def fit(self) -> list[dict[str, Any]]:
        """Train to the last epoch. Whatever ends it early is noted in status.json.

        SIGINT and SIGTERM save at the next step and end it with Interrupted.
        """
        train, run, state = self.spec.train, self.run, self.state
        if self._is_over():
            why = "" if state.epoch >= train.num_epochs else f", the last {train.early_stopping} without a better one"
            self.say(f"nothing to do: {self.folder} holds {state.epoch} finished epochs of {train.num_epochs}{why}")
            self._write_again()
            self.status.write("SUCCESS", "training finished", _figures(state.history[-1]))
            return state.history
        if self.plan.smallest_batch == 1 and not train.sync_bn:
            check_single_clips(self.bare_model, _example_input(self.contract, self.process.device))
        batches, validate = self._training_batches(), self._validation()
        clips, size = self.plan.num_clips, self.plan.batch_size * self.process.num_processes
        layout = "" if self.layout == torch.contiguous_format else ", channels last"
        self.say(f"training in {run.precision.name}{layout}: {clips} clips an epoch, {size} in a batch")
        self._open_folder()
        try:
            with (
                self.stop,
                self._ended_by_signal(),
                reader_errors_told(self.readers, self.spec.dataset.timeout_sec),
                compile_errors_told() if train.compile else nullcontext(),
            ):
                fit(run, state, train.num_epochs, self.plan, batches, validate, train.validation_interval, self)
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
        self.say(f"finished in {duration(self.watch.seconds)}; the best model is {best}")
        return state.history

    def _is_over(self) -> bool:
        return self.state.epoch >= self.spec.train.num_epochs or self.run.gives_up(self.state.history)

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
        dataset = self.spec.dataset
        clips = TrainingClips(self.index.videos, self.contract, self.augmentation, dataset.clips_per_video, self.seed)
        loader = training_loader(clips, self.plan, self.num_workers, self.process.device, dataset.timeout_sec)
        self.readers.append(loader.dataset)
        return Prefetcher(Readable[Batch](loader, dataset.on_bad_video), self.process.device)

    def _validation(self) -> Callable[[], dict[str, float]] | None:
        index = self.val_index
        if index is None:
            return None
        process, num_classes = self.process, len(self.contract.class_names)
        windows = EvaluationWindows(index.videos, self.contract)
        shard = (process.rank, process.num_processes)
        loader = evaluation_loader(windows, self.num_workers, process.device, *shard, self.spec.dataset.timeout_sec)
        self.readers.append(loader.dataset)
        videos = Readable[Sample](loader, self.spec.dataset.on_bad_video)

        def validate() -> dict[str, float]:
            share_buffers(self.judged_model)  # one model is validated, the one that is saved
            windows = window_batches(videos, self.plan.batch_size)
            batches = takewhile(lambda _: not self.stop.number, windows)
            scores, problems = evaluate(self.judged_model, batches, self.run.to_input, self.run.precision, num_classes)
            if number := self.stop.now():
                self._save_and_leave(number)  # of this epoch nothing but its validation is left
            self.state.problems.update(problems)
            self.answers = Answers(scores, index, str(self.spec.dataset.val_dataset_dir), self.contract.class_names)
            confusion = confusion_matrix(scores.labels, scores.predictions, num_classes)
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
        self.status.write("STARTED", f"training {self.contract.model_type} {self.spec.model.backbone}")

    def _new_bar(self) -> ProgressBar:
        epoch, num_epochs = self.state.epoch + 1, self.spec.train.num_epochs
        return ProgressBar(f"epoch {epoch}/{num_epochs}", self.plan.num_clips, enabled=self.process.is_first)

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
        if due and state.step < self.plan.num_steps:
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
                    self.folder, self.state.history, self.spec, self.contract, num_workers, self.answers
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
        num_videos, what = counted(self.indices)
        skipped = [*problems.items(), *(entry for index in self.indices for entry in index.skipped)]
        stop_if_too_many(skipped, num_videos, what)
        if len(problems) > self._reported_problems:
            for path, text in list(problems.items())[self._reported_problems :]:
                self.say(f"skipped {path}: {text}")
            self.say(f"{len(skipped)} of {num_videos} {what} skipped")
        self._reported_problems = len(problems)

    # --- checkpoints ---

    def _save(self, names: list[str]) -> None:
        checkpoint = self._checkpoint()  # every process takes part: each adds the state of its random generators
        if self.process.is_first:
            self.manager.save(checkpoint, names)
            if (keep := self.spec.train.keep_checkpoints) and (best := best_epoch(self.state.history)):
                self.manager.remove_old(keep, self.state.epoch - 1, best["epoch"])

    def _checkpoint(self) -> dict[str, Any]:
        run, state = self.run, self.state
        return {
            "format": files.FORMAT,
            "state_dict": files.contiguous(self.judged_model.state_dict()),
            **self._trained_weights(),
            "optimizer": files.contiguous(run.optimizer.state_dict()),
            "schedule": run.schedule.state_dict(),
            "scaler": run.scaler.state_dict(),
            "rng": gather(files.rng_state(self.process.device)),
            "epoch": state.epoch,
            "step": state.step,
            "tally": [asdict(tally) for tally in gather(state.tally)],
            "history": state.history,
            "num_clips": self.plan.num_clips,
            "batch_size": self.plan.batch_size,
            "spec": to_plain(self.spec),
            "contract": self.contract.to_plain(),
        }

    def _trained_weights(self) -> dict[str, Any]:
        """Beside their running mean, the weights that are trained on, and how many steps the mean is of."""
        if self.mean is None:
            return {}
        trained = files.contiguous(self.bare_model.state_dict())
        return {"trained_state_dict": trained, "mean_num_steps": self.mean.num_steps}

    def resume(self) -> None:
        """Go on from the checkpoint the spec names, else from the newest in the results folder, else start anew."""
        if self.process.is_first:
            self.manager.remove_leftovers()
        given = self.spec.train.resume_training_checkpoint_path
        path = from_first(Path(given) if given else self.manager.latest())
        if path is None:
            return
        content = self.manager.read(path)
        self._say_if_plain(path)
        self._check_resumable(content, path)
        saved = content.get("state_dict", {})
        load_state(self.bare_model, content.get("trained_state_dict", saved), str(path))
        if self.mean:
            load_state(self.mean.model, saved, str(path))
        try:
            self._restore(content)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"{path}: its training state can't be used ({error!r})") from error
        where = f"epoch {self.state.epoch}" + (f", step {self.state.step}" if self.state.step else "")
        self.say(f"resuming from {path} at {where}")

    def _say_if_plain(self, *paths: str | Path | None) -> None:
        for path in paths:
            if path and (note := plain_note(path, self.key)):
                self.say(note)

    def _check_resumable(self, content: dict[str, Any], path: Path) -> None:
        """CheckpointError where the checkpoint's weights are none of this spec; a line for each other change."""
        _, contract = description(content, path)
        changed = files.differences(content["spec"], to_plain(self.spec))
        fixed = {key: changed[key] for key in files.FIXED_KEYS[contract.model_type] if key in changed}
        if contract.class_names != self.contract.class_names:
            fixed["classes"] = (", ".join(contract.class_names), ", ".join(self.contract.class_names))
        if fixed:
            listing = "\n".join(f"  {key}: {old} there, {new} in the spec" for key, (old, new) in fixed.items())
            raise CheckpointError(
                f"{path}: is of another model or optimizer than the spec describes; use its values, or another "
                f"train.results_dir to start anew:\n{listing}"
            )
        for key, (old, new) in changed.items():
            if not key.startswith(("evaluate.", "inference.", "export.")) and not key.endswith("_dir"):
                self.say(f"changed since the checkpoint: {key}: {old} -> {new}")

    def _restore(self, content: dict[str, Any]) -> None:
        run, state, process = self.run, self.state, self.process
        if not self.spec.dataset.batch_size:
            self.plan.batch_size = content["batch_size"]
        restore_optimizer(run.optimizer, content["optimizer"])
        optim, length = self.spec.train.optim, (self.spec.train.num_epochs, self.plan.num_steps)
        if any(key.startswith("train.optim.") for key in files.differences(content["spec"], to_plain(self.spec))):
            run.schedule = restart_schedule(run.optimizer, optim, content["epoch"], *length)
        else:
            run.schedule.steps_per_epoch = self.plan.num_steps
            run.schedule.load_state_dict(content["schedule"])
        if self.mean:
            self.mean.num_steps = content.get("mean_num_steps", 0)
        if content["scaler"] and run.scaler.is_enabled():
            run.scaler.load_state_dict(content["scaler"])
        state.epoch, state.step, state.history = content["epoch"], content["step"], content["history"]
        same_processes = len(content["rng"]) == process.num_processes
        if same_processes:
            files.restore_rng(content["rng"][process.rank], process.device)
        else:
            before, now = len(content["rng"]), process.num_processes
            self.say(
                f"changed since the checkpoint: processes: {before} -> {now}; a step has {now}/{before} of the clips"
            )
        if state.step and same_processes and self._same_plan(content):
            state.tally = Tally(**content["tally"][process.rank])
        elif state.step:
            state.step = 0
            self.say(f"the batches have changed since the checkpoint: epoch {state.epoch} starts over")

    def _same_plan(self, content: dict[str, Any]) -> bool:
        keys = (
            "dataset.batch_size",
            "dataset.balance",
            "dataset.clips_per_video",
            "train.accumulate_steps",
            "train.seed",
        )
        changed = files.differences(content["spec"], to_plain(self.spec))
        is_seeded = self.spec.train.seed >= 0  # without a seed every start draws another order
        return is_seeded and content["num_clips"] == self.plan.num_clips and not any(key in changed for key in keys)


def best_epoch(history: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The first epoch of highest validation accuracy (at a tie, lowest loss); else of lowest training loss."""
    validated = [row for row in history if "val_acc" in row]
    if validated:
        return max(validated, key=lambda row: (row["val_acc"], -row["val_loss"]))
    return min(history, key=lambda row: row["train_loss"], default=None)


def _example_input(contract: Contract, device: torch.device, num_clips: int = 1) -> list[torch.Tensor]:
    shapes = {
        m: (num_clips, s.num_frames, contract.height, contract.width, CHANNELS[m]) for m, s in contract.streams.items()
    }
    return ToInput(contract, device)({m: torch.zeros(shape, dtype=torch.uint8) for m, shape in shapes.items()})


def _signal_name(number: int) -> str:
    return "the end of its launcher (torchrun)" if number == ORPHANED else signal.Signals(number).name


def _figures(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "epoch"}
