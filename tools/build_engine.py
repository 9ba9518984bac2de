"""Build a TensorRT plan from an exported ONNX file, on the machine and the GPU that will run it.

  python tools/build_engine.py model.onnx                  # model.plan, and model.plan.json, which describes it
  python tools/build_engine.py model.onnx -o fast.plan --max-batch 4 --opt-batch 1 --builder-level 5
  python tools/build_engine.py model.onnx --version-compatible --hardware-compatible    # loads in more places, slower
  python tools/build_engine.py model.onnx --inspector layers.json    # what TensorRT made of the layers
  python tools/build_engine.py model.onnx --device cuda:1            # on the second GPU

The precision is that of the ONNX file: export it in fp16 or int8 for a plan in fp16 or int8. Prints the trtexec line
that builds the same. A build that is interrupted leaves its measurements to the next one. Exit code 1 where the plan
could not be built, 2 for the command line.

Needs TensorRT 10.14 or newer and cuda-python: pip install ".[trt]". Where there is no torch, and shall be none:
pip install tensorrt cuda-python onnx numpy tqdm.
"""

import argparse
import signal
import sys
from pathlib import Path

from action_recognition.deploy.engine import Settings, Target, build_engine, read_source, trtexec_command
from action_recognition.deploy.executor import gpu_id
from action_recognition.errors import SpecError, UserError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    default = Settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument("-o", dest="plan", type=Path, metavar="PLAN", help="(MODEL.plan)")
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N (cuda:0)")
    parser.add_argument("--min-batch", type=int, default=default.min_batch, metavar="N", help="(%(default)s)")
    parser.add_argument("--opt-batch", type=int, metavar="N", help="the batch that it is fastest for (4)")
    parser.add_argument("--max-batch", type=int, default=default.max_batch, metavar="N", help="(%(default)s)")
    parser.add_argument("--workspace", type=float, metavar="GIB", help="memory that layers may use (all)")
    parser.add_argument("--builder-level", type=int, choices=range(6), default=default.builder_level, metavar="0..5",
                        help="5 tries most and takes longest (%(default)s)")  # fmt: skip
    parser.add_argument("--timing-cache", type=Path, metavar="FILE", help="measurements, read and added to "
                        "(one for each TensorRT and GPU in the user's cache folder)")  # fmt: skip
    parser.add_argument("--version-compatible", action="store_true", help="loads in later versions of TensorRT, too")
    parser.add_argument("--hardware-compatible", action="store_true", help="runs on all GPUs since Ampere")
    parser.add_argument("--strict-fp32", action="store_true", help="no TF32 in layers of float32")
    parser.add_argument("--inspector", type=Path, metavar="FILE.json", help="write the details of the layers")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    return parser.parse_args(argv)


def build(options: argparse.Namespace) -> None:
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise UserError("the progress bar needs tqdm: pip install tqdm") from error
    device_id = gpu_id(options.device)
    if device_id is None:
        raise SpecError("--device: a plan is built on the GPU that will run it: cuda or cuda:N, got cpu")
    settings = Settings(
        min_batch=options.min_batch,
        opt_batch=options.opt_batch,
        max_batch=options.max_batch,
        workspace_gib=options.workspace,
        builder_level=options.builder_level,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        strict_fp32=options.strict_fp32,
        is_inspected=options.inspector is not None,
        device_id=device_id,
    )
    target = Target(options.plan or options.model.with_suffix(".plan"), options.timing_cache, options.inspector)
    source = read_source(options.model, settings)
    if not source.is_sealed:  # which trtexec can't read
        print(f"the same with trtexec: {trtexec_command(source, settings, target)}", flush=True)
    with tqdm(total=100, unit="%", bar_format="{l_bar}{bar}| {elapsed} {postfix}", disable=None) as bar:

        def show(done: float, phase: str) -> None:
            bar.set_postfix_str(phase, refresh=False)
            bar.update(max(0, int(100 * done) - bar.n))  # later phases may be longer than was thought

        line = build_engine(source, target, settings, options.overwrite, show)
    print(f"{target.plan} is written: {line}")


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    try:
        build(parse_args(argv))
    except SpecError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except (UserError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main())
