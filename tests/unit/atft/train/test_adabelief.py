"""Our AdaBelief against the package's, update by update."""

import contextlib
import io

import pytest
import torch
from adabelief_pytorch import AdaBelief
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from atft.train.adabelief import ForeachAdaBelief

SHAPES = ((5, 3), (7,))


def pair(**options: object) -> tuple[list[nn.Parameter], torch.optim.Optimizer, list[nn.Parameter], ForeachAdaBelief]:
    capturable = options.pop("capturable", False)
    torch.manual_seed(0)
    theirs = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    ours = [nn.Parameter(p.detach().clone()) for p in theirs]
    with contextlib.redirect_stdout(io.StringIO()):
        package = AdaBelief(theirs, weight_decouple=True, print_change_log=False, **options)
    return theirs, package, ours, ForeachAdaBelief(ours, capturable=capturable, **options)  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(
    rectify=st.booleans(),
    capturable=st.booleans(),
    weight_decay=st.sampled_from([0.0, 1e-4, 0.3]),
    betas=st.tuples(st.sampled_from([0.1, 0.5, 0.9, 0.99]), st.sampled_from([0.6, 0.9, 0.99, 0.999])),
    lr=st.sampled_from([1e-4, 1e-3, 1e-2]),
    eps=st.sampled_from([1e-16, 1e-8]),
    rests=st.lists(st.booleans(), min_size=1, max_size=30),
)
def test_foreach_is_the_package_to_1e_6_at_every_update(
    rectify: bool,
    capturable: bool,
    weight_decay: float,
    betas: tuple[float, float],
    lr: float,
    eps: float,
    rests: list[bool],
) -> None:
    """One tensor has no gradient at times, as in a phase: it must neither change, nor decay, nor count a step."""
    theirs, package, ours, foreach = pair(
        rectify=rectify, capturable=capturable, weight_decay=weight_decay, betas=betas, lr=lr, eps=eps
    )
    generator = torch.Generator().manual_seed(len(rests))
    for rest in rests:
        for index, (a, b) in enumerate(zip(theirs, ours, strict=True)):
            gradient = torch.randn(a.shape, generator=generator)
            a.grad, b.grad = (None, None) if rest and index else (gradient.clone(), gradient.clone())
        package.step()
        foreach.step()
        for a, b in zip(theirs, ours, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("capturable", [False, True])
def test_a_reloaded_state_continues_equally(capturable: bool, tmp_path) -> None:  # type: ignore[no-untyped-def]
    _, _, ours, foreach = pair(
        rectify=True, capturable=capturable, weight_decay=0.1, betas=(0.9, 0.999), lr=1e-2, eps=1e-16
    )
    copies = [nn.Parameter(p.detach().clone()) for p in ours]
    for step in range(12):
        if step == 7:
            torch.save(foreach.state_dict(), tmp_path / "state")
            copies = [nn.Parameter(p.detach().clone()) for p in ours]
            again = ForeachAdaBelief(copies, lr=1.0, betas=(0.5, 0.5), eps=1.0, weight_decay=0.0, capturable=capturable)
            again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
        for p in (*ours, *copies):
            p.grad = torch.full_like(p, 0.1 * (-1.0) ** step * (step + 1))
        foreach.step()
        if step >= 7:
            again.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, copies, strict=True))


def test_without_rectification_the_first_update_is_adabeliefs_fingerprint() -> None:
    """|Δp|/lr = (1 - β1)·g / (1 - β1) / (β1·g) = 1/.9: Adam's would be 1."""
    parameter = nn.Parameter(torch.zeros(3))
    optimizer = ForeachAdaBelief([parameter], lr=0.01, betas=(0.9, 0.999), eps=1e-16, weight_decay=0.0, rectify=False)
    parameter.grad = torch.full((3,), 0.5)
    optimizer.step()
    torch.testing.assert_close(parameter.detach().abs() / 0.01, torch.full((3,), 1 / 0.9), rtol=1e-4, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_an_update_is_captured_and_counts_on() -> None:
    _, _, ours, foreach = pair(rectify=True, weight_decay=0.1, betas=(0.9, 0.999), lr=1e-2, eps=1e-16)
    on_gpu = [nn.Parameter(p.detach().cuda()) for p in ours]
    captured = ForeachAdaBelief(on_gpu, lr=1e-2, betas=(0.9, 0.999), eps=1e-16, weight_decay=0.1, capturable=True)
    for p, q in zip(ours, on_gpu, strict=True):
        p.grad, q.grad = torch.full_like(p, 0.1), torch.full_like(q, 0.1)
    captured.step()  # makes the state, outside of the graph
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured.step()
    for _ in range(9):
        graph.replay()
    for _ in range(10):
        foreach.step()
    for p, q in zip(ours, on_gpu, strict=True):
        torch.testing.assert_close(q.cpu(), p, rtol=1e-5, atol=1e-6)
