#!/usr/bin/env python3
"""Tunes one set of models one task after the other and several at once, with equal budgets, and says what that saved and what it cost.

    python tests/campaigns/concurrent.py --models DIR NAME ... [--budget trials=400] [--share 50] [--batch 1] [--seeds 0,1,2,3,4]

For each seed: `tune --parallel off` and `tune --parallel auto` of the whole set, each with a database of its own and the same budget of
trials; then the two artifacts of every model meet end to end, in pairs. A cell passes when the interval of the latencies' ratio reaches
into 0.99 … 1.01. Prints the seconds of each and the bound

    (C + D) / max(C / c, D · sigma / m)

where a trial costs C seconds on the host (propose, generate, compile, store) and D on the device (load, verify, time), by the phases that
`tune --json` reports without concurrency; c host threads may compile, m slots measure at once, and sigma is how much slower D is then.
Needs `target/release/peers`. Exits with 1 if a cell fails.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import paired

# A difference between winners that counts as none.
NEAR = (0.99, 1.01)
HOST = ("propose", "generate", "compile", "store")
DEVICE = ("load", "verify", "time")


def extents(names):
    """The axes of all models; an axis that two of them want of different extents stops the campaign."""
    axes = {}
    for name in names:
        for axis, extent in paired.facts(name).get("symbols", {}).items():
            if axes.setdefault(axis, extent) != extent:
                raise SystemExit(f"{name} wants another {axis} than a model before it; run them apart")
    return axes


def tune(arguments, folder, mode, seed):
    """Tunes the set into a folder of its own: the object of `--json`."""
    folder.mkdir()
    models = [str(arguments.models / f"{name}.onnx") for name in arguments.names]
    command = [str(arguments.tunewright), "tune", *models, "-o", f"{folder}/", "--db", str(folder / "db"), "--share", arguments.share,
               "--batch", arguments.batch, "--budget", arguments.budget, "--seed", seed, "--parallel", mode, "--json"]
    for axis, extent in extents(arguments.names).items():
        command += ["--dim", f"{axis}={extent}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"tune --parallel {mode}: exit {done.returncode}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return json.loads(done.stdout)


def per_trial(told):
    """Seconds of a trial on the host and on the device."""
    trials = max(told["trials"]["measured"], 1)
    return tuple(sum(told["phases"][f"{phase}_ns"] for phase in phases) / 1e9 / trials for phases in (HOST, DEVICE))


def bound(alone, together, threads, slots):
    """How many times faster the set can be tuned at most; with the slowdown of a trial's part on the device beside others."""
    (host, device), (_, beside) = per_trial(alone), per_trial(together)
    slowdown = beside / device if device else 1.0
    longest = max(host / threads, device * slowdown / slots)
    return ((host + device) / longest if longest else 1.0), slowdown


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    paired.add_arguments(parser)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.set_defaults(budget="trials=400", share="50", batch="1")
    arguments = parser.parse_args()
    if not arguments.names:
        parser.error("which models? a set that is tuned together")
    threads = os.cpu_count() or 1
    slots = int(100 // min(float(share) for share in arguments.share.split(",")))
    failed, cells, speedups = 0, 0, []
    for seed in arguments.seeds.split(","):
        with tempfile.TemporaryDirectory(dir=arguments.models) as folder:
            folder = Path(folder)
            alone, together = (tune(arguments, folder / mode, mode, seed) for mode in ("off", "auto"))
            seconds = [told["took_ns"] / 1e9 for told in (alone, together)]
            speedups.append(seconds[0] / seconds[1])
            most, slowdown = bound(alone, together, threads, slots)
            host, device = per_trial(alone)
            print(f"seed {seed}: {seconds[0]:.1f} s one after the other ({alone['trials']['measured']} trials), {seconds[1]:.1f} s at once "
                  f"({together['trials']['measured']} trials): {speedups[-1]:.2f} times as fast; bound {most:.2f} with C {host * 1e3:.2f} ms, "
                  f"D {device * 1e3:.2f} ms, c {threads}, m {slots}, sigma {slowdown:.2f}", flush=True)
            for mode, told in (("off", alone), ("auto", together)):
                phases = ", ".join(f"{name.removesuffix('_ns')} {took / 1e9:.2f}" for name, took in told["phases"].items())
                print(f"  {mode:4} seconds by phase: {phases}", flush=True)
            for name in arguments.names:
                for share, batch, inputs in paired.each_cell(arguments, name):
                    pair = [folder / mode / f"{name}.tune" for mode in ("off", "auto")]
                    middle, lo, hi = paired.latency_ratio(arguments.worker, pair, inputs, folder, share, arguments.rounds, arguments.slot)
                    near = lo <= NEAR[1] and hi >= NEAR[0]
                    cells, failed = cells + 1, failed + (not near)
                    print(f"  {name:22} share {share:>4} batch {batch:>3}  off / auto {middle:.3f}  {lo:.3f} … {hi:.3f}  "
                          f"{'ok' if near else 'apart'}", flush=True)
    print(f"at once: {statistics.median(speedups):.2f} times as fast, median of {len(speedups)} seeds ({min(speedups):.2f} … {max(speedups):.2f})")
    print(f"{failed} of {cells} cells failed" if failed else f"all {cells} cells agree")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
