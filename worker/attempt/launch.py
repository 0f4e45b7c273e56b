"""How a job's child is launched: its folder, spec file, command line, environment and limits."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import atft
from atft.checksums import sha256_of
from atft.memory import free_and_total
from atft.spec.kinds import KINDS
from jobs.db.columns import Checkpoint
from jobs.db.tables import Job, Json
from jobs.paths import NotFound, OutsideRoot, checkpoint_folder, resolve_inside
from jobs.record.init_from import Weights
from jobs.record.stored import checkpoint_is_whole
from jobs.settings import Settings
from jobs.states import Reason

PROGRAM: Final = (sys.executable, "-P", "-m", "atft")  # -P: the attempt's folder is no place to import from
_REPOSITORY: Final = Path(atft.__file__).parent.parent
MAX_BUILD_THREADS: Final = 8
MIN_BUILD_BYTES: Final = 4 << 30


class LaunchRefused(Exception):
    """The job cannot be launched; `reason` and the message say why."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """The arguments of `Child` for one attempt. `timeout_seconds` is the spec's time limit, `weights` are those
    of `init_from`, `memory_bytes` limits private memory (mapped files do not count).
    """

    folder: Path
    argv: tuple[str, ...]
    environment: dict[str, str]
    threads: int
    timeout_seconds: float | None
    weights: Weights | None
    memory_bytes: int | None = None


def attempt_folder(settings: Settings, job: Job) -> Path:
    """`{run_root}/jobs/{job}/{attempt}`, absolute."""
    return (settings.jobs_root / str(job.id) / str(job.attempt)).resolve()


def scratch_folder(folder: Path) -> Path:
    """The TMPDIR of an attempt's program and its libraries (PyG writes modules there)."""
    return folder / "tmp"


def newest_whole_checkpoint(settings: Settings, job: Job) -> Checkpoint | None:
    """The job's checkpoint if all of its bytes are those that were written, else the one before it, else null."""
    checkpoint = job.checkpoint
    while checkpoint is not None:
        if checkpoint_is_whole(checkpoint_folder(settings.jobs_root, job.id, checkpoint["path"]), checkpoint["sha256"]):
            return checkpoint
        checkpoint = checkpoint.get("previous")
    return None


def prepare_launch(
    settings: Settings,
    job: Job,
    *,
    cuda_device: str | None,
    weights: Weights | None = None,
    program: tuple[str, ...] = PROGRAM,
) -> Launch:
    """Create the attempt's folder and spec.json and return how to start the child. `weights` are those of the job that
    the spec's `init_from` names. Raises LaunchRefused, OSError.
    """
    folder = attempt_folder(settings, job)
    folder.mkdir(parents=True, exist_ok=True)
    kind = KINDS[job.kind]
    if kind.command is None:
        raise LaunchRefused(Reason.INTERNAL, f"this worker has no program for a job of kind {job.kind}")
    resources: Json = job.run.get("resources", {})
    if resources.get("device") == "cpu" or kind.builds:
        cuda_device = None
    if kind.builds:
        arguments = _build_arguments(settings, job, folder)
        threads = min(MAX_BUILD_THREADS, max(1, (os.cpu_count() or 1) // 2))
    else:
        arguments = _dataset_arguments(settings, job, folder, weights)
        threads = int(resources.get("threads", 1))
    command, *flags = kind.command
    if kind.nested and job.run is job.spec:  # a preflight of an earlier version, of one extreme
        command, *flags = "run", "--preflight"
    environment = settings.child_environment(threads, cuda_device)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_REPOSITORY), environment.get("PYTHONPATH")]))
    environment["TMPDIR"] = str(scratch_folder(folder))
    scratch_folder(folder).mkdir(exist_ok=True)
    return Launch(
        folder=folder,
        argv=(*program, command, *arguments, *flags, "--lease-seconds", str(settings.lease_seconds)),
        environment=environment,
        threads=threads,
        timeout_seconds=job.run.get("trainer", {}).get("timeout_seconds"),
        weights=weights,
        memory_bytes=_max_build_memory_bytes() if kind.builds else None,
    )


def _max_build_memory_bytes() -> int:
    """The memory limit of a build, whose demand depends on the user's file."""
    return max(MIN_BUILD_BYTES, int(0.8 * free_and_total()[0]))


def _dataset_arguments(settings: Settings, job: Job, folder: Path, weights: Weights | None) -> list[str]:
    """The arguments of a program that works on a dataset: spec, cache, output folder, largest micro-batch; the weights
    that it works with or begins with, its checkpoint.
    """
    cache = (settings.caches_root / (job.dataset_fingerprint or "-")).resolve()
    if not cache.is_dir():
        message = f"the cache of dataset {job.dataset} ({job.dataset_fingerprint}) is gone: register it again"
        raise LaunchRefused(Reason.DATA_CHANGED, message)
    arguments = [str(_write_spec(folder, job.spec)), "--cache", str(cache), "--out", str(folder)]
    if "micro_batch_days" in job.overrides:
        arguments += ["--most-days", str(job.overrides["micro_batch_days"])]
    if KINDS[job.kind].needs_model:
        arguments += _model_arguments(settings, job)
    if job.checkpoint is not None:
        arguments += ["--resume", str(checkpoint_folder(settings.jobs_root, job.id, job.checkpoint["path"]))]
    if weights is not None:
        arguments += ["--init-from", str(settings.run_root.resolve() / weights.folder)]
    return arguments


def _model_arguments(settings: Settings, job: Job) -> list[str]:
    """Raises LaunchRefused when the model's folder is gone; the program itself refuses weights of another digest. The
    source of a retry is the prediction that failed, so the spec names the model.
    """
    model = (job.params or {}).get("model", {})
    place = settings.run_root.resolve() / str(model.get("folder"))
    if not place.is_dir():
        raise LaunchRefused(Reason.DATA_CHANGED, f"what job {job.spec['model']} left is gone: train the model again")
    return ["--model", str(place), "--weights-sha256", str(model.get("sha256"))]


def _build_arguments(settings: Settings, job: Job, folder: Path) -> list[str]:
    spec = _write_spec(folder, _with_local_paths(settings, job))
    return [str(spec), "--out", str(folder / "cache"), "--known", str(settings.caches_root.resolve())]


def _with_local_paths(settings: Settings, job: Job) -> Json:
    """The DatasetSpec with absolute paths in place of `data:…` and `upload:…`."""
    spec = dict(job.spec)
    files = (job.params or {}).get("files", {})
    unknown = set(files) - {"panel", "universe", "market"}
    if unknown:
        raise LaunchRefused(Reason.INTERNAL, f"unknown files {sorted(unknown)}")
    for role, place in files.items():
        sent = (job.params or {}).get("sources", {}).get(role)
        if sent is None or sent["sha256"] is None or not place.startswith("upload:"):
            continue
        if sha256_of(resolve(settings, place)) != sent["sha256"]:
            message = f"the {role} file was altered on the server's disk after it had been uploaded: send it again"
            raise LaunchRefused(Reason.DATA_CHANGED, message)
    if "panel" in files:
        spec["path"] = str(resolve(settings, files["panel"], folders=True))
    elif spec.get("planted") is None:
        raise LaunchRefused(Reason.INVALID_PARAMS, "the dataset has neither a file nor a planted panel")
    for part in ("universe", "market"):
        if part in files:
            spec[part] = {**spec[part], "file": str(resolve(settings, files[part]))}
        elif spec.get(part) is not None:
            raise LaunchRefused(Reason.INTERNAL, f"the job names no place for its {part} file")
    return spec


def resolve(settings: Settings, place: str, *, folders: bool = False) -> Path:
    """`data:REL` under the data root, `upload:REL` among the uploads; after following links. Raises LaunchRefused."""
    kind, _, relative = place.partition(":")
    roots = {"data": settings.data_root, "upload": settings.uploads_root}
    if kind not in roots:
        raise LaunchRefused(Reason.INTERNAL, f"no such place: {place!r}")
    try:
        return resolve_inside(roots[kind], relative, folders=folders and kind == "data")
    except OutsideRoot as error:
        raise LaunchRefused(Reason.INVALID_PARAMS, f"{relative!r} leads out of the data root") from error
    except NotFound as error:
        if kind == "upload":
            message = "an upload is kept until its dataset is built, or for a day after a failure: send the file again"
            raise LaunchRefused(Reason.INVALID_PARAMS, message) from error
        raise LaunchRefused(Reason.INVALID_PARAMS, f"{error} under the data root") from error


def _write_spec(folder: Path, spec: Json) -> Path:
    path = folder / "spec.json"
    path.write_text(json.dumps(spec, indent=1))
    return path
