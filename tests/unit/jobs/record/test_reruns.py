"""The sentence on a rerun's drift."""

from typing import Any

from jobs.record.reruns import summary


def drift(**values: Any) -> dict[str, Any]:
    same: dict[str, Any] = {
        "source_job_id": "s", "equal": False, "points": 10, "different_points": 0, "different_metrics": 0,
        "metrics": [], "baselines": {}, "weights_equal": True, "dataset_fingerprint": ["f", "f"], "environment": {},
    }  # fmt: skip
    return same | values


def test_no_drift() -> None:
    assert summary(drift(equal=True)) == "rerun of job s: no drift, 10 of 10 points equal"


def test_the_most_different_metric_is_named() -> None:
    worst = {"name": "val/loss", "largest_difference": 0.0125}
    text = summary(drift(different_points=3, different_metrics=2, metrics=[worst, {"name": "val/ic"}]))
    assert text == "rerun of job s: drift: 3 of 10 points differ, in 2 metrics, val/loss most, by 0.0125"


def test_drift_of_a_missing_point_has_no_size() -> None:
    worst = {"name": "val/loss", "largest_difference": None}
    assert "undefined or missing" in summary(drift(different_points=1, different_metrics=1, metrics=[worst]))


def test_every_other_difference_is_listed() -> None:
    text = summary(
        drift(
            dataset_fingerprint=["f", "g"],
            weights_equal=False,
            baselines={"ridge test/rank_ic": [0.1, 0.2]},
            environment={"host": ["a", "b"], "device": ["cpu", "cuda"]},
        )
    )
    assert text.removeprefix("rerun of job s: drift: ").split("; ") == [
        "the data are g, not f",
        "the weights differ",
        "1 numbers of baselines differ",
        "so do host, device",
    ]
