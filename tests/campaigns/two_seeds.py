#!/usr/bin/env python3
"""Tunes every model twice, with seeds 0 and 1 and a fresh database each, and lets the two artifacts meet end to end.

    python tests/campaigns/two_seeds.py --models DIR [NAME ...] [--budget 60s] [--share 50,100] [--batch 1,4] [--rounds 24]

A cell passes when the interval of the latencies' ratio reaches into 0.97 … 1.03. Needs `target/release/peers`. Exits with 1 if a
cell fails.
"""
import argparse
import sys
import tempfile
from pathlib import Path

import paired

# A difference that a user would call none.
NEAR = (0.97, 1.03)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    paired.add_arguments(parser)
    arguments = parser.parse_args()
    failed = cells = 0
    for name in paired.names(arguments.names):
        with tempfile.TemporaryDirectory(dir=arguments.models) as folder:
            folder = Path(folder)
            try:
                pair = []
                for seed in ("0", "1"):
                    pair.append(folder / f"seed{seed}.tune")
                    paired.tune(arguments, name, pair[-1], folder / f"db{seed}", "--budget", arguments.budget, "--seed", seed)
                for share, batch, inputs in paired.each_cell(arguments, name):
                    middle, lo, hi = paired.latency_ratio(arguments.worker, pair, inputs, folder, share, arguments.rounds, arguments.slot)
                    near = lo <= NEAR[1] and hi >= NEAR[0]
                    cells, failed = cells + 1, failed + (not near)
                    print(f"{name:22} share {share:>4} batch {batch:>3}  seed 0 / seed 1 {middle:.3f}  {lo:.3f} … {hi:.3f}  "
                          f"{'ok' if near else 'apart'}", flush=True)
            except (RuntimeError, OSError) as error:
                cells, failed = cells + 1, failed + 1
                print(f"{name:22} failed: {error}", flush=True)
    print(f"{failed} of {cells} cells failed" if failed else f"all {cells} cells agree")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
