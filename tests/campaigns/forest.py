#!/usr/bin/env python3
"""Gathers what policy `forest` is judged by: model records of default plans, without any search, and judges it.

    python tests/campaigns/forest.py --models DIR --db DB [NAME ...] [--batch 1+2+4,8+16,32+64] [--extents 1,0.5] [--limit 60s]

For each model, extent of its open axes, device and group of batches a cell: `tune --budget trials=0,10s` measures the default plans at 50 and
100 % and stores them in DB with the model's features. A cell that takes longer than the limit is given up, and so are larger batches of
that model there. Cells are listed in DB.cells.jsonl, so that a second call goes on where the first stopped. Then the example program `forest`
leaves one model out after the other, with all its extents. Times are only as quiet as the machine: `--note` is printed with the result.
Prints a line per cell.
"""
import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import paired

ROOT = Path(__file__).resolve().parent.parent.parent
DEVICES, SHARES = "cpu:avx2,cpu:scalar,wgpu:0", "50,100"
BATCHES = "1+2+4,8+16,32+64"


def seconds(text):
    return float(text[:-1]) * {"s": 1, "m": 60}[text[-1]]


def measure(arguments, model, extent, device, batches, artifact):
    """Runs one cell: its outcome in a word, what was said, and its seconds."""
    command = [arguments.tunewright, "tune", arguments.models / f"{model}.onnx", "--db", arguments.db, "--device", device]
    command += ["--share", SHARES, "--batch", batches.replace("+", ","), "--budget", f"trials=0,{arguments.budget}", "-o", artifact]
    for axis, usual in paired.facts(model).get("symbols", {}).items():
        command += ["--dim", f"{axis}={max(1, round(usual * extent))}"]
    start = time.monotonic()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        said, _ = process.communicate(timeout=seconds(arguments.limit))
        outcome = "measured" if process.returncode == 0 else "refused"
    except subprocess.TimeoutExpired:
        # Its workers are of its session; it is asked first, so that the database is closed.
        process.send_signal(signal.SIGINT)
        try:
            said, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
        outcome = "limit"
    return outcome, said.strip().splitlines()[-1:] or [""], time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--db", type=Path, required=True)
    parser.add_argument("--batch", default=BATCHES, help="groups of batches; those of a group are measured in one go")
    parser.add_argument("--devices", default=DEVICES)
    parser.add_argument("--extents", default="1", help="of open axes beside the batch, in parts of the usual one")
    parser.add_argument("--budget", default="10s", help="of one cell, divided among its batches and shares")
    parser.add_argument("--limit", default="60s", help="seconds of one cell")
    parser.add_argument("--until", type=float, default=float("inf"), help="stop gathering after so many seconds")
    parser.add_argument("--note", default="", help="what else the machine did")
    parser.add_argument("--tunewright", type=Path, default=ROOT / "target/release/tunewright")
    parser.add_argument("--forest", type=Path, default=ROOT / "target/release/examples/forest")
    arguments = parser.parse_args()
    weight = lambda path: sum(one.stat().st_size for one in (path, path.with_suffix(".onnx.data")) if one.exists())
    names = arguments.names or [path.stem for path in sorted(arguments.models.glob("*.onnx"), key=weight)]
    list_of_cells = arguments.db.with_name(arguments.db.name + ".cells.jsonl")
    done = {}
    if list_of_cells.exists():
        for line in list_of_cells.read_text().splitlines():
            cell = json.loads(line)
            done[cell["model"], cell["extent"], cell["device"], cell["batch"]] = cell["outcome"]
    start, left = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder, list_of_cells.open("a") as out:
        given_up = {cell[:3] for cell, outcome in done.items() if outcome != "measured"}
        # Small batches of all models first: whenever it is stopped, what there is is of all kinds.
        opens = lambda model: bool(paired.facts(model).get("symbols"))
        extents = [float(extent) for extent in arguments.extents.split(",")]
        rounds = ((batch, extent) for batch in arguments.batch.split(",") for extent in extents)
        for (batch, extent), model, device in itertools.product(rounds, names, arguments.devices.split(",")):
            cell = (model, extent, device, batch)
            if cell in done or cell[:3] in given_up or (extent != 1 and not opens(model)):
                continue
            if time.monotonic() - start > arguments.until:
                left += 1
                continue
            outcome, said, took = measure(arguments, *cell, Path(folder) / "cell.tune")
            if outcome != "measured":
                given_up.add(cell[:3])
            facts = {"model": model, "extent": extent, "device": device, "batch": batch, "outcome": outcome, "s": round(took, 1)}
            print(json.dumps(facts), file=out, flush=True)
            why = "" if outcome == "measured" else f": {said[0][:160]}"
            print(f"{model} × {extent} batch {batch} on {device}: {outcome} in {took:.1f} s{why}", flush=True)
    if left:
        print(f"{left} cells are left for another call")
    if arguments.note:
        print(f"Measured {arguments.note}.")
    return subprocess.run([arguments.forest, arguments.db]).returncode


if __name__ == "__main__":
    sys.exit(main())
