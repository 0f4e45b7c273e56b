"""Refactors keep the loss: ten updates on a tiny panel, to float32's last digits.

A change of golden.json needs a line in CHANGELOG.md.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atft.spec.job import TrainSpec

GOLDEN = Path(__file__).with_name("golden.json")


@pytest.mark.parametrize("optimizer", ["adamw", "adabelief"])
def test_losses_of_ten_updates_are_the_recorded_ones(
    optimizer: str, run: Any, make_spec: Callable[..., TrainSpec]
) -> None:
    spec = make_spec(
        **{
            "optimizer.name": optimizer,
            "trainer.max_epochs": 1,
            "trainer.batch_size": 48,
            "trainer.max_steps_per_epoch": 10,
        }
    )
    rows = run(spec, test=False).rows
    losses = [value for (_, name, _), value in sorted(rows.items(), key=lambda item: item[0][2]) if name == "step/loss"]
    assert len(losses) == 10
    assert losses == pytest.approx(json.loads(GOLDEN.read_text())[optimizer], rel=1e-5)
