import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atft.checksums import sha256_of
from atft.train import checkpoint
from atft.train.checkpoint import CheckpointError, Snapshot
from tests.unit.atft.disk import largest_file

CPU = torch.device("cpu")


def snapshot(value: float, best: Path | None = None) -> Snapshot:
    return Snapshot(
        weights={"a": torch.full((2,), value)},
        state={"optimizer": {"state": {0: {"step": 3}}, "param_groups": []}},
        loop={"epoch": 1, "loss_sum": 0.1 + 0.2},
        identity={"spec": "x"},
        best={} if best is None else {best: sha256_of(best)},
    )


def test_a_loaded_checkpoint_equals_the_saved_one(tmp_path: Path) -> None:
    best = tmp_path / "best.safetensors"
    checkpoint.save_weights(best, {"a": torch.ones(2)}, {})
    checkpoint.save(tmp_path / "c", "000001", snapshot(1 / 3, best))
    back = checkpoint.load(tmp_path / "c" / "000001", CPU)
    assert torch.equal(back.weights["a"], torch.full((2,), 1 / 3))
    assert back.loop == {"epoch": 1, "loss_sum": 0.1 + 0.2}
    assert back.state == {"optimizer": {"state": {0: {"step": 3}}, "param_groups": []}}
    (kept,) = back.best
    assert torch.equal(checkpoint.load_weights(kept)["a"], torch.ones(2))


def test_the_best_weights_of_a_checkpoint_survive_a_better_epoch_and_a_deleted_folder(tmp_path: Path) -> None:
    best = tmp_path / "best.safetensors"
    checkpoint.save_weights(best, {"a": torch.ones(2)}, {})
    checkpoint.save(tmp_path / "c", "000001", snapshot(0.0, best))
    checkpoint.save_weights(best, {"a": torch.zeros(2)}, {})
    best.unlink()
    (kept,) = checkpoint.load(tmp_path / "c" / "000001", CPU).best
    assert torch.equal(checkpoint.load_weights(kept)["a"], torch.ones(2))


def test_altered_best_weights_are_not_kept(tmp_path: Path) -> None:
    best = tmp_path / "best.safetensors"
    written = checkpoint.save_weights(best, {"a": torch.ones(2)}, {})
    checkpoint.save_weights(best, {"a": torch.zeros(2)}, {})
    with pytest.raises(CheckpointError, match=r"best\.safetensors has other bytes than this run wrote"):
        checkpoint.save(tmp_path / "c", "000001", replace(snapshot(0.0), best={best: written}))
    assert not (tmp_path / "c" / "000001").exists()


@pytest.mark.parametrize("part", ["weights", "state"])
def test_a_checkpoint_on_a_full_disk_raises_oserror_and_keeps_the_previous_one(tmp_path: Path, part: str) -> None:
    """An OSError is reported as a full disk, which a retry may survive; any other error would be internal."""
    checkpoint.save(tmp_path / "c", "000001", snapshot(1.0))
    large = replace(snapshot(2.0), **{part: {"a": torch.zeros(100_000)}})
    with largest_file(100_000), pytest.raises(OSError, match="File too large"):
        checkpoint.save(tmp_path / "c", "000002", large)
    assert torch.equal(checkpoint.load(tmp_path / "c" / "000001", CPU).weights["a"], torch.ones(2))
    assert not (tmp_path / "c" / "000002").exists()


def test_at_most_two_are_kept_and_files_of_a_killed_save_are_removed(tmp_path: Path) -> None:
    (tmp_path / "c" / ".000000.partial").mkdir(parents=True)
    for number in range(1, 6):
        checkpoint.save(tmp_path / "c", f"{number:06d}", snapshot(number))
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["000004", "000005"]


def test_pain_36_one_run_never_touches_the_checkpoints_of_another(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "first", "000001", snapshot(1.0))
    before = {p: p.read_bytes() for p in (tmp_path / "first").rglob("*") if p.is_file()}
    for number in range(1, 5):
        checkpoint.save(tmp_path / "second", f"{number:06d}", snapshot(2.0))
    assert {p: p.read_bytes() for p in (tmp_path / "first").rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
def test_a_damaged_file_is_refused_by_name(name: str, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "000001", snapshot(1.0))
    path = tmp_path / "000001" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        checkpoint.load(tmp_path / "000001", CPU)
    path.unlink()
    with pytest.raises(CheckpointError, match=name):
        checkpoint.load(tmp_path / "000001", CPU)


def test_a_missing_manifest_or_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not whole"):
        checkpoint.load(tmp_path / "none", CPU)
    checkpoint.save(tmp_path, "000001", snapshot(1.0))
    manifest = tmp_path / "000001" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format_version": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        checkpoint.load(tmp_path / "000001", CPU)


@settings(max_examples=30, deadline=None)
@given(
    part=st.sampled_from(["loop", "identity", "files", "format_version", ""]),
    value=st.none() | st.integers() | st.text() | st.lists(st.integers()) | st.dictionaries(st.text(), st.none()),
    cut=st.integers(0, 400),
)
def test_a_manifest_of_any_content_loads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, part: str, value: object, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("c")
    checkpoint.save(folder, "000001", snapshot(1.0))
    manifest = folder / "000001" / "manifest.json"
    whole = manifest.read_text()
    changed = json.dumps({**json.loads(whole), part: value} if part else value)
    for text in (changed, whole[:cut], "[" * 100_000, whole.replace("state.pt", "../state.pt")):
        manifest.write_text(text)
        with contextlib.suppress(CheckpointError):
            checkpoint.load(folder / "000001", CPU)


def test_saving_over_a_stale_checkpoint_of_the_same_name_replaces_it(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "000001", snapshot(1.0))
    checkpoint.save(tmp_path, "000001", snapshot(2.0))
    assert torch.equal(checkpoint.load(tmp_path / "000001", CPU).weights["a"], torch.full((2,), 2.0))


def test_the_sha256_is_the_manifests(tmp_path: Path) -> None:
    returned = checkpoint.save(tmp_path, "000001", snapshot(1.0))
    assert returned == sha256_of(tmp_path / "000001" / "manifest.json")
