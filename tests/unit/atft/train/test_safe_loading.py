"""Loading a manipulated checkpoint executes no code."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from atft.checksums import sha256_of
from atft.train import checkpoint


class _Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_malicious_checkpoint_is_refused(tmp_path: Path, form: str) -> None:
    loop: dict[str, object] = {"epoch": 1}
    snapshot = checkpoint.Snapshot(weights={"w": torch.zeros(2)}, state={"n": 1}, loop=loop, identity={}, best={})
    checkpoint.save(tmp_path / "checkpoints", "0001", snapshot)
    folder, target = tmp_path / "checkpoints" / "0001", tmp_path / "pwned"
    assert checkpoint.load(folder, torch.device("cpu")).loop == loop
    if form == "torch":
        torch.save({"n": _Payload(target)}, folder / "state.pt")
    else:
        (folder / "state.pt").write_bytes(pickle.dumps(_Payload(target), protocol=2))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["state.pt"]["sha256"] = sha256_of(folder / "state.pt")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises((pickle.UnpicklingError, checkpoint.CheckpointError)):
        checkpoint.load(folder, torch.device("cpu"))
    assert not target.exists()
