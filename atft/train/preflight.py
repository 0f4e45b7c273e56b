"""Checks before the first step: one day forward and backward, a gradient in every module, time and memory."""

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from atft.data.cache.batch import Batch
from atft.evidence.models import EarlyEvidence, MemoryEvidence
from atft.loss.objective import LossValue, NoTargets
from atft.memory import free_and_total
from atft.spec.reason import Reason
from atft.train import phases
from atft.train.evaluate import read_batch
from atft.train.report import Reporter, RunError
from atft.train.setup import AnyNetwork, AnyObjective, TrainingSetup, network_of

MICRO_BATCH_SECONDS = 5.0
BEAT_SECONDS, COMPILING_BEATS = 10.0, 180  # half an hour: a compiler that takes longer counts as hung
MEMORY_SHARE = 0.8  # of what is free, for a micro-batch
CANDIDATE_DAYS = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class PreflightReport:
    parameters: int
    gradient_norms: dict[str, float]
    day: str
    samples: int
    seconds_per_day: float
    activation_bytes_per_day: int
    memory_bytes: int  # estimate for one micro-batch with weights, gradients and optimizer state; not the mapped data
    needed_bytes: int  # of the machine's memory, by this process with all it holds; mapped data not counted
    free_bytes: int  # when measured
    micro_batch_days: int
    host_bytes_per_day: int  # of needed_bytes, for each day of a micro-batch


def gradient_norms(network: nn.Module, *, only_reached: bool = False) -> dict[str, float]:
    """L2 norm of the gradient of each child with parameters that learn; NaN propagates. `only_reached` leaves out
    modules without a gradient, such as a graph whose layers stochastic depth has all skipped.
    """
    norms: dict[str, float] = {}
    for name, child in network.named_children():
        parameters = [p for p in child.parameters() if p.requires_grad]
        squares = [float(p.grad.detach().double().square().sum()) for p in parameters if p.grad is not None]
        if squares or (parameters and not only_reached):
            norms[name] = math.sqrt(sum(squares))
    return norms


def require_gradients(norms: dict[str, float]) -> None:
    """Raise RunError naming each module without a finite, non-zero gradient."""
    dead = [name for name, norm in norms.items() if not (math.isfinite(norm) and norm > 0)]
    if dead:
        shown = ", ".join(f"{name} ({norms[name]:g})" for name in dead)
        raise RunError(
            Reason.PREFLIGHT_FAILED,
            f"no usable gradient reaches {shown}: a part that is switched on would never learn; check the loss "
            "weights and the model's switches",
        )


def require_compiler(setup: TrainingSetup, batch: Batch, reporter: Reporter) -> None:
    """Compile the run's network, forward and backward. Raises RunError where torch cannot, as without a compiler."""
    from torch._dynamo.exc import TorchDynamoException  # noqa: PLC0415 - a second to load, for those who compile

    try:
        with _heartbeat_while_compiling(reporter):
            torch.autograd.backward(_loss(setup, setup.network, batch).total)
    except TorchDynamoException as error:
        raise RunError(
            Reason.PREFLIGHT_FAILED,
            f"trainer.compile is on and torch.compile fails here: {str(error).splitlines()[0]}. Install a C++ compiler "
            "(on a processor) or Triton (on a GPU), or set trainer.compile to false",
        ) from error
    finally:
        setup.network.zero_grad(set_to_none=True)


@contextlib.contextmanager
def _heartbeat_while_compiling(reporter: Reporter) -> Iterator[None]:
    """Send heartbeats while the compiler is silent, for a limited time; else it would look stalled."""
    done = threading.Event()

    def beat() -> None:
        for _ in range(COMPILING_BEATS):
            if done.wait(BEAT_SECONDS):
                return
            reporter.progress("preflight")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def preflight(setup: TrainingSetup, reporter: Reporter) -> PreflightReport:
    """Run all checks; leaves the run's weights, optimizer and gradients as they are. Raises RunError."""
    started = time.perf_counter()
    network = _without_dropout(setup)
    days, batch = _one_day(setup, network, setup.objective)
    reporter.progress("preflight")
    network.zero_grad(set_to_none=True)
    sizes = _SavedTensorBytes(network)
    with torch.autograd.graph.saved_tensors_hooks(sizes.pack, lambda tensor: tensor):
        value = _loss(setup, network, batch)
    loss = float(value.total.detach())
    if not math.isfinite(loss):
        raise RunError(
            Reason.PREFLIGHT_FAILED,
            f"the loss of {setup.cache.days[days[0]]} is {loss} before the first step: look for "
            "infinite or huge values among features and targets",
        )
    torch.autograd.backward(value.total)
    norms = gradient_norms(network)
    require_gradients(norms)
    for objective in phases.objectives(setup)[1:]:
        network.zero_grad(set_to_none=True)
        torch.autograd.backward(objective(network(batch), batch).total)
        require_gradients(gradient_norms(network))
    if setup.spec.trainer.compile:
        reporter.log("compiling the network, which can take minutes on a processor")
        require_compiler(setup, batch, reporter)
    reporter.progress("preflight")
    seconds = _timed(setup, network, days) / len(days)
    bytes_per_day = sizes.total // len(days)
    parameters = sum(p.numel() for p in network.parameters())
    fixed = parameters * 4 * (4 + (setup.ema is not None))
    micro = _micro_batch(setup, seconds, bytes_per_day, fixed)
    memory = fixed + 2 * bytes_per_day * micro
    free, _ = free_and_total()
    needed = _private_bytes() + (memory if setup.device.type == "cpu" else 0)
    if setup.device.type == "cpu" and memory > free:
        _refuse_for_memory(reporter, micro, needed, free)
    reporter.log(
        f"preflight passed in {time.perf_counter() - started:.2f} s: {parameters} parameters, {seconds:.3f} s a day, "
        f"about {memory / 1e6:.0f} MB, micro-batches of {micro} days",
        level="debug",
    )
    return PreflightReport(
        parameters=parameters,
        gradient_norms=norms,
        day=str(setup.cache.days[days[0]]),
        samples=int(batch.ranked.sum()),
        seconds_per_day=seconds,
        activation_bytes_per_day=bytes_per_day,
        memory_bytes=memory,
        needed_bytes=needed,
        free_bytes=free,
        micro_batch_days=micro,
        host_bytes_per_day=2 * bytes_per_day if setup.device.type == "cpu" else 0,
    )


def _private_bytes() -> int:
    """Resident bytes of this process without shared, file-backed ones: the mapped cache can be paged out."""
    memory = psutil.Process().memory_info()
    return int(memory.rss) - int(getattr(memory, "shared", 0))


def _refuse_for_memory(reporter: Reporter, days: int, needed: int, free: int) -> None:
    """Report how much memory is needed, for the worker to wait for; raises RunError (oom_host, preflight_failed)."""
    reporter.evidence(EarlyEvidence(memory=MemoryEvidence(needed_bytes=needed, free_bytes=free, fits=False)))
    _, total = free_and_total()
    need = f"a micro-batch of {days} days needs about {needed / 1e9:.1f} GB of memory"
    if needed <= total * MEMORY_SHARE:
        raise RunError(Reason.OOM_HOST, f"{need}, and {free / 1e9:.1f} GB are free")
    raise RunError(
        Reason.PREFLIGHT_FAILED,
        f"{need}, and this machine has {total / 1e9:.1f} GB: use a smaller hidden_size or window",
    )


def _without_dropout(setup: TrainingSetup) -> AnyNetwork:
    """A copy of the network with dropout and stochastic depth off, so that a skipped module does not look dead."""
    model = setup.spec.model.model_copy(
        update={"dropout": 0.0, "gat_dropout": 0.0, "freq_dropout": 0.0, "stochastic_depth": 0.0}
    )
    copy = network_of(setup.spec, setup.reader.num_features, model)
    copy.load_state_dict(setup.network.state_dict())
    return copy.to(setup.device)


def _one_day(setup: TrainingSetup, network: AnyNetwork, objective: AnyObjective) -> tuple[np.ndarray, Batch]:
    """A training day (or `min_days` of them) whose loss is defined, tried from the middle outwards."""
    train, num_days = setup.split.train, setup.min_days
    fractions = np.linspace(0.0, 1.0, CANDIDATE_DAYS)
    fractions = fractions[np.argsort(np.abs(fractions - 0.5), kind="stable")]
    for fraction in fractions:
        first = round(fraction * (len(train) - num_days))
        days = train[first : first + num_days]
        batch = read_batch(setup.reader, days) if len(days) == days[-1] - days[0] + 1 else None
        if batch is not None:
            with torch.no_grad():
                try:
                    value = objective(network(batch), batch)
                except NoTargets:
                    continue
            if value.num_skipped_days == 0:
                return days, batch
    raise RunError(
        Reason.PREFLIGHT_FAILED,
        f"none of {CANDIDATE_DAYS} training days tried has data.min_names = {setup.spec.data.min_names} samples "
        "with a full window and a known target: lower min_names or the window",
    )


def _loss(setup: TrainingSetup, network: AnyNetwork, batch: Batch) -> LossValue:
    with torch.autocast(setup.device.type, dtype=setup.autocast, enabled=setup.autocast is not None):
        prediction = network(batch)
    return setup.objective(prediction, batch)


def _timed(setup: TrainingSetup, network: AnyNetwork, days: np.ndarray) -> float:
    """Seconds to read `days` and run forward and backward, after a first pass has warmed up."""
    start = time.perf_counter()
    torch.autograd.backward(_loss(setup, network, setup.reader.batch(days)).total)
    if setup.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _micro_batch(setup: TrainingSetup, seconds_per_day: float, bytes_per_day: int, fixed_bytes: int) -> int:
    """Days of a step that go together: all, or the largest power of two within 5 s and the device's free memory.

    Usual step sizes are far below the limit, so that timer noise does not matter; the result is stored in every
    checkpoint.
    """
    limit = MICRO_BATCH_SECONDS / max(seconds_per_day, 1e-9)
    if setup.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info()
        max_days = _max_days_in_memory(free, bytes_per_day, fixed_bytes)
        if max_days < 1:
            raise RunError(
                Reason.PREFLIGHT_FAILED,
                f"one day needs about {(fixed_bytes + 2 * bytes_per_day) / 1e9:.1f} GB of GPU memory and "
                f"{free / 1e9:.1f} GB are free: use a smaller hidden_size or window",
            )
    else:
        max_days = _max_days_in_memory(free_and_total()[0], bytes_per_day, fixed_bytes)
    limit = min(limit, max_days)
    if limit >= setup.days_per_step:
        return setup.days_per_step
    return 1 << max(0, int(math.log2(max(1.0, limit))))


def _max_days_in_memory(free_bytes: int, bytes_per_day: int, fixed_bytes: int) -> float:
    return (free_bytes * MEMORY_SHARE - fixed_bytes) / max(1, 2 * bytes_per_day)


class _SavedTensorBytes:
    """Bytes that autograd keeps for the backward pass, each storage once, weights not counted."""

    def __init__(self, network: nn.Module) -> None:
        self._seen = {p.untyped_storage().data_ptr() for p in network.parameters()}
        self.total = 0

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.total += storage.nbytes()
        return tensor
