#!/usr/bin/env python3
"""Tunes every model of the kit and checks the artifacts at every share and batch.

    python tests/campaigns/tune_all.py --models DIR [NAME ...] [--budget 60s] [--share 50,100] [--batch 1,4]

For each model: `tune`, then a second `tune` that must measure nothing within 5 s, then `run --expect` at every share and batch with
rtol 1e-4 (1e-3 for transformers, recurrent and speech models). Prints a line per model and exits with 1 if any check failed.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LOOSE = {"transformer", "recurrent", "speech"}


def call(command):
    """Runs a command: exit code, stdout, stderr, seconds, peak resident bytes."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.communicate()
    return process.returncode, out, err, time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--budget", default="60s")
    parser.add_argument("--share", default="50,100")
    parser.add_argument("--batch", default="1,4")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--tunewright", type=Path, default=ROOT / "target/release/tunewright")
    arguments = parser.parse_args()
    kit = Path(os.environ.get("TUNEWRIGHT_SHARED", ROOT.parent / "shared")) / "models" / "skeleton"
    folder = arguments.models / "campaign"
    folder.mkdir(exist_ok=True)
    failed = 0
    for name in arguments.names or sorted(path.stem for path in kit.glob("*.json")):
        facts = json.loads((kit / f"{name}.json").read_text())
        artifact = str(folder / f"{name}.tune")
        tune = [str(arguments.tunewright), "tune", str(arguments.models / f"{name}.onnx"), "-o", artifact, "--share", arguments.share,
                "--batch", arguments.batch, "--budget", arguments.budget, "--seed", arguments.seed, "--db", str(folder / "db"), "--json"]
        for axis, extent in facts.get("symbols", {}).items():
            tune += ["--dim", f"{axis}={extent}"]
        code, out, err, seconds = call(tune)
        problems = [] if code == 0 else [f"tune: exit {code}: {err.strip().splitlines()[-1] if err.strip() else out[-200:]}"]
        gains = " ".join(f"{e['ratio']:.2f}" for e in json.loads(out).get("entries", [])) if code == 0 else ""
        if code == 0:
            again, out, err, second = call(tune)
            measured = json.loads(out).get("trials", {}).get("measured") if again == 0 else None
            if again != 0 or measured != 0 or second > 5:
                problems.append(f"second tune: exit {again}, {measured} measured, {second:.1f} s")
            for share in arguments.share.split(","):
                for batch in arguments.batch.split(","):
                    rtol = "1e-3" if facts["family"] in LOOSE else "1e-4"
                    code, out, err, _ = call(
                        [str(arguments.tunewright), "run", artifact, "--share", share, "--batch", batch, "--require-tuned", "--rtol", rtol,
                         "--input", str(arguments.models / f"{name}.batch{batch}.in.npz"),
                         "--expect", str(arguments.models / f"{name}.batch{batch}.out.npz")])
                    if code != 0:
                        line = (err or out).strip().splitlines()[-1:]
                        problems.append(f"run at share {share}, batch {batch}: exit {code}: {line}")
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"{name:22} {seconds:6.1f} s  gains {gains:30} peak so far {peak:6.0f} MiB  {'ok' if not problems else '; '.join(problems)}", flush=True)
        failed += bool(problems)
    print(f"{failed} models failed" if failed else "all models passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
