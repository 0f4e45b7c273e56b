"""Checkpoints on disk: written atomically, self-contained, at most two kept.

`{name}/model.safetensors` the weights, `state.pt` optimizer, scheduler and EMA (loaded with weights_only),
`best.safetensors` the best epoch's weights so far (`best.2.safetensors` those of the second of several folds),
`manifest.json` the training loop's state, the identity of the run, and every file's SHA-256.
"""

import hashlib
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import safetensors.torch
import torch
from torch import Tensor

from atft.checksums import sha256_of, sync, write_atomic
from atft.spec.ensemble import EnsembleSpec

FORMAT_VERSION = 2
KEEP = 2
BEST = "best"
REQUIRED = ("model.safetensors", "state.pt")


def best_name(fold: int, folds: int) -> str:
    """The file of the best weights of `fold`, from 0, of `folds`."""
    return f"{BEST}.safetensors" if folds == 1 else f"{BEST}.{fold + 1}.safetensors"


def member_names(ensemble: EnsembleSpec) -> list[str]:
    """The files of the best weights of an ensemble's members."""
    return [best_name(number, len(ensemble.seeds)) for number in range(len(ensemble.seeds))]


def altered(name: str) -> str:
    """Words on a file of best weights that has changed during its run."""
    return f"{name} has other bytes than this run wrote: its disk, or another program, changed it; start the run again"


class CheckpointError(Exception):
    """A checkpoint is incomplete, damaged, or belongs to another run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Contents of a checkpoint. `weights`: parameters and buffers by name; `state`: optimizer, scheduler and EMA;
    `loop`: JSON state of the training loop; `identity`: JSON that must be equal on resume (spec, data, features);
    `best`: files of the best weights so far, one per fold, and the SHA-256 that each was written with.
    """

    weights: dict[str, Tensor]
    state: dict[str, object]
    loop: dict[str, object]
    identity: dict[str, object]
    best: dict[Path, str]


def to_host(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in weights.items()}


def save_weights(path: Path, weights: dict[str, Tensor], about: dict[str, object]) -> str:
    """Save weights with `about` as JSON under the metadata key `atft`: one key, the order of several is not fixed.
    Returns the file's SHA-256.
    """
    content = safetensors.torch.save(to_host(weights), {"atft": json.dumps(about, sort_keys=True)})
    write_atomic(path, content)
    return hashlib.sha256(content).hexdigest()


def load_weights(path: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(path)


def save(folder: Path, name: str, snapshot: Snapshot) -> str:
    """Write `folder/name`, drop all but the newest checkpoints of `folder`, return the manifest's SHA-256.

    Names must sort by age. Raises CheckpointError if a file of best weights is not what was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    # Written by Python: the libraries' own writers do not raise OSError when the disk is full.
    (partial / "model.safetensors").write_bytes(safetensors.torch.save(to_host(snapshot.weights)))
    state = io.BytesIO()
    torch.save(snapshot.state, state)
    (partial / "state.pt").write_bytes(state.getbuffer())
    for best in snapshot.best:
        shutil.copyfile(best, partial / best.name)  # no hard link: it would be damaged together with the original
    for file in partial.iterdir():
        sync(file)
    files = {file.name: {"sha256": sha256_of(file), "size": file.stat().st_size} for file in sorted(partial.iterdir())}
    for best, expected in snapshot.best.items():
        if files[best.name]["sha256"] != expected:
            raise CheckpointError(altered(best.name))
    manifest = {"format_version": FORMAT_VERSION, "loop": snapshot.loop, "identity": snapshot.identity, "files": files}
    text = json.dumps(manifest, sort_keys=True, indent=1, allow_nan=False).encode()
    (partial / "manifest.json").write_bytes(text)
    sync(partial / "manifest.json")
    sync(partial)
    target = folder / name
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    sync(folder)
    for old in sorted(p for p in folder.iterdir() if p.is_dir() and p.name <= name)[:-KEEP]:
        shutil.rmtree(old)
    return hashlib.sha256(text).hexdigest()


def read_manifest(path: Path) -> dict[str, dict[str, object]]:
    """The manifest alone, without torch state. Raises CheckpointError."""
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {path.name} is not whole: its manifest cannot be read") from error
    found = manifest.get("format_version") if isinstance(manifest, dict) else None
    if found != FORMAT_VERSION:
        raise CheckpointError(f"checkpoint {path.name} has format {found}, this program reads {FORMAT_VERSION}")
    parts = [manifest.get(part) for part in ("loop", "identity", "files")]
    entries = parts[-1].values() if isinstance(parts[-1], dict) else [None]
    if not all(isinstance(part, dict) for part in (*parts, *entries)) or not {*REQUIRED} <= {*parts[-1]}:
        raise CheckpointError(f"checkpoint {path.name} is not whole: its manifest lacks a part")
    return cast(dict[str, dict[str, object]], manifest)


def load(path: Path, device: torch.device) -> Snapshot:
    """Read a checkpoint back, every file checked against its SHA-256. Raises CheckpointError."""
    manifest = read_manifest(path)
    for name, entry in manifest["files"].items():
        expected = cast(dict[str, object], entry).get("sha256")
        if Path(name).name != name or not (path / name).is_file() or sha256_of(path / name) != expected:
            raise CheckpointError(
                f"{name} of checkpoint {path.name} is missing or damaged: start again, or resume from an older one"
            )
    return Snapshot(
        weights=load_weights(path / "model.safetensors"),
        state=torch.load(path / "state.pt", map_location=device, weights_only=True),
        loop=manifest["loop"],
        identity=manifest["identity"],
        best={
            path / name: str(cast(dict[str, object], entry)["sha256"])
            for name, entry in manifest["files"].items()
            if name.startswith(f"{BEST}.")
        },
    )
