"""Submits a job with the generated client; prints its id. Runs in the folder that holds the client."""

import sys

sys.path.insert(0, ".")
from generated import Client
from generated.api.jobs import get_job, submit_train
from generated.models import JobView, SubmittedView, TrainSpec

BODY = {
    "dataset": "small",
    "name": "generated",
    "data": {"window": 10, "horizons": [1, 5], "min_names": 5},
    "split": {"val_days": 30, "test_days": 30, "embargo_days": 6},
    "model": {"hidden_size": 8, "attention_heads": 2, "gat_heads": 2},
}
client = Client(base_url=sys.argv[1])
made = submit_train.sync(client=client, body=TrainSpec.from_dict(BODY), idempotency_key="once")
assert isinstance(made, SubmittedView), made
again = submit_train.sync(client=client, body=TrainSpec.from_dict(BODY), idempotency_key="once")
assert isinstance(again, SubmittedView), again
assert again.id == made.id
seen = get_job.sync(client=client, job_id=made.id)
assert isinstance(seen, JobView), seen
assert seen.name == "generated"
print(made.id)
