#!/usr/bin/env python3
"""Where the time of tuned models goes, as a table for people: per model the operators with the greatest part, and how many GFLOP/s it reaches.

    python benches/peers/where.py --models DIR --tuned DIR [NAME ...] [--share 50] [--batch 1] [--repeat 20]

Profiled runs time every node, which costs small models some per cent; nodes of one operator are summed.
"""
import argparse
import collections
import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# Operators named per model.
OPERATORS = 4


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--tuned", type=Path, required=True)
    parser.add_argument("--share", default="50")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeat", default="20")
    parser.add_argument("--tunewright", type=Path, default=ROOT / "target/release/tunewright")
    arguments = parser.parse_args()
    kit = Path(os.environ.get("TUNEWRIGHT_SHARED", ROOT.parent / "shared")) / "models" / "skeleton"
    print("| model | ms | GFLOP/s | parts of the time |\n|---|--:|--:|---|")
    for name in arguments.names or sorted(path.stem for path in arguments.tuned.glob("*.tune")):
        command = [str(arguments.tunewright), "run", str(arguments.tuned / f"{name}.tune"), "--share", arguments.share, "--batch", str(arguments.batch),
                   "--input", str(arguments.models / f"{name}.batch{arguments.batch}.in.npz"), "--repeat", arguments.repeat, "--profile", "--json"]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        spent, count = collections.Counter(), collections.Counter()
        for step in found["profile"]:
            spent[step["op"]] += step["time_ns"]
            count[step["op"]] += 1
        total = max(sum(spent.values()), 1)
        parts = ", ".join(f"{op} ×{count[op]} {100 * time / total:.0f} %" for op, time in spent.most_common(OPERATORS))
        gflop = json.loads((kit / f"{name}.json").read_text())["gflops"] * arguments.batch
        print(f"| {name} | {found['median_ns'] / 1e6:.3f} | {gflop / found['median_ns'] * 1e9:.1f} | {parts} |", flush=True)


if __name__ == "__main__":
    main()
