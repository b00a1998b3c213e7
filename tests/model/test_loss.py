"""The chunked loss: value and gradient of the reference, however the rows are cut."""

import math

import pytest
import torch

from ladderlm.model import loss as loss_module
from ladderlm.model.loss import sum_head_nats, token_nats


def draw(dtype, n_rows=6, seq_len=7, dim=8, vocab_size=20):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n_rows, seq_len, dim, generator=generator, dtype=torch.float64)
    head = torch.randn(vocab_size, dim, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, vocab_size, (n_rows, seq_len), generator=generator)
    mask = torch.arange(n_rows * seq_len).view(n_rows, seq_len) % 5 != 3
    assert 0 < mask.sum() < mask.numel()
    return hidden.to(dtype).requires_grad_(), head.to(dtype).requires_grad_(), targets, mask


def reference(hidden, head, targets, mask):
    return token_nats(hidden, head, targets)[mask].sum()


def value_and_slopes(function, dtype, scale=0.25):
    hidden, head, targets, mask = draw(dtype)
    total = function(hidden, head, targets, mask)
    (total * scale).backward()
    return total.detach(), hidden.grad, head.grad


# float32: sums of 20 to 42 terms in another order; bfloat16: results rounded to 8 bits, of which
# the reference rounds the logits' gradient too.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)]
)
@pytest.mark.parametrize("chunk_rows", [1, 5, 42, 1000])
def test_value_and_gradient_are_those_of_the_reference(dtype, tolerance, chunk_rows, monkeypatch):
    """Chunks of one row, of rows that do not divide, of all, of more than there are."""
    monkeypatch.setattr(loss_module, "CPU_CHUNK_ROWS", chunk_rows)
    monkeypatch.setattr(loss_module, "CPU_CHUNK_LOGITS", 1)
    wanted = value_and_slopes(reference, dtype)
    found = value_and_slopes(sum_head_nats, dtype)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        largest = float(theirs.abs().max())
        assert float((ours - theirs).abs().max()) <= tolerance * largest


def test_the_gradient_is_that_of_finite_differences():
    hidden, head, targets, mask = draw(torch.float64, 2, 3, 4, 5)
    assert torch.autograd.gradcheck(lambda h, w: sum_head_nats(h, w, targets, mask), (hidden, head))


@pytest.mark.parametrize("wild", [math.inf, math.nan])
def test_no_number_on_padding_leaks(wild):
    """T01: an infinite or undefined stream on padding does not move the sum."""
    hidden, head, targets, mask = draw(torch.float32)
    quiet = value_and_slopes(sum_head_nats, torch.float32)
    spoilt = hidden.detach().masked_fill(~mask.unsqueeze(-1), wild).requires_grad_()
    total = sum_head_nats(spoilt, head, targets, mask)
    assert torch.isfinite(total)
    assert torch.equal(total.detach(), quiet[0])


def test_padding_alone_gives_nothing():
    hidden, head, targets, mask = draw(torch.float32)
    total = sum_head_nats(hidden, head, targets, torch.zeros_like(mask))
    total.backward()
    assert float(total.detach()) == 0.0
    assert not hidden.grad.any()
    assert not head.grad.any()


def test_the_logits_are_never_all_there(monkeypatch):
    """The largest product holds one chunk."""
    monkeypatch.setattr(loss_module, "CPU_CHUNK_ROWS", 4)
    monkeypatch.setattr(loss_module, "CPU_CHUNK_LOGITS", 1)
    seen = []
    softmax = torch.log_softmax
    monkeypatch.setattr(
        torch, "log_softmax", lambda z, *a, **k: seen.append(z.numel()) or softmax(z, *a, **k)
    )
    value_and_slopes(sum_head_nats, torch.float32)
    assert max(seen) == 4 * 20
    assert len(seen) == math.ceil(42 / 4)


def plain_objective(hidden, head, targets, mask, softcap, z_loss):
    """Cap, softmax and penalty in plain operations: nats, and what is differentiated."""
    logits = hidden @ head.t()
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    log_z = logits.exp().sum(-1).log()
    nats = (log_z - logits.gather(-1, targets[..., None])[..., 0])[mask].sum()
    return nats, nats + (z_loss or 0.0) * (log_z**2)[mask].sum()


@pytest.mark.parametrize("softcap", [None, 2.0, 30.0])
@pytest.mark.parametrize("z_loss", [None, 1e-4, 0.3])
@pytest.mark.parametrize("chunk_rows", [5, 1000])
def test_cap_and_penalty_are_those_of_plain_operations(softcap, z_loss, chunk_rows, monkeypatch):
    """The value is the nats alone; the gradient is that of nats and penalty."""
    monkeypatch.setattr(loss_module, "CPU_CHUNK_ROWS", chunk_rows)
    monkeypatch.setattr(loss_module, "CPU_CHUNK_LOGITS", 1)
    hidden, head, targets, mask = draw(torch.float64)
    found = sum_head_nats(hidden, head, targets, mask, softcap, z_loss)
    slopes = torch.autograd.grad(found, (hidden, head))
    nats, objective = plain_objective(hidden, head, targets, mask, softcap, z_loss)
    assert found.item() == pytest.approx(nats.item(), rel=1e-12)
    for ours, theirs in zip(slopes, torch.autograd.grad(objective, (hidden, head)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    whole = token_nats(hidden, head, targets, softcap)[mask].sum()
    assert whole.item() == pytest.approx(nats.item(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cap_and_penalty_of_half_precision_are_taken_in_float32(dtype):
    hidden, head, targets, mask = draw(dtype)
    found = sum_head_nats(hidden, head, targets, mask, 5.0, 0.1)
    slopes = torch.autograd.grad(found, (hidden, head))
    wide = [t.detach().float().requires_grad_() for t in (hidden, head)]
    nats, objective = plain_objective(*wide, targets, mask, 5.0, 0.1)
    assert found.item() == pytest.approx(nats.item(), rel=2e-3)
    for ours, theirs in zip(slopes, torch.autograd.grad(objective, wide), strict=True):
        assert float((ours - theirs).abs().max()) <= 2e-2 * float(theirs.abs().max())
