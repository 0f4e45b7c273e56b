"""Checks of `init_from`: whether a training may start from the weights of another job."""

from collections.abc import Sequence
from uuid import UUID

from pydantic import ValidationError
from pydantic_core import PydanticCustomError
from sqlalchemy.orm import Session

from api.http.errors import invalid
from atft.spec.init_from import check_encoder_shape, check_member, check_no_lookahead
from atft.spec.job import RunSpec
from atft.spec.kinds import KINDS
from jobs.db.tables import Dataset
from jobs.errors import NotFound
from jobs.record import init_from
from jobs.record.actions import Action, refusal

POINTER = "/init_from"


def check(session: Session, spec: RunSpec, dataset: Dataset) -> None:
    """Raises Refused (422) at /init_from with what does not fit; the training process checks again."""
    if spec.source_job is None:
        return
    try:
        ancestors = init_from.chain(session, UUID(spec.source_job))
        source = ancestors[0]
        if (refused := refusal(source, Action.INIT_FROM)) is not None:
            raise invalid(POINTER, refused)
        check_member(spec, KINDS[source.kind].spec.model_validate(source.spec))
        init_from.weights(session, source.id, spec.source_member)
        runs = [init_from.run_spec(job) for job in ancestors]
    except NotFound as error:
        raise invalid(POINTER, str(error)) from error
    except ValidationError as error:
        raise invalid(POINTER, f"the spec of job {spec.source_job} is of another version: {error}") from error
    except PydanticCustomError as error:
        raise invalid(POINTER, error.message()) from error
    if source.dataset_fingerprint != dataset.fingerprint:
        raise invalid(
            POINTER,
            f"job {source.id} learned from other data ({source.dataset}, {source.dataset_fingerprint}) than "
            f"{spec.dataset} ({dataset.fingerprint}): begin with a job on the same version of the dataset",
        )
    if _input_columns(dataset, runs[0]) != _input_columns(dataset, spec):
        raise invalid(POINTER, f"job {source.id} learned from other features: give the same data.features in both")
    try:
        check_encoder_shape(spec, runs[0])
        check_no_lookahead(spec, dataset.manifest["num_days"], runs)
    except PydanticCustomError as error:
        raise invalid(POINTER, error.message()) from error


def _input_columns(dataset: Dataset, run: RunSpec) -> Sequence[str]:
    """Input columns in the network's order: stock features, then market features."""
    stock, market = dataset.manifest["feature_names"], dataset.manifest["market_names"]
    requested = run.data.features or (*stock, *market)
    return [name for part in (stock, market) for name in requested if name in part]
