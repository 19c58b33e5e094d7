"""Two artifacts of one model against each other, end to end: the worker of `benches/peers` as both rivals, in pairs.

The rivals are processes of their own that were loaded before the first pair. Rounds go A B, B A, ... with a pause between slots; the ratio
of a round is the median latency of A's slot over that of B's, and the interval over all rounds is the sign test's, as in
`src/measure/noise.rs`. Halfway both are started again: where the pages of a process happen to lie moves its speed by a per cent or two, and
that is not the plan's doing.
"""
import json
import math
import os
import statistics
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
KIT = Path(os.environ.get("TUNEWRIGHT_SHARED", ROOT.parent / "shared")) / "models" / "skeleton"
# Between two slots: threads of the rival that still spin are gone then.
PAUSE_S = 0.03
# Times that both rivals are started.
LOADS = 8


class Rival:
    """A loaded artifact that answers with the latencies of a slot."""

    def __init__(self, worker, artifact, inputs, outputs, share, device):
        command = [str(worker), str(artifact), str(inputs), str(outputs), str(share), device]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended: exit code {self.process.wait()}")
        return json.loads(line)

    def slot(self, seconds):
        self.process.stdin.write(f"slot {seconds}\n")
        self.process.stdin.flush()
        return statistics.median(self.answer()["latency_ns"])

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def interval(ratios):
    """The median and the 95 % interval of the sign test; the extremes where there are too few for one."""
    ordered, n = sorted(ratios), len(ratios)
    below, rank = 0.0, 0
    for i in range((n + 1) // 2):
        below += math.comb(n, i) / 2**n
        if below > 0.025:
            break
        rank = i + 1
    rank = max(rank, 1)
    return statistics.median(ordered), ordered[rank - 1], ordered[n - rank]


def latency_ratio(worker, pair, inputs, folder, share, rounds, slot_s, device="cpu"):
    """Latency of the first artifact over that of the second: median, lower and upper end.

    Where a process's pages lie in the caches is luck that stays for its life: each load is new processes and gives one ratio, and the
    interval is over loads."""
    ratios = []
    for load in range(LOADS):
        rivals = [Rival(worker, artifact, inputs, folder / f"rival{which}.npz", share, device) for which, artifact in enumerate(pair)]
        for rival in rivals:
            rival.slot(slot_s)
        turns = []
        for turn in range(max(1, rounds // LOADS)):
            order = (0, 1) if (turn + load) % 2 == 0 else (1, 0)
            medians = [0.0, 0.0]
            for which in order:
                time.sleep(PAUSE_S)
                medians[which] = rivals[which].slot(slot_s)
            turns.append(medians[0] / medians[1])
        ratios.append(statistics.median(turns))
        for rival in rivals:
            rival.close()
    return interval(ratios)


def facts(name):
    """What the kit says of a model."""
    return json.loads((KIT / f"{name}.json").read_text())


def names(asked):
    """The models asked for, or all of the kit."""
    return asked or sorted(path.stem for path in KIT.glob("*.json"))


def tune(arguments, name, artifact, database, *flags):
    """Tunes a model into an artifact with a database of its own; the object of `--json`."""
    command = [str(arguments.tunewright), "tune", str(arguments.models / f"{name}.onnx"), "-o", str(artifact), "--db", str(database),
               "--share", arguments.share, "--batch", arguments.batch, "--json", *flags]
    for axis, extent in facts(name).get("symbols", {}).items():
        command += ["--dim", f"{axis}={extent}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"tune: exit {done.returncode}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return json.loads(done.stdout)


def add_arguments(parser):
    """What both campaigns are told."""
    parser.add_argument("names", nargs="*")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--budget", default="60s")
    parser.add_argument("--share", default="50,100")
    parser.add_argument("--batch", default="1,4")
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--slot", type=float, default=0.1, help="seconds of a slot, one inference at least")
    parser.add_argument("--tunewright", type=Path, default=ROOT / "target/release/tunewright")
    parser.add_argument("--worker", type=Path, default=ROOT / "target/release/peers")


def each_cell(arguments, name):
    """Every share and batch with the inputs of the kit."""
    for share in arguments.share.split(","):
        for batch in arguments.batch.split(","):
            yield share, batch, arguments.models / f"{name}.batch{batch}.in.npz"
