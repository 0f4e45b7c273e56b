"""Flips single bits at random places of what one small training reads and leaves, and counts how many the service's own
checks find; then times the first and later checks of a large file.

    python benchmarks/bench_integrity.py --gigabytes 4 --flips 200

JSON goes to benchmarks/results/.
"""

import argparse
import json
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from atft.checksums import SETTLED_NS, Checksums, is_on_local_disk, sha256_of
from atft.data.builder.run import build
from atft.data.cache.reader import Cache
from atft.events import Checkpointed, Event
from atft.spec.data import DatasetSpec
from atft.spec.job import TrainSpec
from atft.train.loop import train
from jobs.db.tables import ArtifactRow, Dataset
from jobs.embedded import record
from jobs.embedded.binaries import EmbeddedError
from jobs.record.stored import checkpoint_is_whole, damaged

DATASET = {"name": "d", "planted": {"num_codes": 24, "num_days": 120, "num_features": 5}, "horizons": [1, 5]}
SPEC = {
    "dataset": "d",
    "data": {"window": 6, "horizons": [1, 5], "min_names": 5},
    "split": {"train_days": 24, "val_days": 12, "test_days": 12, "embargo_days": 7},
    "model": {"hidden_size": 8, "gat_layers": 1, "gat_heads": 2, "attention_heads": 2, "fan_top_k": 2},
    "trainer": {"max_epochs": 2},
    "resources": {"device": "cpu", "threads": 1},
    "baselines": False,
}


def make_files(root: Path) -> tuple[Dataset, dict[str, Any], Path]:
    """A cache and its row, the newest checkpoint's event and the output folder of a training on it."""
    result = build(DatasetSpec.model_validate(DATASET), root / "cache", lambda _: None, lambda: False)
    manifest = result.manifest.model_dump(mode="json")
    row = Dataset(name="d", version=1, path="cache", manifest=manifest, profile=result.profile)
    row.leak_report = json.loads(json.dumps(result.leak_report))
    row.profile = json.loads(json.dumps(result.profile))
    events: list[Event] = []
    train(TrainSpec.model_validate(SPEC), Cache.open(root / "cache"), root / "run", events.append, lambda: False, None)
    saved = [event for event in events if isinstance(event, Checkpointed)][-1]
    return row, {"path": root / "run" / saved.path, "sha256": saved.sha256}, root / "run"


def count_found(paths: list[Path], flips: int, is_damaged: Callable[[], bool], source: random.Random) -> int:
    """How many of `flips` flipped bits, in files drawn by their size, are found; the files are as before afterwards."""
    if is_damaged():
        raise SystemExit(f"{paths[0]} is found damaged as it was written")
    found = 0
    for path in source.choices(paths, [path.stat().st_size for path in paths], k=flips):
        whole = path.read_bytes()
        at = source.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << source.randrange(8)]) + whole[at + 1 :])
        found += is_damaged()
        path.write_bytes(whole)
    return found


def artifact(root: Path, path: Path) -> ArtifactRow:
    relative = path.relative_to(root).as_posix()
    return ArtifactRow(job_id=UUID(int=0), name=path.name, path=relative, sha256=sha256_of(path))


def flip_all(root: Path, flips: int, source: random.Random) -> dict[str, int]:
    """The number of flips found, by what was altered."""
    version, saved, out = make_files(root)
    checksums = Checksums()
    cache = [path for path in (root / "cache").iterdir() if path.is_file()]
    found = {"cache": count_found(cache, flips, lambda: damaged(root, version, checksums) is not None, source)}
    files = list(saved["path"].iterdir())
    found["checkpoint"] = count_found(
        files, flips, lambda: not checkpoint_is_whole(saved["path"], saved["sha256"]), source
    )
    for kind, name in (("weights", "best.safetensors"), ("daily series", "daily.parquet")):
        row = artifact(root, out / name)
        found[kind] = count_found(
            [out / name], flips, lambda row=row: damaged(root, row, checksums) is not None, source
        )
    ports = {"postgres_port": 15001, "valkey_port": 15002, "password": "s" * 32, "home": "/a/servers"}
    record.write(root, record.Record(**ports, folder="/a"))
    (root / record.COPY).unlink()  # which would be used instead

    def is_refused() -> bool:
        try:
            return record.read(root) is None
        except EmbeddedError:
            return True

    found["embedded.json"] = count_found([root / record.RECORD], flips, is_refused, source)
    return found


def time_checks(root: Path, gigabytes: float) -> dict[str, object]:
    """Seconds of the first and of later checks of one file, as by a worker."""
    path = root / "large"
    block = os.urandom(1 << 24)
    with path.open("wb") as file:
        for _ in range(int(gigabytes * 1e9) >> 24):
            file.write(block)
    time.sleep(SETTLED_NS / 1e9 + 0.5)
    row, checksums, seconds = artifact(root, path), Checksums(), []
    row.verified_at = datetime.now(UTC)
    for _ in range(4):
        began = time.perf_counter()
        if damaged(root, row, checksums) is not None:
            raise SystemExit("the large file is found damaged")
        seconds.append(time.perf_counter() - began)
    return {
        "bytes": path.stat().st_size, "first_seconds": seconds[0], "later_seconds": seconds[1:],
        "remembered": is_on_local_disk(path),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="a folder of the disk to measure")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = flip_all(Path(folder), options.flips, random.Random(0))
        checks = time_checks(Path(folder), options.gigabytes)
    now = datetime.now(UTC)
    body = {"made": f"{now:%Y-%m-%d %H:%M} UTC", "machine": platform.machine(), "cpus": os.cpu_count()}
    body |= {"flips": options.flips, "found": found, "checks": checks}
    target = Path(__file__).parent / "results" / f"{now:%Y-%m-%d}-integrity.json"
    target.write_text(json.dumps(body, indent=1) + "\n")
    print(json.dumps(body, indent=1))
    if any(number != options.flips for number in found.values()):
        raise SystemExit("not every flipped bit was found")


if __name__ == "__main__":
    main()
