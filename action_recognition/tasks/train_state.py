"""A training run's checkpoint: what it holds, and a run set to where it stood when one was saved.

Files are training/checkpoint.py's business; here are their contents.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from action_recognition.clip.contract import Contract
from action_recognition.config import to_plain
from action_recognition.errors import CheckpointError
from action_recognition.loading import description
from action_recognition.models.weights import load_state
from action_recognition.tasks.train_setup import Setup
from action_recognition.training import checkpoint as files
from action_recognition.training.distributed import gather
from action_recognition.training.loop import State, Tally
from action_recognition.training.optim import restart_schedule, restore_optimizer

Changes = dict[str, tuple[Any, Any]]  # key of the spec: value at the checkpoint, value now
# What makes an epoch's batches, beside its videos and the number of processes.
_BATCH_KEYS = (
    "dataset.batch_size",
    "dataset.balance",
    "dataset.clips_per_video",
    "train.accumulate_steps",
    "train.seed",
)


def checkpoint_of(setup: Setup, state: State) -> dict[str, Any]:
    """All that a run needs to go on. Every process takes part: each adds its sums and its random generators."""
    run = setup.run
    return {
        "format": files.FORMAT,
        "state_dict": files.contiguous(setup.judged_model.state_dict()),
        **_trained_weights(setup),
        "optimizer": files.contiguous(run.optimizer.state_dict()),
        "schedule": run.schedule.state_dict(),
        "scaler": run.scaler.state_dict(),
        "rng": gather(files.rng_state(setup.process.device)),
        "epoch": state.epoch,
        "step": state.step,
        "tally": [asdict(tally) for tally in gather(state.tally)],
        "history": state.history,
        "num_clips": setup.plan.num_clips,
        "batch_size": setup.plan.batch_size,
        "spec": to_plain(setup.spec),
        "contract": setup.contract.to_plain(),
    }


def _trained_weights(setup: Setup) -> dict[str, Any]:
    """Beside their running mean, the weights that are trained on, and how many steps the mean is of."""
    if setup.mean is None:
        return {}
    trained = files.contiguous(setup.bare_model.state_dict())
    return {"trained_state_dict": trained, "mean_num_steps": setup.mean.num_steps}


def restore(setup: Setup, state: State, content: dict[str, Any], path: Path) -> None:
    """Set the run and `state` to what the checkpoint `content` of `path` holds, with a line for each changed key.

    CheckpointError where it is of another model, or damaged.
    """
    _, contract = description(content, path)
    changed = files.differences(content["spec"], to_plain(setup.spec))
    _check_resumable(setup, contract, changed, path)
    saved = content.get("state_dict", {})
    load_state(setup.bare_model, content.get("trained_state_dict", saved), str(path))
    if setup.mean:
        load_state(setup.mean.model, saved, str(path))
    try:
        _restore_training(setup, content, changed)
        _restore_position(setup, state, content, changed)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: its training state can't be used ({error!r})") from error


def _check_resumable(setup: Setup, contract: Contract, changed: Changes, path: Path) -> None:
    fixed = {key: changed[key] for key in files.FIXED_KEYS[contract.model_type] if key in changed}
    if contract.class_names != setup.contract.class_names:
        fixed["classes"] = (", ".join(contract.class_names), ", ".join(setup.contract.class_names))
    if fixed:
        listing = "\n".join(f"  {key}: {old} there, {new} in the spec" for key, (old, new) in fixed.items())
        raise CheckpointError(
            f"{path}: is of another model or optimizer than the spec describes; use its values, or another "
            f"train.results_dir to start anew:\n{listing}"
        )
    for key, (old, new) in changed.items():
        if not key.startswith(("evaluate.", "inference.", "export.")) and not key.endswith("_dir"):
            setup.say(f"changed since the checkpoint: {key}: {old} -> {new}")


def _restore_training(setup: Setup, content: dict[str, Any], changed: Changes) -> None:
    """The batch size, the optimizer, the schedule, the mean and the scaler."""
    spec, run, plan = setup.spec, setup.run, setup.plan
    if not spec.dataset.batch_size and plan.batch_size != content["batch_size"]:
        setup.say(
            f"dataset.batch_size: {content['batch_size']}, as before, where {plan.batch_size} would be chosen now; "
            "give a number to change it"
        )
        plan.batch_size = content["batch_size"]
    restore_optimizer(run.optimizer, content["optimizer"])
    if any(key.startswith("train.optim.") for key in changed):
        length = (spec.train.num_epochs, plan.num_steps)
        run.schedule = restart_schedule(run.optimizer, spec.train.optim, content["epoch"], *length)
    else:
        run.schedule.steps_per_epoch = plan.num_steps
        run.schedule.load_state_dict(content["schedule"])
    if setup.mean:
        setup.mean.num_steps = content.get("mean_num_steps", 0)
    if content["scaler"] and run.scaler.is_enabled():
        run.scaler.load_state_dict(content["scaler"])


def _restore_position(setup: Setup, state: State, content: dict[str, Any], changed: Changes) -> None:
    """The epoch and the step, unless other batches make that epoch now; and the random generators."""
    process = setup.process
    state.epoch, state.step, state.history = content["epoch"], content["step"], content["history"]
    before, now = len(content["rng"]), process.num_processes
    if before == now:
        files.restore_rng(content["rng"][process.rank], process.device)
    else:
        setup.say(f"changed since the checkpoint: processes: {before} -> {now}; a step has {now}/{before} of the clips")
    is_seeded = setup.spec.train.seed >= 0  # without a seed every start draws another order
    same_clips = content["num_clips"] == setup.plan.num_clips and not any(key in changed for key in _BATCH_KEYS)
    if state.step and before == now and is_seeded and same_clips:
        state.tally = Tally(**content["tally"][process.rank])
    elif state.step:
        state.step = 0
        setup.say(f"the batches have changed since the checkpoint: epoch {state.epoch} starts over")
