#!/usr/bin/env python3
"""Lets every tuned artifact meet the untuned one end to end.

    python tests/campaigns/tuned_vs_default.py --models DIR [NAME ...] [--budget 60s] [--share 50,100] [--batch 1,4] [--rounds 24]

The untuned artifact is that of a tuning with a budget of a millisecond: every task at its default. A cell fails when the interval of
tuned over default lies wholly above 1.00, or its median above 1.03. Also checks the same of the figures of `tune --json`. Needs
`target/release/peers`. Exits with 1 if a cell fails.
"""
import argparse
import math
import sys
import tempfile
from pathlib import Path

import paired

# The median slowdown that is forgiven when the interval says nothing.
SLOWDOWN_MAX = 1.03


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    paired.add_arguments(parser)
    parser.add_argument("--seed", default="0")
    arguments = parser.parse_args()
    failed, gains = 0, []
    for name in paired.names(arguments.names):
        with tempfile.TemporaryDirectory(dir=arguments.models) as folder:
            folder = Path(folder)
            tuned, default = folder / "tuned.tune", folder / "default.tune"
            try:
                told = paired.tune(arguments, name, tuned, folder / "db", "--budget", arguments.budget, "--seed", arguments.seed)
                untold = paired.tune(arguments, name, default, folder / "db-default", "--budget", "1ms")
                stray = [task["config"] for model in untold["models"] for task in model["gains"] if not task["is_default"]]
                if stray:
                    raise RuntimeError(f"the untuned artifact has tuned tasks: {stray[0]}")
                for entry in told["entries"]:
                    if entry["ratio_hi"] < 1.0 or entry["ratio"] < 1.0 / SLOWDOWN_MAX:
                        raise RuntimeError(f"tune --json itself says slower: {entry}")
                for share, batch, inputs in paired.each_cell(arguments, name):
                    middle, lo, hi = paired.latency_ratio(
                        arguments.worker, (tuned, default), inputs, folder, share, arguments.rounds, arguments.slot)
                    bad = lo > 1.0 or middle > SLOWDOWN_MAX
                    failed += bad
                    gains.append(1.0 / middle)
                    print(f"{name:22} share {share:>4} batch {batch:>3}  tuned / default {middle:.3f}  {lo:.3f} … {hi:.3f}  "
                          f"{'slower' if bad else 'ok'}", flush=True)
            except (RuntimeError, OSError) as error:
                failed += 1
                print(f"{name:22} failed: {error}", flush=True)
    if gains:
        print(f"gain, geometric mean over {len(gains)} cells: {math.exp(sum(map(math.log, gains)) / len(gains)):.3f}")
    print(f"{failed} failed" if failed else "none is slower")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
