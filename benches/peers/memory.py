#!/usr/bin/env python3
"""Peak resident memory of one inference: `tunewright run` on an artifact beside ONNX Runtime on the model.

    python benches/peers/memory.py --models DIR [NAME ...] [--batch 1]

DIR holds what the model kit makes, and DIR/tuned the artifacts that peers.py made. Each side is a fresh process whose peak is what the
kernel accounts for it. From ONNX Runtime's, 25 MiB are taken for Python and numpy.
"""
import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHON_BYTES = 25 << 20


def peak(command):
    """The peak resident bytes of a command and its exit code."""
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.execvp(command[0], command)
    _, status, usage = os.wait4(child, 0)
    return usage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status)


def run_onnxruntime(model, inputs, threads):
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = int(threads)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    arrays = dict(np.load(inputs))
    session.run(None, {i.name: arrays[i.name] for i in session.get_inputs()})


def main():
    if sys.argv[1:2] == ["--run"]:
        return run_onnxruntime(*sys.argv[2:5])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tuned", type=Path, help="folder of the artifacts; DIR/tuned by default")
    parser.add_argument("--tunewright", type=Path, default=ROOT / "target/release/tunewright")
    arguments = parser.parse_args()
    folder = arguments.tuned or arguments.models / "tuned"
    names = arguments.names or sorted(path.stem for path in folder.glob("*.tune"))
    print(f"{'model':22} {'ours MiB':>9} {'ORT MiB':>9} {'ratio':>6}")
    for name in names:
        inputs = str(arguments.models / f"{name}.batch{arguments.batch}.in.npz")
        ours, code = peak([str(arguments.tunewright), "run", str(folder / f"{name}.tune"), "--input", inputs, "-q"])
        theirs, other = peak([sys.executable, __file__, "--run", str(arguments.models / f"{name}.onnx"), inputs, "1"])
        if code or other:
            print(f"{name:22} failed: exit codes {code} and {other}")
            continue
        theirs -= PYTHON_BYTES
        print(f"{name:22} {ours / 2**20:9.1f} {theirs / 2**20:9.1f} {ours / theirs:6.2f}", flush=True)


if __name__ == "__main__":
    main()
