"""The command line that all spec-driven tools share: `tools/X.py [SPEC] [a.b=value ...]`.

`run_tool` reads it, lets the task run, and turns what users can get wrong into one message and an exit code: 2 for the
spec and the command line, 1 for the rest.
"""

import argparse
import io
import signal
import sys
from collections.abc import Callable, Iterable, Sequence

from action_recognition.config import Problem, Spec, describe, load_spec
from action_recognition.errors import Interrupted, SpecError, UserError
from action_recognition.machine import place, under_torchrun

Check = Callable[[Spec], Iterable[Problem]]


def run_tool(
    script: str,
    manual: str,
    task: str,
    checks: Sequence[Check],
    perform: Callable[[Spec], None],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run a task from its command line. Returns the exit code.

    `script` is the tool's own file: with num_gpus > 1 it is started again as that many processes. `manual` is the text
    above the keys in -h.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # names on disk may be any bytes, and printing one is no error
    try:
        spec = _read_spec(given, manual, task, checks)
        num_processes = getattr(getattr(spec, task), "num_gpus", 1)  # export has none
        if num_processes > 1 and not under_torchrun():
            return _launch(script, given, num_processes, getattr(spec, task).num_nodes)
        perform(spec)
    except SpecError as error:
        return _fail(error, 2)
    except UserError as error:
        return _fail(error, 1)
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        return _fail(str(error) or "interrupted", 128 + number)
    return 0


def _read_spec(arguments: list[str], manual: str, task: str, checks: Sequence[Check]) -> Spec:
    parser = argparse.ArgumentParser(
        description=manual,
        epilog=f"keys (default, meaning):\n{describe(task)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [SPEC] [section.key=value ...]",
    )
    parser.add_argument("-e", "--experiment_spec", "--experiment_spec_file", dest="spec", metavar="SPEC")
    parser.add_argument("words", nargs="*", metavar="SPEC or section.key=value", help="the YAML spec; overrides")
    options = parser.parse_intermixed_args(arguments)
    words: list[str] = options.words
    path = options.spec
    if path is None and words and "=" not in words[0]:
        path = words.pop(0)
    stray = [word for word in words if "=" not in word]
    if stray:
        raise SpecError(f"command line: {stray[0]!r} is neither the first argument nor a section.key=value override")
    return load_spec(path, words, task=task, checks=checks)


def _launch(script: str, arguments: list[str], num_processes: int, num_nodes: int) -> int:
    if num_nodes > 1:
        raise SpecError(
            f"num_nodes is {num_nodes}: start every machine with torchrun --nnodes={num_nodes} "
            f"--nproc-per-node={num_processes} --rdzv-backend=c10d --rdzv-endpoint=HOST:PORT {script} ..."
        )
    from action_recognition.training.distributed import launch

    return launch(script, arguments, num_processes)


def _fail(error: object, exit_code: int) -> int:
    if place().rank == 0 or exit_code == 1:
        sys.stderr.write(f"error: {error}\n")
    return exit_code
