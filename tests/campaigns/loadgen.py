"""Our load generator beside MLPerf's: PyPI's mlcommons-loadgen drives the same library, through `examples/loadgen_system.rs`.

    cargo build --release --bin tunewright --example loadgen_system
    python tests/campaigns/loadgen.py schedule
    python tests/campaigns/loadgen.py p99 mnist_cnn.tune --share 50 --batch 64 --load 0.5 --rounds 2

`schedule` asks whether both schedule 10^5 queries for the same nanoseconds: each of them at one rate, as the other's trace has them, and the
instants after many counts at others. `p99` runs the Server scenario of both at one rate, in turns, and compares the 99th percentiles.
Ends with 1 when they differ (p99: by more than 5 % between the medians over rounds), with 0 and a line where the wheel is missing.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

try:
    import mlperf_loadgen as lg
except ImportError:
    lg = None

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
SEEDS = {
    "qsl_rng_seed": 2085463073848966840,
    "sample_index_rng_seed": 2747215439041700203,
    "schedule_rng_seed": 16159082839903944936,
}
QUERIES = 100_000


def server(rate, queries, issue, folder, trace=False, queries_max=0, bound_ns=100_000_000):
    """Runs the wheel's Server scenario; its log's keys with their values."""
    settings = lg.TestSettings()
    settings.scenario, settings.mode = lg.TestScenario.Server, lg.TestMode.PerformanceOnly
    settings.server_target_qps, settings.server_target_latency_ns = rate, bound_ns
    settings.min_duration_ms, settings.min_query_count, settings.max_query_count = 0, queries, queries_max
    for name, seed in SEEDS.items():
        setattr(settings, name, seed)
    log = lg.LogSettings()
    log.log_output.outdir, log.enable_trace = str(folder), trace
    system = lg.ConstructSUT(issue, lambda: None)
    library = lg.ConstructQSL(1, 1, lambda _: None, lambda _: None)
    lg.StartTestWithLogSettings(system, library, settings, log, "no audit.config")
    lg.DestroyQSL(library)
    lg.DestroySUT(system)
    lines = (Path(folder) / "mlperf_log_detail.txt").read_text().splitlines()
    found = {}
    for line in lines:
        try:
            entry = json.loads(line.partition("MLLOG ")[2])
        except ValueError:
            continue  # a rate over one query, written as inf or -nan
        found[entry["key"]] = entry["value"]
    return found


def at_once(samples):
    lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0) for sample in samples])


def ours(rate, count):
    """Our instants, in nanoseconds."""
    command = [TARGET / "examples/loadgen_system", "arrivals", str(rate), str(count)]
    return [int(line) for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()]


def traced(folder):
    """The instants that the wheel's trace has, in nanoseconds from the first."""
    at = {}
    for line in (Path(folder) / "mlperf_log_trace.json").read_text().splitlines():
        if '"Sample"' not in line or '"ph":"b"' not in line:
            continue
        event = json.loads(line.rstrip(","), parse_float=str)
        micros, nanos = event["ts"].split(".")
        at[event["id"]] = int(micros) * 1000 + int(nanos.ljust(3, "0"))
    return [at[i] - at[0] for i in range(len(at))]


def schedule(_):
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        rate = 20_000
        version = server(rate, QUERIES, at_once, folder, trace=True)["loadgen_version"]
        theirs, mine = traced(folder), ours(rate, QUERIES)
        differ = sum(a != b for a, b in zip(theirs, mine)) + abs(len(theirs) - len(mine))
        print(f"mlcommons-loadgen {version}: {len(theirs)} instants at {rate}/s, {differ} differ")
        wrong += differ
        for rate in (100, 7.3, 1234.5):
            mine = ours(rate, QUERIES + 1)
            counts = sorted({1, 2, 3, 10, QUERIES, *range(2_000, QUERIES, 2_000)})
            # One query is issued, all are scheduled: the log tells the instant of the one after the last.
            after = {n: server(rate, n, at_once, folder, queries_max=1)["generated_query_duration"] for n in counts}
            differ = sum(after[n] != mine[n] for n in counts)
            print(f"the instants after {len(counts)} counts up to {QUERIES} at {rate}/s: {differ} differ; the last is {mine[QUERIES]} ns")
            wrong += differ
    return wrong


class Piped:
    """The library in a process of its own: a line for each sample, a line back when it is answered."""

    def __init__(self, artifact, share, batch, lanes):
        command = [TARGET / "examples/loadgen_system", "answer", artifact, str(share), str(batch), str(lanes)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.answers = self.process.stdout
        ready = self.answers.readline().split()
        if ready[:1] != [b"ready"]:
            sys.exit(f"the example did not start: {ready}")
        # Whoever issues keeps to what is left, as ours does.
        self.before = os.sched_getaffinity(0)
        if ready[1:]:
            os.sched_setaffinity(0, {int(core) for core in ready[1].split(b",")})
        threading.Thread(target=self.listen, daemon=True).start()

    def issue(self, samples):
        lines = "".join(f"{sample.id} {sample.index}\n" for sample in samples)
        os.write(self.process.stdin.fileno(), lines.encode())

    def listen(self):
        rest = b""
        while chunk := os.read(self.answers.fileno(), 65536):
            *lines, rest = (rest + chunk).split(b"\n")
            lg.QuerySamplesComplete([lg.QuerySampleResponse(int(line), 0, 0) for line in lines])

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        os.sched_setaffinity(0, self.before)


def bench(words):
    command = [TARGET / "tunewright", "--json", "bench", *map(str, words)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: {run.stderr}")
    return json.loads(run.stdout)


def p99(arguments):
    sys.setswitchinterval(1e-4)
    common = [arguments.artifact, "--share", arguments.share, "--batch", arguments.batch, "--concurrency", arguments.lanes]
    whole = bench([*common, "--scenario", "offline", "--duration", "5s"])
    capacity = whole["throughput_per_s"] / arguments.batch
    rate = round(arguments.load * capacity, 1)
    seconds = arguments.queries / rate
    print(f"capacity {capacity:.1f}/s; {arguments.queries} queries at {rate}/s ({100 * arguments.load:.0f} %), {seconds:.0f} s a run")
    found = {"ours": [], "wheel": []}
    for at in range(arguments.rounds):
        for name in ("ours", "wheel") if at % 2 == 0 else ("wheel", "ours"):
            if name == "ours":
                words = ["--scenario", "server", "--target-qps", rate, "--duration", f"{seconds * 1.01:.3f}s", "--deadline", "10s"]
                result = bench([*common, *words])
                n, latencies, late = result["requests"], (result["p50_ns"], result["p99_ns"]), result["lateness_p99_ns"]
            else:
                with tempfile.TemporaryDirectory() as folder:
                    system = Piped(arguments.artifact, arguments.share, arguments.batch, arguments.lanes)
                    log = server(rate, arguments.queries, system.issue, folder, bound_ns=10_000_000_000)
                    system.close()
                n, late = log["result_query_count"], None
                latencies = (log["result_50.00_percentile_latency_ns"], log["result_99.00_percentile_latency_ns"])
            found[name].append(latencies)
            note = "" if late is None else f", issued {late / 1e3:.1f} µs late at p99"
            print(f"  {name:5}  {n} queries, median {latencies[0] / 1e6:.3f} ms, p99 {latencies[1] / 1e6:.3f} ms{note}", flush=True)
    medians = {name: [statistics.median(run[i] for run in runs) for i in (0, 1)] for name, runs in found.items()}
    ratios = [medians["ours"][i] / medians["wheel"][i] for i in (0, 1)]
    print(f"ours over the wheel's: median {ratios[0]:.4f}, p99 {ratios[1]:.4f} (rounds: {arguments.rounds})")
    return abs(ratios[1] - 1) > 0.05


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    commands.add_parser("schedule").set_defaults(run=schedule)
    command = commands.add_parser("p99")
    command.add_argument("artifact")
    command.add_argument("--share", type=float, default=50)
    command.add_argument("--batch", type=int, default=1)
    command.add_argument("--lanes", type=int, default=1, help="requests at once: leave a core to whoever issues them")
    command.add_argument("--load", type=float, default=0.5)
    command.add_argument("--queries", type=int, default=QUERIES)
    command.add_argument("--rounds", type=int, default=2)
    command.set_defaults(run=p99)
    arguments = parser.parse_args()
    if lg is None:
        print("skipped: there is no module mlperf_loadgen; pip install mlcommons-loadgen==6.0.17")
        return 0
    return 1 if arguments.run(arguments) else 0


if __name__ == "__main__":
    sys.exit(main())
