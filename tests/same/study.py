"""One study through a real service: `atft up` with embedded servers, and plain HTTP."""

import time
from collections.abc import Callable
from typing import Any, Final

import httpx

from tests.same.checkouts import Checkout, CheckoutError
from tests.same.specs import DATASET, STUDY
from tests.same.values import BY_FIELD, EXCLUDED_FILES, Results, Values, parse, values

# A job's fields that are compared; the others are ids, times, links, and what the queue looked like.
JOB_FIELDS: Final = (
    "kind", "name", "state", "reason", "message", "attempt", "dataset", "dataset_fingerprint", "spec", "spec_digest",
    "metrics", "best",
)  # fmt: skip
ARTIFACT_FIELDS: Final = ("name", "size_bytes", "sha256", "media_type")
LAST_PLOT: Final = "timeline.json"  # a study's plots are drawn after its end
PLOT_SECONDS: Final = 120.0
SILENT_SECONDS: Final = 120.0  # a stream sends a comment now and then; without one for so long it is dead


def results(checkout: Checkout, say: Callable[[str], None]) -> Results:
    """What the service of `checkout` answers about one dataset, one study and each of its trials."""
    began = time.monotonic()
    timeout = httpx.Timeout(30.0, read=SILENT_SECONDS)
    with checkout.service() as url, httpx.Client(base_url=url, timeout=timeout, trust_env=False) as http:
        say(f"{checkout.name}: service is ready, {time.monotonic() - began:.1f} s")
        service = _Service(checkout, http)
        dataset = service.finish("/datasets", DATASET)
        found = {"service dataset": service.job(dataset)}
        study = service.finish("/jobs/hpo", STUDY)
        say(f"{checkout.name}: study, {time.monotonic() - began:.1f} s since the start")
        trials = service.get(f"/jobs/{study}/trials")["items"]
        found |= {
            "study: job": service.job(study),
            "study: trials": values(trials, "trials"),
            "study: best": values(service.get(f"/jobs/{study}/best"), "best"),
            "study: importance": values(service.get(f"/jobs/{study}/importance"), "importance"),
        }
        for trial in trials:
            job, title = trial["job_id"], f"trial {trial['number']}"
            found[f"{title}: job"] = service.job(job)
            found[f"{title}: metrics"] = values(service.get(f"/jobs/{job}/metrics", max_points=100_000), "metrics")
            evidence = service.get(f"/jobs/{job}/evidence")
            found[f"{title}: evidence"] = values(evidence, "evidence")
            checkout.note_commit(evidence)
            found[f"{title}: artifacts"] = service.artifacts(job)
        service.wait_for_artifact(study, LAST_PLOT)
        found["study: artifacts"] = service.artifacts(study)
    say(f"{checkout.name}: service has stopped, {time.monotonic() - began:.1f} s since the start")
    return found


class _Service:
    """Requests to one service; an answer that is an error raises CheckoutError."""

    def __init__(self, checkout: Checkout, http: httpx.Client) -> None:
        self._checkout, self._http = checkout, http

    def get(self, path: str, **parameters: Any) -> Any:
        """The JSON body, its numbers as they were written."""
        return self._body(self._http.get(path, params=parameters))

    def finish(self, path: str, body: Any) -> str:
        """The id of the job that `body` makes, once it has succeeded."""
        job: str = self._body(self._http.post(path, json=body))["id"]
        with self._http.stream("GET", f"/jobs/{job}/events") as stream:
            if not any(line == "event: end" for line in stream.iter_lines()):
                raise CheckoutError(f"{self._checkout.name}: the events of job {job} stopped before its end")
        ended = self.get(f"/jobs/{job}")
        if ended["state"] != "succeeded":
            raise CheckoutError(f"{self._checkout.name}: {ended['kind']} {ended['state']}: {ended['message']}")
        return job

    def job(self, job: str) -> Values:
        """The compared fields of a job."""
        body = self.get(f"/jobs/{job}")
        return values({name: body.get(name) for name in JOB_FIELDS}, "job")

    def artifacts(self, job: str) -> Values:
        """Size and SHA-256 of each artifact, less those that are compared by field or not at all."""
        left_out = dict(EXCLUDED_FILES) | dict(BY_FIELD)
        items = [item for item in self.get(f"/jobs/{job}/artifacts")["items"] if item["name"] not in left_out]
        return values({item["name"]: {name: item[name] for name in ARTIFACT_FIELDS} for item in items}, "artifacts")

    def wait_for_artifact(self, job: str, name: str) -> None:
        end = time.monotonic() + PLOT_SECONDS
        while name not in (item["name"] for item in self.get(f"/jobs/{job}/artifacts")["items"]):
            if time.monotonic() > end:
                raise CheckoutError(f"{self._checkout.name}: job {job} has no {name}")
            time.sleep(0.5)

    def _body(self, response: httpx.Response) -> Any:
        if response.is_error:
            raise CheckoutError(f"{self._checkout.name}: {response.request.url}: {response.text[:2000]}")
        return parse(response.content)
