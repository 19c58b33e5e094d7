#!/usr/bin/env python3
"""Tunes every model of the kit and checks the artifacts at every share and batch.

    python tests/campaigns/tune_all.py --models DIR [NAME ...] [--budget 60s] [--share 50,100] [--batch 1,4] [--device cpu]

For each model: `tune`, whose process and workers together must stay below 2 GB of resident memory (or twice the weights, if that is
more), then a second `tune` that must measure nothing within 5 s, then `run --expect` at every share and batch with rtol 1e-4 (1e-3 for
transformers, recurrent and speech models). Prints a line per model and exits with 1 if any check failed.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LOOSE = {"transformer", "recurrent", "speech"}


# Between two looks at the memory of a command.
LOOK_S = 0.02
PEAK_MAX_BYTES = 2 << 30
GFLOP_MAX = 60


def resident(pid):
    """Resident bytes of a process and everything it started; a page that two of them map counts twice."""
    total, todo = 0, [pid]
    while todo:
        pid = todo.pop()
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for thread in Path(f"/proc/{pid}/task").iterdir():
                todo += map(int, (thread / "children").read_text().split())
        except OSError:
            continue
    return total


def call(command):
    """Runs a command: exit code, stdout, stderr, seconds, and the peak of its resident bytes, its children's included."""
    start, peak = time.monotonic(), 0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            peak = max(peak, resident(process.pid))
            time.sleep(LOOK_S)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - start
        # The system's own figure misses no moment, but is of one process.
        peak = max(peak, usage.ru_maxrss << 10)
        out.seek(0)
        err.seek(0)
        return process.returncode, out.read(), err.read(), seconds, peak


def weights_bytes(models, name):
    """The model's files: mostly weights."""
    return sum(path.stat().st_size for path in (models / f"{name}.onnx", models / f"{name}.onnx.data") if path.exists())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--budget", default="60s")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--share", default="50,100")
    parser.add_argument("--batch", default="1,4")
    parser.add_argument("--small-batch", default="", help="further batches, for models of up to 60 GFLOP a batch; tuned, not checked")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--tunewright", type=Path, default=ROOT / "target/release/tunewright")
    arguments = parser.parse_args()
    kit = Path(os.environ.get("TUNEWRIGHT_SHARED", ROOT.parent / "shared")) / "models" / "skeleton"
    folder = arguments.models / "campaign"
    folder.mkdir(exist_ok=True)
    failed = 0
    for name in arguments.names or sorted(path.stem for path in kit.glob("*.json")):
        facts = json.loads((kit / f"{name}.json").read_text())
        batches = arguments.batch.split(",")
        batches += [text for text in arguments.small_batch.split(",") if text and int(text) * facts["gflops"] <= GFLOP_MAX]
        tuned_on = "" if arguments.device == "cpu" else "." + arguments.device.replace(":", "_")
        artifact = str(folder / f"{name}{tuned_on}.tune")
        tune = [str(arguments.tunewright), "tune", str(arguments.models / f"{name}.onnx"), "-o", artifact, "--device", arguments.device,
                "--share", arguments.share, "--batch", ",".join(batches), "--budget", arguments.budget, "--seed", arguments.seed, "--db", str(folder / "db"), "--json"]
        for axis, extent in facts.get("symbols", {}).items():
            tune += ["--dim", f"{axis}={extent}"]
        code, out, err, seconds, peak = call(tune)
        problems = [] if code == 0 else [f"tune: exit {code}: {err.strip().splitlines()[-1] if err.strip() else out[-200:]}"]
        gains = " ".join(f"{e['ratio']:.2f}" for e in json.loads(out).get("entries", [])) if code == 0 else ""
        if code == 0:
            again, out, err, second, _ = call(tune)
            measured = json.loads(out).get("trials", {}).get("measured") if again == 0 else None
            if again != 0 or measured != 0 or second > 5:
                problems.append(f"second tune: exit {again}, {measured} measured, {second:.1f} s")
            for share in arguments.share.split(","):
                for batch in arguments.batch.split(","):
                    rtol = "1e-3" if facts["family"] in LOOSE else "1e-4"
                    code, out, err, *_ = call(
                        [str(arguments.tunewright), "run", artifact, "--device", arguments.device, "--share", share, "--batch", batch, "--require-tuned", "--rtol", rtol,
                         "--input", str(arguments.models / f"{name}.batch{batch}.in.npz"),
                         "--expect", str(arguments.models / f"{name}.batch{batch}.out.npz")])
                    if code != 0:
                        line = (err or out).strip().splitlines()[-1:]
                        problems.append(f"run at share {share}, batch {batch}: exit {code}: {line}")
        allowed = max(PEAK_MAX_BYTES, 2 * weights_bytes(arguments.models, name))
        if peak > allowed:
            problems.append(f"tune held {peak >> 20} MiB, allowed are {allowed >> 20}")
        print(f"{name:22} {seconds:6.1f} s  gains {gains:30} peak {peak >> 20:5} MiB  {'ok' if not problems else '; '.join(problems)}", flush=True)
        failed += bool(problems)
    print(f"{failed} models failed" if failed else "all models passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
