#!/usr/bin/env python3
"""Tunes one set of models one task after the other, with kernels compiled ahead of the one slot, and several at once, with equal budgets,
and says what that saved and what it cost.

    python tests/campaigns/concurrent.py --models DIR NAME ... [--device wgpu:0] [--budget trials=400] [--share 50] [--batch 1] [--seeds 0,1,2,3,4]

For each seed: `tune --parallel off`, `--parallel 1` and `--parallel auto` of the whole set, each with a database and a driver's cache of its
own and the same budget of trials; then the artifacts of every model meet the first mode's end to end, in pairs. A cell passes when the
interval of the latencies' ratio reaches into 0.99 ... 1.01. Prints the seconds of each and the bound

    (C + D) / max(C / c, D * sigma / m)

where a trial costs C seconds on the host (propose, generate, compile, store) and D on the device (load, verify, time), by the phases that
`tune --json` reports of the first mode; c host threads may compile, m slots measure at once, and sigma is how much slower D is in that
mode. Where C and D share the host's cores, as on the cpu and on software drivers, no mode is faster than the work shared out over them:
then the bound is at most their number. Needs `target/release/peers`. Exits with 1 if a cell fails.
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
MODES = {"off": "one after the other", "1": "compiled ahead", "auto": "at once"}
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
               "--batch", arguments.batch, "--budget", arguments.budget, "--seed", seed, "--parallel", mode, "--device", arguments.device, "--json"]
    for axis, extent in extents(arguments.names).items():
        command += ["--dim", f"{axis}={extent}"]
    environment = {**os.environ, "MESA_SHADER_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"tune --parallel {mode}: exit {done.returncode}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return json.loads(done.stdout)


def per_trial(told):
    """Seconds of a trial on the host and on the device."""
    trials = max(told["trials"]["measured"], 1)
    return tuple(sum(told["phases"][f"{phase}_ns"] for phase in phases) / 1e9 / trials for phases in (HOST, DEVICE))


def bound(alone, other, threads, slots, shared):
    """How many times faster the set can be tuned at most; with the slowdown of a trial's part on the device in that mode."""
    (host, device), (_, beside) = per_trial(alone), per_trial(other)
    slowdown = beside / device if device else 1.0
    longest = max(host / threads, device * slowdown / slots)
    most = (host + device) / longest if longest else 1.0
    return (min(most, threads) if shared else most), slowdown


def told_of(mode, told):
    """What a mode spent and compiled ahead."""
    phases = ", ".join(f"{name.removesuffix('_ns')} {took / 1e9:.2f}" for name, took in told["phases"].items())
    lines = [f"  {mode:4} seconds by phase: {phases}"]
    for ahead in told["compile_ahead"]:
        why = f"; {ahead['off']}" if ahead["off"] else ""
        lines.append(f"  {mode:4} ahead at share {ahead['share_pct']:g}: {ahead['compilers']} compilers, {ahead['compiled']} compiled, "
                     f"{ahead['used']} used, waited for {ahead['waited_ns'] / 1e9:.2f} s{why}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    paired.add_arguments(parser)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--device", default="cpu")
    parser.set_defaults(budget="trials=400", share="50", batch="1")
    arguments = parser.parse_args()
    if not arguments.names:
        parser.error("which models? a set that is tuned together")
    threads = os.cpu_count() or 1
    slots = int(100 // min(float(share) for share in arguments.share.split(",")))
    failed, cells, speedups = 0, 0, {mode: [] for mode in MODES}
    for seed in arguments.seeds.split(","):
        with tempfile.TemporaryDirectory(dir=arguments.models) as folder:
            folder = Path(folder)
            told = {mode: tune(arguments, folder / mode, mode, seed) for mode in MODES}
            seconds = {mode: told[mode]["took_ns"] / 1e9 for mode in MODES}
            host, device = per_trial(told["off"])
            print(f"seed {seed}: C {host * 1e3:.2f} ms, D {device * 1e3:.2f} ms a trial, c {threads}", flush=True)
            for mode, words in MODES.items():
                speedups[mode].append(seconds["off"] / seconds[mode])
                m = slots if mode == "auto" else 1
                most, slowdown = bound(told["off"], told[mode], threads, m, not arguments.device.startswith("cuda"))
                print(f"  {mode:4} {words}: {seconds[mode]:.1f} s, {told[mode]['trials']['measured']} trials: {speedups[mode][-1]:.2f} times as "
                      f"fast; bound {most:.2f} with m {m}, sigma {slowdown:.2f}", flush=True)
            for mode in MODES:
                print(told_of(mode, told[mode]), flush=True)
            for name in arguments.names:
                for share, batch, inputs in paired.each_cell(arguments, name):
                    for mode in list(MODES)[1:]:
                        pair = [folder / which / f"{name}.tune" for which in ("off", mode)]
                        middle, lo, hi = paired.latency_ratio(arguments.worker, pair, inputs, folder, share, arguments.rounds, arguments.slot,
                                                              arguments.device)
                        near = lo <= NEAR[1] and hi >= NEAR[0]
                        cells, failed = cells + 1, failed + (not near)
                        print(f"  {name:22} share {share:>4} batch {batch:>3}  off / {mode:4} {middle:.3f}  {lo:.3f} ... {hi:.3f}  "
                              f"{'ok' if near else 'apart'}", flush=True)
    for mode, words in list(MODES.items())[1:]:
        all_seeds = speedups[mode]
        print(f"{words}: {statistics.median(all_seeds):.2f} times as fast, median of {len(all_seeds)} seeds ({min(all_seeds):.2f} ... {max(all_seeds):.2f})")
    print(f"{failed} of {cells} cells failed" if failed else f"all {cells} cells agree")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
