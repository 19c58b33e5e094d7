#!/usr/bin/env python3
"""Times tunewright beside ONNX Runtime, interleaved, on one machine in one go.

    python benches/peers/peers.py --models DIR [NAME ...] [--batch 1,16] [--threads 1,2] [--budget 60s] [-o FILE.json]

DIR holds what the model kit makes: NAME.onnx and NAME.batchB.in.npz. For every model an artifact is tuned first (share 50 for one
thread, share 100 for two) into DIR/tuned, or where --tuned says. Then each rival is a process of its own, loaded before the first round
and kept: ONNX Runtime pinned to as many cores as it has threads, ours pinning its own workers to its share. The rounds go A B, B A, ...
with a pause between slots, because a rival's spinning threads would disturb ours; a slot lasts about SLOT seconds, one inference at
least. The figure of a cell is the median of its samples; the ratio is ours over theirs per round, its median and its spread (least and
greatest round) are printed. Outputs are compared before anything is timed.

Needs numpy and onnxruntime.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class Rival:
    """A process that answers `slot SECONDS` with the latencies of that slot in nanoseconds."""

    def __init__(self, name, command, cpus=None):
        self.name = name
        pin = (lambda: os.sched_setaffinity(0, cpus)) if cpus else None
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=pin)
        self.ready = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended: exit code {self.process.wait()}")
        return json.loads(line)

    def slot(self, seconds):
        self.process.stdin.write(f"slot {seconds}\n")
        self.process.stdin.flush()
        return self.answer()["latency_ns"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def serve_onnxruntime(model, inputs_path, outputs_path, threads):
    """The rival's side of the protocol, in this file so that there is one."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    arrays = dict(np.load(inputs_path))
    feed = {i.name: arrays[i.name] for i in session.get_inputs()}
    names = [o.name for o in session.get_outputs()]
    np.savez(outputs_path, **dict(zip(names, session.run(names, feed))))
    print(json.dumps({"ready": True, "version": ort.__version__}), flush=True)
    for line in sys.stdin:
        seconds = float(line.split()[1])
        samples, start = [], time.perf_counter_ns()
        while not samples or time.perf_counter_ns() - start < seconds * 1e9:
            before = time.perf_counter_ns()
            session.run(names, feed)
            samples.append(time.perf_counter_ns() - before)
        print(json.dumps({"latency_ns": samples}), flush=True)


def worst_error(ours, theirs):
    """The greatest |a - b| / max(|b|, rms of the output) over all outputs."""
    worst = 0.0
    for name, b in theirs.items():
        a = ours[name].astype(np.float64)
        b = b.astype(np.float64)
        rms = math.sqrt(float(np.mean(b * b))) if b.size else 0.0
        scale = np.maximum(np.abs(b), max(rms, 1e-30))
        worst = max(worst, float(np.max(np.abs(a - b) / scale)) if b.size else 0.0)
    return worst


def tuned(arguments, name, batches):
    """The artifact of a model. What the database beside it knows is not measured again."""
    folder = arguments.tuned
    folder.mkdir(exist_ok=True)
    artifact = folder / f"{name}.tune"
    command = [str(arguments.tunewright), "tune", str(arguments.models / f"{name}.onnx"), "-o", str(artifact), "--share", "50,100",
               "--batch", ",".join(map(str, batches)), "--budget", arguments.budget, "--db", str(folder / "db"), "-q"]
    kit = Path(os.environ.get("TUNEWRIGHT_SHARED", ROOT.parent / "shared")) / "models" / "skeleton" / f"{name}.json"
    for axis, extent in json.loads(kit.read_text()).get("symbols", {}).items():
        command += ["--dim", f"{axis}={extent}"]
    subprocess.run(command, check=True)
    return artifact


def cell(arguments, name, artifact, batch, threads):
    """One model at one batch and number of threads."""
    inputs = arguments.models / f"{name}.batch{batch}.in.npz"
    onnx = arguments.models / f"{name}.onnx"
    cpus = set(sorted(os.sched_getaffinity(0))[:threads])
    share = 100 * threads // len(os.sched_getaffinity(0))
    out = {who: arguments.tuned / f"{name}.{who}.npz" for who in ("ours", "theirs")}
    theirs = Rival("onnxruntime", [sys.executable, __file__, "--serve", str(onnx), str(inputs), str(out["theirs"]), str(threads)], cpus)
    ours = Rival("tunewright", [str(arguments.worker), str(artifact), str(inputs), str(out["ours"]), str(share)])
    error = worst_error(np.load(out["ours"]), np.load(out["theirs"]))
    pair, samples = [ours, theirs], {"tunewright": [], "onnxruntime": []}
    for rival in pair:
        rival.slot(arguments.slot / 2)
    ratios = []
    for turn in range(arguments.rounds):
        medians = {}
        for rival in pair if turn % 2 == 0 else pair[::-1]:
            time.sleep(0.04)
            latencies = rival.slot(arguments.slot)
            samples[rival.name] += latencies
            medians[rival.name] = statistics.median(latencies)
        ratios.append(medians["tunewright"] / medians["onnxruntime"])
    for rival in pair:
        rival.close()
    median = {who: statistics.median(values) for who, values in samples.items()}
    return {
        "model": name, "batch": batch, "threads": threads, "tunewright_ns": int(median["tunewright"]),
        "onnxruntime_ns": int(median["onnxruntime"]), "ratio": statistics.median(ratios), "ratio_lo": min(ratios),
        "ratio_hi": max(ratios), "worst_error": error,
    }


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values)) if values else float("nan")


def main():
    if sys.argv[1:2] == ["--serve"]:
        return serve_onnxruntime(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--tuned", type=Path, help="folder of the artifacts; DIR/tuned by default")
    parser.add_argument("--batch", default="1")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--budget", default="60s")
    parser.add_argument("--slot", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--gflop-max", type=float, default=60.0, help="greater batches only for models of up to this much")
    parser.add_argument("--tunewright", type=Path, default=ROOT / "target/release/tunewright")
    parser.add_argument("--worker", type=Path, default=ROOT / "target/release/peers")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    arguments.tuned = arguments.tuned or arguments.models / "tuned"
    kit = Path(os.environ.get("TUNEWRIGHT_SHARED", ROOT.parent / "shared")) / "models" / "skeleton"
    names = arguments.names or sorted(path.stem for path in kit.glob("*.json"))
    gflop = {name: json.loads((kit / f"{name}.json").read_text())["gflops"] for name in names}
    batches = [int(text) for text in arguments.batch.split(",")]
    arguments.tune_batches = {n: [b for b in batches if b == 1 or gflop[n] * b <= arguments.gflop_max] for n in names}
    rows = []
    print(f"{'model':22} {'batch':>5} {'thr':>3} {'ours ms':>10} {'ORT ms':>10} {'ratio':>6}  {'rounds':13} {'error':>8}")
    for name in names:
        artifact = tuned(arguments, name, arguments.tune_batches[name])
        for batch in arguments.tune_batches[name]:
            for threads in [int(text) for text in arguments.threads.split(",")]:
                try:
                    row = cell(arguments, name, artifact, batch, threads)
                except (RuntimeError, OSError, KeyError) as error:
                    print(f"{name:22} {batch:5} {threads:3} failed: {error}", flush=True)
                    rows.append({"model": name, "batch": batch, "threads": threads, "failed": str(error)})
                    continue
                rows.append(row)
                print(f"{name:22} {batch:5} {threads:3} {row['tunewright_ns'] / 1e6:10.3f} {row['onnxruntime_ns'] / 1e6:10.3f} "
                      f"{row['ratio']:6.2f}  {row['ratio_lo']:.2f} … {row['ratio_hi']:.2f}   {row['worst_error']:8.1e}", flush=True)
    for batch in batches:
        for threads in [int(text) for text in arguments.threads.split(",")]:
            ratios = [row["ratio"] for row in rows if "ratio" in row and row["batch"] == batch and row["threads"] == threads]
            if ratios:
                print(f"batch {batch}, {threads} thread(s): geometric mean {geometric_mean(ratios):.3f}, worst {max(ratios):.2f}, {len(ratios)} models")
    if arguments.output:
        arguments.output.write_text(json.dumps({"schema": "bench.peers", "version": 1, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
