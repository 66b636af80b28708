"""Kill a small study many times, restart it until it is done, and compare it with a normal run.

    python benchmarks/kills.py FOLDER --kills 200

A kill (SIGKILL) hits the process group, one random process of the study, or the process or group
that makes the N-th change of a file or the N-th commit of a database. N is random, up to the number
of these events in a normal run. The finished study must have byte-identical outputs, and the same
runs, versions and logged models as the normal run; every run must be finished, no lock damaged, and
no temporary file left. Then promote, rollback, gc and push are killed at their N-th event in the
same way. FOLDER/kills.csv lists the kills. Each loss is printed, and the exit code is 1 if there is
any.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from ecgforge.files import read_csv  # noqa: E402
from ecgforge.pipeline import cells, warm  # noqa: E402
from test_study import environment, make_project, small_params  # noqa: E402

HOOK = """
import os, signal, sqlite3, sys
ROOT = os.environ["KILL_ROOT"]
busy = False


def happened():
    global busy
    if busy:
        return
    busy = True
    count = os.open(os.path.join(ROOT, "..", "events"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(count, b".")
    with open(os.path.join(ROOT, "..", "plan")) as file:
        limit, whom, group = (file.read().split() + ["0", "self", "0"])[:3]
    if os.fstat(count).st_size == int(limit):
        if whom == "group":
            os.killpg(int(group), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(count)
    busy = False


def hook(event, arguments):
    if event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink") or (
        event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    ):
        is_path = isinstance(arguments[0], (str, bytes))
        name = os.path.abspath(os.fsdecode(arguments[0])) if is_path else ""
        if name.startswith(ROOT):
            happened()


class Counted(sqlite3.Connection):
    def commit(self):
        happened()
        super().commit()
        happened()


connect = sqlite3.connect
sqlite3.connect = sqlite3.dbapi2.connect = lambda *a, **k: connect(*a, **({"factory": Counted} | k))
sys.addaudithook(hook)
"""


class Study:
    """A small study in its own folder, whose processes can be counted, awaited and killed."""

    def __init__(self, folder: Path, params: dict[str, Any]) -> None:
        self.root, self.scratch = folder / "project", folder / "tmp"
        if not self.root.exists():
            make_project(self.root, params)
        self.scratch.mkdir(exist_ok=True)
        hooks = folder / "hooks"
        hooks.mkdir(exist_ok=True)
        (hooks / "sitecustomize.py").write_text(HOOK)
        (folder / "plan").touch()
        self.environment = environment() | {
            "TMPDIR": str(self.scratch),
            "PYTHONPATH": f"{hooks}{os.pathsep}{ROOT / 'src'}",
            "KILL_ROOT": str(self.root),
        }

        # One socket for all starts: importing the packages of a stage takes most of the time of a
        # start.
        self.socket = tempfile.mkdtemp(prefix="kills-")
        command = [
            sys.executable,
            "-m",
            "ecgforge.pipeline.warm",
            f"{self.socket}/s",
            "ecgforge.cli:main",
            *cells.SLOW,
        ]
        self.server = subprocess.Popen(
            command, cwd=folder, env=self.environment, stdin=subprocess.PIPE, start_new_session=True
        )
        while not Path(self.socket, "s").exists():
            time.sleep(0.1)

    def close(self) -> None:
        self.server.kill()
        self.server.wait()
        shutil.rmtree(self.socket)

    def start(self, command: list[str], at: int = 0, whom: str = "self") -> subprocess.Popen[bytes]:
        (self.root / "../events").unlink(missing_ok=True)
        loaded = {warm.ADDRESS: f"{self.socket}/s"} if "repro" in command else {}
        with (self.root / "../log").open("ab") as log:
            log.write(f"\n== {command} at {at} {whom}\n".encode())
            process = subprocess.Popen(
                command,
                cwd=self.root,
                env=self.environment | loaded,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.root / "../plan").write_text(f"{at} {whom} {process.pid}")
        return process

    def run(self, command: list[str]) -> int:
        """Run a command without kills, and return its number of events."""
        process = self.start(command)
        if process.wait():
            raise SystemExit(
                f"{command} failed with {process.returncode}: see {self.root.parent / 'log'}"
            )
        events = self.root / "../events"
        return events.stat().st_size if events.exists() else 0

    def processes(self) -> list[psutil.Process]:
        def ours(process: psutil.Process) -> bool:
            try:
                ours = (
                    process.environ().get("KILL_ROOT") == str(self.root)
                    and process.pid != self.server.pid
                )
                return ours and process.status() != psutil.STATUS_ZOMBIE
            except psutil.Error:
                return False

        return [process for process in psutil.process_iter() if ours(process)]

    def killed(
        self, command: list[str], seconds: float, events: int, whom: str, draw: random.Random
    ) -> bool:
        """Start a command and kill it; return whether it was killed before it ended."""
        at = draw.randint(1, max(1, events)) if whom.startswith("change") else 0
        process = self.start(command, at, whom.rpartition(" ")[2])
        deadline = time.monotonic() + (600 if at else draw.uniform(0.5, seconds))
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if process.poll() is None:
            victims = self.processes()
            if whom == "group":
                os.killpg(process.pid, signal.SIGKILL)
            elif victims:
                draw.choice(victims).kill()
        process.wait()
        deadline = time.monotonic() + 60
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for one in left:
            print(
                f"LOSS: {one.pid} {' '.join(one.cmdline())[:100]} is still running a minute "
                "after the kill",
                flush=True,
            )
            one.kill()
        return process.returncode != 0

    def state(self) -> dict[str, Any]:
        """Return the results that must not depend on kills."""
        from mlflow import MlflowClient

        client = MlflowClient(
            f"sqlite:///{self.root}/mlflow.db", f"sqlite:///{self.root}/mlflow.db"
        )
        experiments = [one.experiment_id for one in client.search_experiments()]
        found = client.search_runs(experiments, max_results=5000)
        lock = yaml.safe_load((self.root / "dvc.lock").read_text())["stages"]
        # The table of an ablation contains times, and the page contains run ids.
        timed = ("results/ablation", "reports")
        outs = {
            out["path"]: out["md5"]
            for stage in lock.values()
            for out in stage["outs"]
            if not out["path"].startswith(timed)
        }
        for file in (self.root / "results/ablation").rglob("variations.csv"):
            outs[file.relative_to(self.root).as_posix()] = (
                read_csv(file).drop(columns=["train_s", "generate_ms"]).to_csv()
            )
        models = client.search_logged_models(experiments, max_results=1000)
        versions = [
            one
            for model in client.search_registered_models()
            for one in client.search_model_versions(f"name = '{model.name}'")
        ]
        left = [path.relative_to(self.root).as_posix() for path in self.root.rglob("*.partial")]
        left += [path.name for path in self.scratch.iterdir()]
        left += [
            path.as_posix()
            for name in ("unfinished", "synthetic")
            for path in (self.root / ".ecgforge" / name).glob("*")
            if path.suffix != ".lock"
        ]
        return {
            "outputs": outs,
            "runs": Counter((one.info.run_name, one.info.status) for one in found),
            "versions": Counter((one.name, one.tags["weights.md5"]) for one in versions),
            "logged models": Counter((one.name, str(one.status)) for one in models),
            "left over": sorted(left),
        }


def differences(undisturbed: dict[str, Any], state: dict[str, Any]) -> list[str]:
    found = []
    for what, expected in undisturbed.items():
        if isinstance(expected, Counter):
            found += [f"{what}: {dict(expected - state[what])} missing"] * bool(
                expected - state[what]
            )
            found += [f"{what}: {dict(state[what] - expected)} too many"] * bool(
                state[what] - expected
            )
        elif what == "outputs":
            found += [
                f"output {path}: other bytes"
                for path in expected
                if state[what].get(path) != expected[path]
            ]
        elif state[what] != expected:
            found.append(f"{what}: {state[what]} instead of {expected}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, folder, losses, rows = random.Random(options.seed), options.folder.resolve(), [], []
    folder.mkdir(parents=True, exist_ok=True)
    repro, ways = (
        ["ecgforge", "repro", "--jobs", "2"],
        ("group", "process", "change self", "change group"),
    )
    reference = Study(folder / "undisturbed", small_params())
    started = time.monotonic()
    events = reference.run(repro)
    print(f"without kills: {events} events, {time.monotonic() - started:.0f} s", flush=True)
    reference.run(["ecgforge", "gc", "--yes"])
    expected, kills, round_number = reference.state(), 0, 0
    reference.close()
    while kills < options.kills:
        round_number += 1
        study = Study(folder / f"round-{round_number}", small_params())
        done = False
        while not done and kills < options.kills * 0.8:
            whom = draw.choice(ways)
            hit = study.killed(repro, 10, events // 16, whom, draw)
            kills, done = kills + hit, not hit
            rows.append((round_number, "repro", whom, hit))
        study.run(repro)
        study.run(["ecgforge", "gc", "--yes"])
        losses += _report(round_number, differences(expected, study.state()))
        if kills >= options.kills * 0.8:
            killed, found = registry(study, options.kills - kills, draw)
            kills, rows = kills + len(killed), rows + [(round_number, *row) for row in killed]
            losses += _report(round_number, found)
        study.close()
        print(f"round {round_number}: {kills} kills so far, {len(losses)} losses", flush=True)
        if not losses:
            shutil.rmtree(folder / f"round-{round_number}")
    with (folder / "kills.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("round", "command", "whom", "killed"), *rows])
    print(f"{kills} kills, {len(losses)} losses")
    sys.exit(bool(losses))


def _report(number: int, found: list[str]) -> list[str]:
    for line in found:
        print(f"LOSS in round {number}: {line}", flush=True)
    return found


def registry(
    study: Study, kills: int, draw: random.Random
) -> tuple[list[tuple[str, str, bool]], list[str]]:
    """Kill promote, rollback, gc and push at events, and run each again.

    Returns:
        The kills, and the differences afterwards.
    """
    name, reason = "ecg-classifier-ptbxl", ["--force", "--reason", "a kill"]
    subprocess.run(
        ["dvc", "remote", "add", "--quiet", "--default", "store", "../remote"],
        cwd=study.root,
        env=study.environment,
        check=True,
    )
    rows, found = [], []
    for number in range(kills):
        target = ("promote", "rollback", "gc", "push")[number % 4]
        command = {
            "promote": [
                "ecgforge",
                "promote",
                name,
                "--version",
                str(1 + number // 4 % 2),
                *reason,
            ],
            "rollback": ["ecgforge", "rollback", name],
            "gc": ["ecgforge", "gc", "--yes"],
            "push": ["dvc", "push", "--quiet"],
        }[target]
        if target == "push":
            shutil.rmtree(study.root / "../remote", ignore_errors=True)
        hit = study.killed(command, 8, 60, draw.choice(("group", "change self")), draw)
        rows.append((target, "change", hit))
        again = study.start(command).wait()
        # The killed command may have finished its work. Promotion of a champion then fails, as does
        # a rollback without a former champion.
        if again and target in ("gc", "push"):
            found.append(f"{target} after a kill ends with {again}")
        if study.start(["ecgforge", "history", name]).wait() and number > 4:
            found.append(f"history after a kill of {target} fails")
    if study.start(["ecgforge", "verify"]).wait():
        found.append("verify after the kills fails")
    study.run(["ecgforge", "repro"])
    return rows, found


if __name__ == "__main__":
    main()
