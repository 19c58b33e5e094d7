#!/usr/bin/env python3
"""Everything that wants an NVIDIA card, in one call: right results, speed beside its peers, and what shares cost.

    python tests/campaigns/nvidia.py --models DIR [--device cuda:0] [--batch 1,8,32] [--share 12.5,25,50,100] [-o nvidia.md]
        [--speed resnet50,mobilenet_v2,bert_base] [--right all] [--budget 300s]

1. Every model of the kit (`--right`) is run with default configs and compared with what is expected (`run --expect`).
2. The models of `--speed` are tuned at every batch and share that the device gives, and on all of it with `--numerics relaxed` as well;
   the tuned outputs are compared with ONNX Runtime's.
3. Latency in paired rounds, every rival a process of its own that was loaded before the first round: ours, strict and relaxed, ONNX
   Runtime (CUDA where its build has it), PyTorch eager, and `torch.compile(mode="max-autotune")` in f32, tf32 and bf16. Inputs and outputs are on the host
   for all of them. Throughput is the batch over the median latency.
4. The latency of what was tuned at each share, at that share.

Prints Markdown, and writes it where `-o` says. What is not installed, not there or not given by the device is named, never passed over;
exit code 1 when a result was wrong or a peer that is there failed.

Needs numpy and onnxruntime (onnxruntime-gpu for CUDA); for PyTorch's rows torch and onnx2torch.
"""
import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import paired

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benches/peers"))
from peers import Rival, worst_error  # noqa: E402

# Ours, by the numerics they were tuned with.
OURS = {"tunewright": "strict", "tunewright relaxed": "relaxed"}
LOOSE = {"transformer", "recurrent", "speech"}
TORCH = {"eager f32": ("eager", "f32"), "compile f32": ("compile", "f32"), "compile tf32": ("compile", "tf32"),
         "compile bf16": ("compile", "bf16")}
# Of an output against ONNX Runtime's, by the type that computed it.
ERROR_MAX = {"f32": 1e-3, "relaxed": 5e-2, "tf32": 5e-2, "bf16": 3e-1}


def serve(ready, run):
    """A rival's side of the protocol: each line `slot SECONDS` is answered by latencies in nanoseconds."""
    print(json.dumps({"ready": True, **ready}), flush=True)
    for line in sys.stdin:
        seconds = float(line.split()[1])
        samples, start = [], time.perf_counter_ns()
        while not samples or time.perf_counter_ns() - start < seconds * 1e9:
            before = time.perf_counter_ns()
            run()
            samples.append(time.perf_counter_ns() - before)
        print(json.dumps({"latency_ns": samples}), flush=True)


def serve_onnxruntime(model, inputs, outputs, cuda):
    import onnxruntime as ort

    providers = (["CUDAExecutionProvider"] if cuda else []) + ["CPUExecutionProvider"]
    session = ort.InferenceSession(model, providers=[one for one in providers if one in ort.get_available_providers()])
    arrays = dict(np.load(inputs))
    feed = {one.name: arrays[one.name] for one in session.get_inputs()}
    names = [one.name for one in session.get_outputs()]
    np.savez(outputs, **dict(zip(names, session.run(names, feed))))
    serve({"version": ort.__version__, "where": session.get_providers()[0]}, lambda: session.run(names, feed))


def serve_torch(model, inputs, outputs, how, dtype):
    import onnx
    import onnx2torch
    import torch

    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = dtype == "tf32"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    graph = onnx.load(model)
    module = onnx2torch.convert(graph).eval().to(device)
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    module = module.to(kind)
    if how == "compile":
        module = torch.compile(module, mode="max-autotune")
    arrays = dict(np.load(inputs))
    constants = {one.name for one in graph.graph.initializer}
    feed = [arrays[one.name] for one in graph.graph.input if one.name not in constants]

    def run():
        there = [torch.from_numpy(array).to(device) for array in feed]
        found = module(*[x.to(kind) if x.is_floating_point() else x for x in there])
        found = found if isinstance(found, (tuple, list)) else [found]
        return [x.float().cpu().numpy() if x.is_floating_point() else x.cpu().numpy() for x in found]

    with torch.inference_mode():
        np.savez(outputs, **dict(zip((one.name for one in graph.graph.output), run())))
        serve({"version": torch.__version__, "where": device}, run)


class Document:
    """Markdown that is printed as it comes, and kept."""

    def __init__(self):
        self.lines, self.wrong = [], []

    def say(self, *lines):
        self.lines += lines
        print(*lines, sep="\n", flush=True)

    def fail(self, what):
        self.wrong.append(what)
        self.say("", f"**{what}**", "")


def device_facts(arguments):
    done = subprocess.run([str(arguments.tunewright), "devices", "--json"], stdout=subprocess.PIPE, text=True, check=True)
    devices = json.loads(done.stdout)["devices"]
    found = next((one for one in devices if one["name"] == arguments.device and one["present"]), None)
    if found is None:
        reasons = [f"{one['name']}: {one.get('reason', 'present')}" for one in devices]
        sys.exit(f"nvidia.py: {arguments.device} is not here ({'; '.join(reasons)}); name one that is with --device")
    return found


def right(arguments, document):
    """Every model with default configs."""
    names = paired.names([] if arguments.right == "all" else arguments.right.split(","))
    document.say("", "## Results with default configs", "", "| model | s, compiling included | |", "|---|--:|---|")
    for name in names:
        rtol = "1e-3" if paired.facts(name)["family"] in LOOSE else "1e-4"
        command = [str(arguments.tunewright), "run", str(arguments.models / f"{name}.onnx"), "--device", arguments.device, "--rtol", rtol]
        for flag, end in (("--input", "in"), ("--expect", "out")):
            command += [flag, str(arguments.models / f"{name}.batch1.{end}.npz")]
        start = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        said = "agrees" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["differs"])[-1]
        document.say(f"| {name} | {time.monotonic() - start:.1f} | {said} |")
        if done.returncode != 0:
            document.wrong.append(f"{name}: {said}")


def make_inputs(arguments, names, batches):
    """Inputs the kit has not made yet."""
    lacking = sorted({batch for name in names for batch in batches if not (arguments.models / f"{name}.batch{batch}.in.npz").exists()})
    for batch in lacking:
        kit = paired.KIT.parent / "make_models.py"
        subprocess.run([sys.executable, str(kit), str(arguments.models), *names, "--batch", str(batch)], check=True, stdout=subprocess.DEVNULL)


def tuned(arguments, name, shares, numerics):
    artifact = arguments.folder / f"{name}.{numerics}.tune"
    asked = argparse.Namespace(**{**vars(arguments), "share": ",".join(shares)})
    start = time.monotonic()
    found = paired.tune(asked, name, artifact, arguments.folder / "db", "--device", arguments.device, "--budget", arguments.budget,
                        "--numerics", numerics)
    return artifact, found, time.monotonic() - start


def rivals(arguments, artifacts, name, batch, document):
    """The processes of one cell, ours first; a peer that is not installed was named before. `artifacts` are ours by numerics."""
    inputs, onnx = arguments.models / f"{name}.batch{batch}.in.npz", arguments.models / f"{name}.onnx"
    out = {who: arguments.folder / f"{name}.{who.replace(' ', '_')}.npz" for who in [*OURS, "ONNX Runtime", *TORCH]}
    cuda = arguments.device.startswith("cuda")
    commands = {who: [str(arguments.worker), str(artifacts[numerics]), str(inputs), str(out[who]), "100", arguments.device]
                for who, numerics in OURS.items() if numerics in artifacts}
    serve_here = [sys.executable, __file__, "--serve"]
    commands["ONNX Runtime"] = [*serve_here, "onnxruntime", str(onnx), str(inputs), str(out["ONNX Runtime"]), "cuda" if cuda else ""]
    if not arguments.lacking_torch:
        for who, (how, dtype) in TORCH.items():
            commands[who] = [*serve_here, "torch", str(onnx), str(inputs), str(out[who]), how, dtype]
    started = []
    for who, command in commands.items():
        try:
            started.append(Rival(who, command))
        except (RuntimeError, OSError) as error:
            document.fail(f"{who} failed on {name} at batch {batch}: {error}")
    reference = dict(np.load(out["ONNX Runtime"])) if any(one.name == "ONNX Runtime" for one in started) else None
    for one in started:
        if reference is not None and one.name != "ONNX Runtime":
            dtype = "relaxed" if OURS.get(one.name) == "relaxed" else TORCH.get(one.name, ("", "f32"))[1]
            error = worst_error(dict(np.load(out[one.name])), reference)
            if not error <= ERROR_MAX[dtype]:
                document.fail(f"{one.name} on {name} at batch {batch} is {error:.1e} off ONNX Runtime")
    return started


def speed(arguments, name, artifacts, document):
    """Latency beside the peers, in paired rounds."""
    for batch in arguments.batch.split(","):
        started = rivals(arguments, artifacts, name, batch, document)
        ours = [one.name for one in started if one.name in OURS]
        for one in started:
            one.slot(arguments.slot)
        medians = {one.name: [] for one in started}
        for turn in range(arguments.rounds):
            shift = turn % len(started)
            found = {}
            for one in started[shift:] + started[:shift]:
                time.sleep(paired.PAUSE_S)
                found[one.name] = statistics.median(one.slot(arguments.slot))
                medians[one.name].append(found[one.name])
        for one in started:
            latency = statistics.median(medians[one.name])
            ratios = [""] * len(OURS)
            for place, who in enumerate(OURS):
                if who in ours and one.name not in OURS:
                    middle, low, high = paired.interval([a / b for a, b in zip(medians[who], medians[one.name])])
                    ratios[place] = f"{middle:.2f} ({low:.2f}–{high:.2f})"
            where = one.ready.get("where", arguments.device)
            throughput = int(batch) * 1e9 / latency
            document.say(f"| {name} | {batch} | {one.name} | {where} | {latency / 1e6:.3f} | {throughput:.1f} | {' | '.join(ratios)} |")
            one.close()


def shares_of(arguments, facts):
    """The shares asked for that the device gives, as text, and those it does not."""
    asked = [float(text) for text in arguments.share.split(",")]
    given = [share for share in asked if share in facts["shares_pct"]]
    return [f"{share:g}" for share in sorted({*given, 100.0})], [f"{share:g}" for share in asked if share not in given]


def main():
    if sys.argv[1:2] == ["--serve"]:
        kind, model, inputs, outputs, *rest = sys.argv[2:]
        return serve_onnxruntime(model, inputs, outputs, bool(rest[0])) if kind == "onnxruntime" else serve_torch(model, inputs, outputs, *rest)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="what the model kit made, with expected outputs at batch 1")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--batch", default="1,8,32")
    parser.add_argument("--share", default="12.5,25,50,100")
    parser.add_argument("--speed", default="resnet50,mobilenet_v2,bert_base")
    parser.add_argument("--right", default="all")
    parser.add_argument("--budget", default="300s")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--slot", type=float, default=0.3, help="seconds of a slot, one inference at least")
    parser.add_argument("--folder", type=Path, help="for artifacts and the database; DIR/nvidia by default")
    parser.add_argument("--tunewright", type=Path, default=ROOT / "target/release/tunewright")
    parser.add_argument("--worker", type=Path, default=ROOT / "target/release/peers")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    arguments.folder = arguments.folder or arguments.models / "nvidia"
    arguments.folder.mkdir(exist_ok=True)
    facts, document = device_facts(arguments), Document()
    shares, refused = shares_of(arguments, facts)
    lacking = [module for module in ("torch", "onnx2torch") if importlib.util.find_spec(module) is None]
    arguments.lacking_torch = lacking
    document.say(f"# {facts['summary']}", "", f"Device {arguments.device}, shares by {facts['mechanism']}.")
    if refused:
        document.say("", f"Shares the device does not give: {', '.join(refused)}.")
    if lacking:
        document.say("", f"No rows of PyTorch: {' and '.join(lacking)} not installed (`pip install torch onnx2torch`).")
    if importlib.util.find_spec("onnxruntime") is None:
        sys.exit("nvidia.py: onnxruntime is not installed; pip install onnxruntime-gpu")
    right(arguments, document)
    names = arguments.speed.split(",")
    make_inputs(arguments, names, arguments.batch.split(","))
    artifacts, curves = {}, []
    document.say("", "## Tuned", "", "| model | numerics | s | trials | entries whose tuned plan was kept |", "|---|---|--:|--:|---|")
    for name, numerics in ((name, numerics) for name in names for numerics in OURS.values()):
        try:
            artifact, found, took = tuned(arguments, name, shares if numerics == "strict" else ["100"], numerics)
        except RuntimeError as error:
            document.fail(f"{name}, {numerics}: {error}")
            continue
        artifacts.setdefault(name, {})[numerics] = artifact
        entries = found["entries"]
        curves += [(name, entry) for entry in entries if numerics == "strict"]
        kept = sum(entry["tuned_kept"] for entry in entries)
        document.say(f"| {name} | {numerics} | {took:.0f} | {found['trials']['measured']} | {kept} of {len(entries)} |")
    document.say("", "## Beside the peers", "", "The ratios are our latency over theirs, with their 95 % intervals.", "",
                 "| model | batch | | where | latency, ms | throughput, 1/s | strict / theirs | relaxed / theirs |",
                 "|---|--:|---|---|--:|--:|---|---|")
    for name, ours in artifacts.items():
        speed(arguments, name, ours, document)
    document.say("", "## Shares", "", "| model | batch | share | default, ms | tuned there, ms | |", "|---|--:|--:|--:|--:|---|")
    for name, entry in curves:
        times = ["" if entry[which] is None else f"{entry[which] / 1e6:.3f}" for which in ("default_ns", "tuned_ns")]
        kept = "tuned" if entry["tuned_kept"] else "the default was kept"
        document.say(f"| {name} | {entry['batch']} | {entry['share_pct']:g} | {times[0]} | {times[1]} | {kept} |")
    document.say("", f"Wrong or failed: {'; '.join(document.wrong) if document.wrong else 'nothing'}.")
    if arguments.output:
        arguments.output.write_text("\n".join(document.lines) + "\n")
    return 1 if document.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
