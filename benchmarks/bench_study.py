"""A study compared with its bare loops: the same trainings, one after the other in a process without a service.

    python benchmarks/bench_study.py [--trials 20 --seconds 10 --workers 1 2]

For each number of workers a study is run through the whole service, from its submission to its end, with its preflight
and every start of a child; then its trials' specs by that many processes of benchmarks/peers/bare_loop.py at once, with
the same thread limits. A bare process imports once, before its seconds count. The service is warm: a study of one
epoch has gone before. CPU seconds of preparing are those that the workers spend beyond the bare loops.
"""

import argparse
import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
from load import HERE
from service import DATASET, SPEC, Service, about, cpu_seconds, running_service, utc_now

GOALS = {"ratio_of_1_worker": 1.05}
SPACE = {"optimizer.lr": {"kind": "float", "low": 1e-4, "high": 1e-2, "log": True}}


def with_epochs(epochs: int) -> dict[str, Any]:
    return {**SPEC, "trainer": {**SPEC["trainer"], "max_epochs": epochs}}  # type: ignore[dict-item]


def bare_loops(service: Service, cache: Path, shares: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What one bare process for each share of the specs measures, all at once."""
    environment = service.settings.child_environment(1, None) | {"PYTHONPATH": str(HERE.parent)}
    processes = []
    for number, specs in enumerate(shares):
        file, out = service.folder / f"specs-{number}.json", service.folder / f"bare-{number}"
        file.write_text(json.dumps(specs))
        command = [sys.executable, str(HERE / "peers" / "bare_loop.py"), str(file), "--cache", str(cache)]
        processes.append(
            subprocess.Popen([*command, "--out", str(out)], env=environment, stdout=subprocess.PIPE, text=True)
        )
    reports = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit("a bare loop failed")
    return [json.loads(report) for report in reports]


def calibrated(service: Service, cache: Path, seconds: float) -> int:
    """The number of epochs that take that many seconds."""
    [report] = bare_loops(service, cache, [[with_epochs(2), with_epochs(4), with_epochs(24)]])
    _, short, long = (lap for lap, _ in report["trainings"])
    return max(2, round((seconds - short) / (long - short) * 20) + 4)


def run_study(service: Service, epochs: int, trials: int, workers: int) -> tuple[str, float]:
    """The id and the seconds of a study, from its submission to its end."""
    spec = {
        "base": with_epochs(epochs), "space": SPACE, "sampler": {"name": "random"}, "pruner": {"name": "none"},
        "n_trials": trials, "parallelism": workers,
    }  # fmt: skip
    job_id = service.client.hpo(spec).id
    service.finish(job_id)
    job = service.client.job(job_id)
    assert job.created_at is not None
    assert job.finished_at is not None
    return job_id, (job.finished_at - job.created_at).total_seconds()


def measure(service: Service, cache: Path, processes: list[psutil.Process], epochs: int, trials: int) -> dict[str, Any]:
    workers = len(processes)
    run_study(service, 1, workers, workers)
    before = cpu_seconds(*processes)
    study, seconds = run_study(service, epochs, trials, workers)
    spent = cpu_seconds(*processes) - before
    jobs = [service.client.job(trial.job_id) for trial in service.client.trials(study)]
    specs = [job.spec for job in jobs]
    reports = bare_loops(service, cache, [specs[share::workers] for share in range(workers)])
    laps = [[lap for lap, _ in report["trainings"]] for report in reports]
    bare, bare_cpu = max(map(sum, laps)), sum(cpu for report in reports for _, cpu in report["trainings"])
    return {
        "trials": trials,
        "study_seconds": seconds,
        "bare_seconds": bare,
        "ratio": seconds / bare,
        "bare_seconds_with_imports": max(
            report["imports"][0] + sum(lap) for report, lap in zip(reports, laps, strict=True)
        ),
        "bare_seconds_a_trial": sum(map(sum, laps)) / trials,
        "trial_seconds": [(job.finished_at - job.started_at).total_seconds() for job in jobs],  # type: ignore[operator]
        "cpu_seconds": {"workers": spent, "bare": bare_cpu, "preparing_a_trial": (spent - bare_cpu) / trials},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0, help="of one trial, about")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], metavar="N")
    options = parser.parse_args()
    if not (1 <= options.trials <= 1000 and 0 < options.seconds <= 600 and all(0 < n <= 16 for n in options.workers)):
        parser.error("other numbers are refused")
    now, results = utc_now(), {}
    body = about("study", now) | {"goals": GOALS}
    with running_service("study") as service, ExitStack() as stack:
        stack.enter_context(service.worker("control-0", "--control"))
        processes: list[psutil.Process] = []
        cache = epochs = None
        for workers in sorted(options.workers):
            processes += [
                stack.enter_context(service.worker(f"cpu-{index}", "--device", str(index)))
                for index in range(len(processes), workers)
            ]
            if cache is None or epochs is None:
                service.finish(service.client.add_dataset(DATASET).id)
                cache = service.settings.caches_root / str(service.client.dataset("bench")["fingerprint"])
                epochs = calibrated(service, cache, options.seconds)
            found = results[f"{workers} workers"] = measure(service, cache, processes, epochs, options.trials)
            print(
                f"{workers} workers: {found['trials']} trials of {found['bare_seconds_a_trial']:.1f} s, "
                f"study {found['study_seconds']:.1f} s, bare loops {found['bare_seconds']:.1f} s: "
                f"ratio {found['ratio']:.3f}; "
                f"{found['cpu_seconds']['preparing_a_trial']:.2f} CPU seconds of preparing a trial",
                flush=True,
            )
    target = HERE / "results" / f"{now:%Y-%m-%d}-study.json"
    target.write_text(json.dumps(body | {"epochs": epochs, "results": results}, indent=1) + "\n")
    print(f"written to {target}")


if __name__ == "__main__":
    main()
