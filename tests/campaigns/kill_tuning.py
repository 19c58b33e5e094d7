#!/usr/bin/env python3
"""Kills real tunings of small models with SIGKILL at random moments and looks at what is left.

    python tests/campaigns/kill_tuning.py --models DIR [NAME ...] [--kills 200] [--seed 0]

A database lives for some tunings; each is killed with its whole process group after a random time, some of them twice: the call that
recovers is killed too. After each kill every trial that `--json=lines` had acknowledged must be in the database (`db query --of trials`
and `--of failures`, by id), `db check` must be clean, and no worker may live on. At the end of a database's life `tune --continue` must
end well, and its artifact must compute what the kit expects. Exits with 1 if anything was lost.
"""
import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import paired

SMALL = ["mnist_cnn", "mlp", "ncf", "din", "dlrm_rmc1", "early_exit_cnn", "gru_keyword", "wide_and_deep"]
# Kills that one database sees.
KILLS_OF_A_DATABASE = 8
# One of so many kills is followed by a kill of what recovers.
TWICE_ONE_OF = 3
# Workers are gone so long after their parent at the latest.
ORPHANS_S = 2.0


def members(session):
    """Processes of a session that still live."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(folder.name))
    return found


class Campaign:
    def __init__(self, arguments, folder):
        self.arguments, self.folder = arguments, folder
        self.random = random.Random(arguments.seed)
        self.kills = self.finished = self.acknowledged = 0
        self.problems = []

    def problem(self, text):
        self.problems.append(text)
        print(f"kill {self.kills}: {text}", flush=True)

    def command(self, name, database, *flags):
        command = [str(self.arguments.tunewright), "tune", str(self.arguments.models / f"{name}.onnx"), "-o", str(self.folder / f"{name}.tune"),
                   "--db", str(database), "--json=lines", *flags]
        for axis, extent in paired.facts(name).get("symbols", {}).items():
            command += ["--dim", f"{axis}={extent}"]
        return command

    def killed(self, command, after_s):
        """Runs a command in a session of its own and kills it; the ids of trials it acknowledged, and whether it was still running."""
        out = self.folder / "lines"
        with out.open("wb") as lines, (self.folder / "errors").open("wb") as errors:
            process = subprocess.Popen(command, stdout=lines, stderr=errors, start_new_session=True)
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            pass
        alive = process.poll() is None
        if alive:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self.kills += 1
        deadline = time.monotonic() + ORPHANS_S
        while members(process.pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        for orphan in members(process.pid):
            self.problem(f"process {orphan} outlived its tuning by {ORPHANS_S} s")
            os.kill(orphan, signal.SIGKILL)
        if not alive and process.returncode != 0:
            self.problem(f"exit {process.returncode}: {(self.folder / 'errors').read_text().strip().splitlines()[-1:]}")
        # What lacks its end of line was being written.
        whole = out.read_bytes().rpartition(b"\n")[0].splitlines()
        events = [json.loads(line) for line in whole]
        return {event["id"] for event in events if event.get("event") == "trial"}, alive

    def call(self, *command):
        return subprocess.run([str(self.arguments.tunewright), *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def look(self, database, acknowledged):
        """What must be true of a database whose tuner was killed."""
        check = self.call("db", "check", "--db", database)
        if check.returncode != 0 and (database / "manifest.json").exists():
            self.problem(f"db check: exit {check.returncode}: {(check.stdout + check.stderr).strip().splitlines()[-1:]}")
        found = set()
        for kind in ("trials", "failures"):
            rows = self.call("db", "query", "--of", kind, "stale or not stale", "--json", "--db", database)
            if rows.returncode not in (0, 1):
                self.problem(f"db query: exit {rows.returncode}: {rows.stderr.strip().splitlines()[-1:]}")
                return
            found |= {row["id"] for row in json.loads(rows.stdout).get("rows", [])}
        lost = acknowledged - found
        if lost:
            self.problem(f"{len(lost)} of {len(acknowledged)} acknowledged trials are lost, {sorted(lost)[0]} is one")

    def database(self, number):
        """The life of a database: kills, then a tuning that goes on and ends well."""
        name = (self.arguments.names or SMALL)[number % len(self.arguments.names or SMALL)]
        database = self.folder / f"db{number}"
        acknowledged, seed = set(), 0
        for _ in range(KILLS_OF_A_DATABASE):
            if self.kills >= self.arguments.kills:
                break
            seed += 1
            # Afresh: otherwise the records of the tunings before would leave nothing to do.
            command = self.command(name, database, "--fresh", "--seed", str(seed), "--budget", "5s", "--batch", "1,4")
            ids, _ = self.killed(command, self.random.uniform(0.0, self.arguments.longest))
            acknowledged |= ids
            if self.random.randrange(TWICE_ONE_OF) == 0 and self.kills < self.arguments.kills:
                ids, _ = self.killed(command, self.random.uniform(0.0, 0.3))
                acknowledged |= ids
            self.look(database, acknowledged)
        self.acknowledged += len(acknowledged)
        going_on = ["--continue"] if list((database / "unfinished").glob("*.json")) else ["--batch", "1,4"]
        last = subprocess.run(self.command(name, database, *going_on, "--budget", "5s"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if last.returncode != 0:
            self.problem(f"{name}: tune {going_on[0]}: exit {last.returncode}: {last.stderr.strip().splitlines()[-1:]}")
            return
        self.look(database, acknowledged)
        loose = paired.facts(name)["family"] in {"transformer", "recurrent", "speech"}
        for batch in (1, 4):
            run = self.call("run", self.folder / f"{name}.tune", "--batch", batch, "--require-tuned", "--rtol", "1e-3" if loose else "1e-4",
                            "--input", self.arguments.models / f"{name}.batch{batch}.in.npz",
                            "--expect", self.arguments.models / f"{name}.batch{batch}.out.npz")
            if run.returncode != 0:
                self.problem(f"{name}: run --expect at batch {batch}: exit {run.returncode}: {(run.stderr or run.stdout).strip().splitlines()[-1:]}")
        self.finished += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=2.0, help="seconds after which a tuning is killed at the latest")
    parser.add_argument("--tunewright", type=Path, default=paired.ROOT / "target/release/tunewright")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.models) as folder:
        campaign, number = Campaign(arguments, Path(folder)), 0
        while campaign.kills < arguments.kills:
            campaign.database(number)
            number += 1
            print(f"{campaign.kills:4} kills, {number} databases, {campaign.acknowledged} acknowledged trials, {len(campaign.problems)} problems", flush=True)
    print(f"{campaign.kills} kills with seed {arguments.seed}: {campaign.acknowledged} acknowledged trials, {campaign.finished} of {number} went on to a "
          f"good artifact, {len(campaign.problems)} problems")
    return 1 if campaign.problems else 0


if __name__ == "__main__":
    sys.exit(main())
