"""Run a small study on two Ray nodes of this machine, and compare it with a local run.

    pip install -e '.[dev,ray]'
    python benchmarks/cluster.py FOLDER [--cases equal dead driver zombie interrupt failure ...]

Each node has a home, clones and a DVC cache of its own. They exchange outputs by a folder as DVC
remote, and write to an MLflow server with PostgreSQL (Debian's package `postgresql`; it is not run
as root). Nodes get signals: SIGKILL and SIGSTOP to all of their processes. Prints a table of the
cases, and exits with 1 if one fails. Local runs in FOLDER are used again. It takes
about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from ecgforge import folders  # noqa: E402
from ecgforge.dvc import lock  # noqa: E402
from ecgforge.pipeline import local, node, ray_cluster  # noqa: E402
from test_study import environment, make_project, run, small_params  # noqa: E402

MARK = "ECGFORGE_TEST_NODE"  # environment variable of all processes of a node
POSTGRESQL = Path("/usr/lib/postgresql")
NODES = {"n1": "127.0.0.2", "n2": "127.0.0.3"}  # the driver is not on one of them
TRAIN, TUNE = "train_generator@ptbxl-diffwave", "tune_classifier@ptbxl"
TRIALS = 8
PATIENCE = 900  # s, for one study


def twelve_cells(steps: int = 40) -> dict[str, Any]:
    """Return the parameters of a study of twelve cells and `resolve`, without tuning."""
    tree = small_params()
    tree |= {"sources": ["ptbxl"], "merged": []}
    tree["sweep_targets"] |= {
        "sweeps": ["mixture"],
        "backbones": [],
        "generator_seeds": [],
        "cross_dataset": [],
    }
    demo = tree["profiles"]["demo"]
    demo["generators"]["diffwave"].pop("ablations")
    demo["classifiers"]["resnet1d"]["tuning"]["n_trials"] = 0
    demo["generators"]["diffwave"]["training"]["denoiser"] |= {
        "steps": steps,
        "evaluate_every": max(5, steps // 20),
    }
    return tree


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def until(condition: Callable[[], object], seconds: float, what: str) -> Any:
    """Wait until a condition holds, and return its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError, psutil.Error):
            if found := condition():
                return found
        time.sleep(0.2)
    raise TimeoutError(f"{what}: not within {seconds:.0f} s")


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Start a PostgreSQL server; yield the URI of a database without its name."""
    binaries = sorted(POSTGRESQL.glob("*/bin"))[-1]
    port, data = free_port(), folder / "postgresql"
    as_user: list[str] = []
    if os.geteuid() == 0:
        as_user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
        data = Path("/tmp") / f"ecgforge-postgresql-{port}"
        data.mkdir()
        shutil.chown(data, "postgres", "postgres")
    subprocess.run(
        [*as_user, binaries / "initdb", "-D", data, "-A", "trust", "-U", "ecgforge"],
        check=True,
        capture_output=True,
    )
    server = subprocess.Popen(
        [*as_user, binaries / "postgres", "-D", data, "-p", str(port), "-k", data],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    ask = [binaries / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
    try:
        until(
            lambda: not subprocess.run(ask, capture_output=True, check=False).returncode,
            60,
            "PostgreSQL starts",
        )
        yield f"postgresql+psycopg://ecgforge@127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()
        shutil.rmtree(data, ignore_errors=True)


def create_database(server: str, name: str) -> None:
    host, _, port = server.rpartition("@")[2].partition(":")
    binaries = sorted(POSTGRESQL.glob("*/bin"))[-1]
    subprocess.run(
        [binaries / "createdb", "-h", host, "-p", port, "-U", "ecgforge", name], check=True
    )


@contextmanager
def tracking(folder: Path, database: str, name: str) -> Iterator[str]:
    """Create a database, and start MLflow's server on it; yield its address."""
    create_database(database, name)
    address = f"http://127.0.0.1:{(mine := free_port())}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(mine), "--workers", "2"]
    command += ["--backend-store-uri", f"{database}/{name}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environ = environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "mlflow.log").open("w") as log:
        server = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        try:
            import urllib.request

            until(lambda: urllib.request.urlopen(f"{address}/health"), 120, "MLflow starts")
            yield address
        finally:
            stop(server.pid)


def stop(pid: int) -> None:
    with suppress(psutil.Error):
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        for one in processes:
            with suppress(psutil.Error):
                one.kill()
        psutil.wait_procs(processes, timeout=20)


class Nodes:
    """A Ray cluster: a head without cores, on which the driver runs, and nodes of one core each."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        for name in ("head", *NODES):  # an earlier run's cache has the outputs of all cells
            shutil.rmtree(folder / name, ignore_errors=True)
        self.address = f"127.0.0.1:{self.port}"

    def start(self, name: str) -> None:
        """Start a node, with several tries: on a busy machine, Ray gives up after 30 s."""
        home = self.folder / name
        home.mkdir(exist_ok=True)
        ray = [str(Path(sys.executable).parent / "ray"), "start", "--node-name", name, "--block"]
        ray += ["--disable-usage-stats", "--temp-dir", f"/tmp/ray-{self.port}"]
        ray += ["--node-ip-address", NODES.get(name, "127.0.0.1")]
        ray += (
            ["--head", "--port", str(self.port), "--num-cpus", "0", "--include-dashboard", "false"]
            if name == "head"
            else ["--address", self.address, "--num-cpus", "1"]
        )
        environ = environment() | {
            "HOME": str(home),
            MARK: f"{self.port}-{name}",
            "PYTHONPATH": str(ROOT / "src"),
            "RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper": "1",
            "RAY_health_check_failure_threshold": "3",
            "RAY_health_check_period_ms": "2000",
            "RAY_health_check_timeout_ms": "5000",
        }
        for _ in range(5):
            with (home / "ray.log").open("a") as log:
                process = subprocess.Popen(
                    ray, env=environ, stdout=log, stderr=log, start_new_session=True
                )
            if self._started(name, process):
                return
            self.signal(name, signal.SIGKILL)
        raise RuntimeError(f"Ray's node {name} does not start: see {home / 'ray.log'}")

    def _started(self, name: str, process: subprocess.Popen[bytes]) -> bool:
        with suppress(TimeoutError):
            until(lambda: process.poll() is not None or self._up(name), 90, "a node starts")
            return process.poll() is None
        return False

    def _up(self, name: str) -> bool:
        code = (
            f"import ray; ray.init('{self.address}', logging_level='ERROR', log_to_driver=False);"
            f"print([n for n in ray.nodes() if n['NodeName'] == '{name}' and n['Alive']] != [])"
        )
        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
        )
        return "True" in found.stdout

    def processes(self, name: str) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == f"{self.port}-{name}":
                    found.append(process)
        return found

    def signal(self, name: str, number: int) -> None:
        """Send a signal to all processes of a node."""
        for process in self.processes(name):
            with suppress(psutil.Error):
                process.send_signal(number)

    def of_cell(self, cell: str, worker: str | None = None) -> str | None:
        """Return the node on which a cell runs, or a worker for its trials."""
        for name in NODES:
            for process in self.processes(name):
                with suppress(psutil.Error):
                    words, number = process.cmdline(), process.environ().get(folders.WORKER)
                    if "cell" in words and cell in words and number == worker:
                        return name
        return None

    def end(self) -> None:
        for name in (*NODES, "head"):
            self.signal(name, signal.SIGKILL)
        shutil.rmtree(f"/tmp/ray-{self.port}", ignore_errors=True)


@contextmanager
def cluster(folder: Path) -> Iterator[Nodes]:
    nodes = Nodes(folder)
    try:
        for name in ("head", *NODES):
            nodes.start(name)
        yield nodes
    finally:
        nodes.end()


def project(folder: Path, params: dict[str, Any]) -> Path:
    """Make a project with a folder as DVC remote, and commit it."""
    found = make_project(folder / "project", params)
    run(found, "dvc", "remote", "add", "--default", "shared", str(folder / "remote"))
    run(found, "git", "commit", "--quiet", "--all", "--message", "a remote")
    return found


def repro(where: Path, address: str, nodes: Nodes, log: str = "driver") -> subprocess.Popen[bytes]:
    """Start `ecgforge repro --on ray`."""
    environ = environment() | {
        "MLFLOW_TRACKING_URI": address,
        "RAY_ADDRESS": nodes.address,
        "ECGFORGE_STATE": str(where.parent / "state"),
        "PYTHONPATH": str(where / "src"),
        MARK: f"{nodes.port}-driver",
    }
    output = (where.parent / f"{log}.log").open("w")
    command = [sys.executable, "-m", "ecgforge", "repro", "--on", "ray"]
    return subprocess.Popen(
        command, cwd=where, env=environ, stdout=output, stderr=output, start_new_session=True
    )


def finished(process: subprocess.Popen[bytes], where: Path, log: str = "driver") -> None:
    code = process.wait(PATIENCE)
    text = (where.parent / f"{log}.log").read_text()
    assert code == 0, f"exit code {code}\n{text[-3000:]}"


def outputs(where: Path) -> dict[str, str]:
    """Return the digest of each output in dvc.lock."""
    found = lock.stages((where / lock.LOCK).read_text()) or {}
    return {out["path"]: out["md5"] for entry in found.values() for out in entry.get("outs", [])}


def differing(where: Path, reference: Path) -> list[str]:
    """Return the outputs with other digests, without the report: it names its runs and commit."""
    ours, theirs = outputs(where), outputs(reference)
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    return sorted(
        path for path in ours if ours[path] != theirs[path] and path != "reports/report.html"
    )


def runs_and_versions(address: str) -> tuple[int, int, int, int]:
    """Return the numbers of runs, different fingerprints, unfinished runs, and versions."""
    from mlflow import MlflowClient

    client = MlflowClient(address, address)
    ids = [one.experiment_id for one in client.search_experiments()]
    found = client.search_runs(ids, max_results=1000)
    prints = {one.data.tags.get("ecgforge.fingerprint") for one in found}
    open_ones = sum(one.info.status != "FINISHED" for one in found)
    versions = len(client.search_model_versions(max_results=1000))
    return len(found), len(prints), open_ones, versions


def of_generator(address: str) -> Any:
    """Return the only run of the generator."""
    from mlflow import MlflowClient

    client = MlflowClient(address, address)
    ids = [one.experiment_id for one in client.search_experiments()]
    [found] = client.search_runs(ids, "tags.kind = 'generator'")
    return found


def attempts(address: str) -> str:
    """Return the attempt at the run of the generator, such as 2:n2:123."""
    return str(of_generator(address).data.tags["ecgforge.attempt"])


def statuses(address: str) -> set[str]:
    """Return the different statuses of all runs."""
    from mlflow import MlflowClient

    client = MlflowClient(address, address)
    ids = [one.experiment_id for one in client.search_experiments()]
    return {str(one.info.status) for one in client.search_runs(ids, max_results=1000)}


Case = Callable[[Path, str, Nodes, Path], str]


def same(where: Path, reference: Path, address: str) -> str:
    """Check a finished study, and return a line about it."""
    other = differing(where, reference)
    assert not other, f"other digests: {other}"
    csv = "reports/results.csv"
    assert (where / csv).read_bytes() == (reference / csv).read_bytes()
    runs, prints, unfinished, versions = runs_and_versions(address)
    assert (runs, unfinished) == (prints, 0), (runs, prints, unfinished)
    return f"{len(outputs(where))} outputs, equal digests, {runs} runs, {versions} versions"


def equal(folder: Path, address: str, nodes: Nodes, reference: Path) -> str:
    """(a) and (f): outputs as those of a local run; seconds and bytes of a cell's overhead."""
    where, start = project(folder, twelve_cells()), time.monotonic()
    finished(repro(where, address, nodes), where)
    seconds = time.monotonic() - start
    again = repro(where, address, nodes, "again")
    finished(again, where, "again")
    assert "up to date" in (folder / "again.log").read_text()
    moved = sum(one.stat().st_size for one in (folder / "remote").rglob("*") if one.is_file())
    return f"{same(where, reference, address)}; {seconds:.0f} s; {moved / 1e6:.1f} MB in the remote"


def dead(folder: Path, address: str, nodes: Nodes, reference: Path) -> str:
    """(b) A node is killed during the training of the generator; another one resumes it."""
    where = project(folder, twelve_cells(400))
    driver = repro(where, address, nodes)
    name = at_work(folder, nodes)
    nodes.signal(name, signal.SIGKILL)
    finished(driver, where)
    nodes.start(name)
    return f"{same(where, reference, address)}; attempt {attempts(address)}, killed on {name}"


def at_work(folder: Path, nodes: Nodes) -> str:
    """Return the node that trains the generator, once there is a checkpoint."""
    name = str(until(lambda: nodes.of_cell(TRAIN), PATIENCE, "the training starts"))
    until(lambda: list((folder / "state").rglob("denoiser/*.ckpt")), 300, "a checkpoint is written")
    return name


def driver(folder: Path, address: str, nodes: Nodes, reference: Path) -> str:
    """(c) The driver is killed after five cells; the next one runs the others."""
    where = project(folder, twelve_cells())
    first = repro(where, address, nodes)
    until(lambda: "[5/" in (folder / "driver.log").read_text(), PATIENCE, "five cells end")
    nodes.signal("driver", signal.SIGKILL)
    first.wait()
    done = len(lock.stages((where / lock.LOCK).read_text()) or {})
    second = repro(where, address, nodes, "second")
    finished(second, where, "second")
    last = (folder / "second.log").read_text()
    total = len(lock.stages((where / lock.LOCK).read_text()) or {})
    assert f"{total - done} of {total - done} cells" in last, last[-500:]
    return f"{same(where, reference, address)}; {done} cells before the kill, {total - done} after"


def zombie(folder: Path, address: str, nodes: Nodes, reference: Path) -> str:
    """(d) A node is stopped until its cell was retried elsewhere, and then continues."""
    where = project(folder, twelve_cells(400))
    process = repro(where, address, nodes)
    name = at_work(folder, nodes)
    nodes.signal(name, signal.SIGSTOP)
    log = folder / "driver.log"
    until(lambda: log.read_text().count(f"{TRAIN} starts on") > 1, 240, "a retry starts")
    until(lambda: f"] {TRAIN}" in log.read_text(), PATIENCE, "the retry ends")
    nodes.signal(name, signal.SIGCONT)
    finished(process, where)
    until(lambda: not nodes.processes(name), 120, "the stopped node ends")
    nodes.start(name)
    return f"{same(where, reference, address)}; attempt {attempts(address)}, stopped on {name}"


def interrupt(folder: Path, address: str, nodes: Nodes, reference: Path) -> str:
    """Ctrl-C during the training of the generator ends everything; the next start resumes it."""
    where = project(folder, twelve_cells(400))
    first = repro(where, address, nodes)
    at_work(folder, nodes)
    started = time.monotonic()
    os.killpg(first.pid, signal.SIGINT)
    assert first.wait(120) not in (None, 0)
    seconds = time.monotonic() - started
    until(lambda: not nodes.of_cell(TRAIN), 60, "the training ends")
    words = (folder / "driver.log").read_text()
    assert "Traceback" not in words, words[-2000:]
    assert of_generator(address).info.status == "KILLED"
    assert statuses(address) <= {"FINISHED", "KILLED"}, statuses(address)
    second = repro(where, address, nodes, "second")
    finished(second, where, "second")
    return f"all ended after {seconds:.0f} s, as KILLED; then {same(where, reference, address)}"


def trials(folder: Path, address: str, nodes: Nodes, _: Path) -> str:
    """Trials of a tuning run on both nodes; one is killed, and another one repeats its trial."""
    import optuna
    from mlflow import MlflowClient

    tree = twelve_cells()
    tuning = {"n_trials": TRIALS, "workers": 2, "repeats": 1}
    resnet = tree["profiles"]["demo"]["classifiers"]["resnet1d"]
    resnet["tuning"] |= tuning
    resnet["training"] |= {"steps": 180}
    where = project(folder, tree)
    driver = repro(where, address, nodes)
    first = until(lambda: nodes.of_cell(TUNE, "0"), PATIENCE, "the first worker starts")
    second = until(lambda: nodes.of_cell(TUNE, "1"), PATIENCE, "the second worker starts")
    assert first != second
    storage = os.environ[folders.TUNING_STORAGE]

    def attempts() -> list[Any]:
        names = optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=names[0], storage=storage).trials if names else []

    def of_second() -> list[Any]:
        return [one for one in attempts() if one.user_attrs.get("worker") == "worker 1"]

    until(lambda: any(one.state.name == "COMPLETE" for one in of_second()), 300, "a trial ends")
    until(lambda: any(one.state.name == "RUNNING" for one in of_second()), 300, "a trial starts")
    nodes.signal(second, signal.SIGKILL)
    nodes.start(second)
    finished(driver, where)
    found = attempts()
    complete = sorted(one.user_attrs["index"] for one in found if one.state.name == "COMPLETE")
    assert complete == [*range(TRIALS)], [(one.user_attrs, one.state) for one in found]
    runs, prints, unfinished, _ = runs_and_versions(address)
    assert (runs, unfinished) == (prints, 0), (runs, prints, unfinished)
    client = MlflowClient(address, address)
    ids = [one.experiment_id for one in client.search_experiments()]
    ran_on = [
        one.data.tags["system.node"] for one in client.search_runs(ids, "tags.kind = 'trial'")
    ]
    assert set(ran_on) == set(NODES), ran_on
    counts = ", ".join(f"{ran_on.count(name)} on {name}" for name in NODES)
    return f"{TRIALS} trials, {counts}; {len(found) - TRIALS} repeated after the kill of {second}"


def failure(folder: Path, address: str, nodes: Nodes, _: Path) -> str:
    """A failing cell's error reaches the driver; after a correction, only the rest runs."""
    tree = twelve_cells()
    where = project(folder, tree)
    code = where / "src/ecgforge/stages/synthesize.py"
    text = code.read_text()
    code.write_text(text + "\nraise RuntimeError('a made-up fault')\n")
    run(where, "git", "commit", "--quiet", "--all", "--message", "a fault")
    process = repro(where, address, nodes)
    assert process.wait(PATIENCE) == 1
    words = (folder / "driver.log").read_text()
    assert "a made-up fault" in words, words[-2000:]
    assert "failed on n" in words, words[-2000:]
    return "the error of the cell is in the driver's output"


def write(number: int, address: str, folder: str) -> None:
    """Open, log and end runs as a cell does."""
    os.chdir(folder)
    os.environ["MLFLOW_TRACKING_URI"] = address
    from ecgforge.tracking import runs

    for seed in range(5):
        key = runs.RunKey("classifier", "ptbxl", seed + 10 * number, True, setting="TrRTeR")
        with runs.tracked(key, fingerprint=f"{number}-{seed}", params={}, inputs=[]) as one:
            for step in range(50):
                one.log({"loss": 1.0 / (step + 1)}, step)


def writers(folder: Path, address: str, _: Nodes, __: Path) -> str:
    """(e) Eight processes write runs at the same time."""
    from mlflow import MlflowClient

    where = project(folder, twelve_cells())
    start = time.monotonic()
    with ProcessPoolExecutor(8) as pool:
        list(pool.map(write, range(8), [address] * 8, [str(where)] * 8))
    seconds = time.monotonic() - start
    runs, prints, unfinished, _ = runs_and_versions(address)
    assert (runs, prints, unfinished) == (40, 40, 0), (runs, prints, unfinished)
    client = MlflowClient(address, address)
    found = client.search_runs([one.experiment_id for one in client.search_experiments()])
    points = [len(client.get_metric_history(one.info.run_id, "loss")) for one in found]
    assert points == [50] * 40
    return f"40 runs of 50 points, none lost or twice, {seconds:.0f} s"


def cpu(work: Callable[[], object]) -> float:
    """Return the CPU seconds of a function and its processes."""
    before = os.times()
    work()
    return sum(os.times()[:4]) - sum(before[:4])


def overhead(folder: Path, address: str, _: Nodes, __: Path) -> str:
    """(f) CPU seconds of a cell that does nothing: on a node, here, and with a cold start."""
    stages = {f"none{i}": {"cmd": f"echo {i} > none{i}", "outs": [f"none{i}"]} for i in range(6)}
    where = project(folder, twelve_cells())
    (where / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    run(where, "git", "commit", "--quiet", "--all", "--message", "cells that do nothing")
    os.chdir(where)
    os.environ |= {"MLFLOW_TRACKING_URI": address, "ECGFORGE_CLONES": str(folder / "clones")}
    study, first = ray_cluster._study(), ray_cluster._bundle()

    def on_node(number: int) -> None:
        assert node.work(study, f"none{number}", {}, lambda: first, "n1").succeeded

    on_node(0)  # makes the clone
    there = min(cpu(lambda i=i: on_node(i)) for i in (1, 2, 3))  # type: ignore[misc]
    local.repro_one("none0")
    here = min(cpu(lambda i=i: local.repro_one(f"none{i}")) for i in (4, 5))  # type: ignore[misc]
    load = "from ecgforge.pipeline import cells, warm; warm.load(cells.SLOW)"
    cold = cpu(lambda: subprocess.run([sys.executable, "-c", load], check=True))
    return (
        f"on a node {there:.1f} s, here {here:.1f} s; imports of a stage {cold:.1f} s; "
        f"the commit has {len(first) / 1e6:.1f} MB"
    )


CASES: dict[str, Case] = {
    one.__name__: one
    for one in (equal, dead, driver, zombie, interrupt, trials, failure, writers, overhead)
}


LONG = {"dead", "zombie", "interrupt"}  # cases with a longer training


def local_run(folder: Path, params: dict[str, Any]) -> Path:
    """Run a study without the cluster, unless this was done before."""
    if (folder / "project/reports/results.csv").exists():
        return folder / "project"
    folder.mkdir(parents=True)
    where = project(folder, params)
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "ecgforge", "repro", "--jobs", "2"],
        cwd=where,
        env=environment() | {"PYTHONPATH": str(where / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(f"local run: {time.monotonic() - start:.0f} s", flush=True)
    return where


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    options = parser.parse_args()
    # A shell that runs this in the background would have Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    short = local_run(folder / "short", twelve_cells())
    long = local_run(folder / "long", twelve_cells(400)) if LONG & {*options.cases} else short
    rows: list[tuple[str, str]] = []
    references = (short, long)
    with ExitStack() as stack:
        database = stack.enter_context(postgresql(folder))
        create_database(database, "tuning")
        os.environ[folders.TUNING_STORAGE] = f"{database}/tuning"
        nodes = stack.enter_context(cluster(folder))
        for name in options.cases:
            place = folder / name
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            with tracking(place, database, name) as address:
                try:
                    rows.append(
                        (name, CASES[name](place, address, nodes, references[name in LONG]))
                    )
                except (AssertionError, TimeoutError, subprocess.TimeoutExpired) as error:
                    rows.append((name, f"FAILED: {error}"))
                    nodes.signal("driver", signal.SIGKILL)
            print(f"{name}: {rows[-1][1]}", flush=True)
    print(yaml.safe_dump(dict(rows), sort_keys=False, width=200))
    sys.exit(any(text.startswith("FAILED") for _, text in rows))


if __name__ == "__main__":
    main()
