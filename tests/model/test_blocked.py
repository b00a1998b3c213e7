"""Attention by blocks: the numbers of the other backends, and no key that nobody may see."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ladderlm.model import blocked
from ladderlm.model.attention import attend_reference, attend_sdpa, document_mask
from ladderlm.model.blocked import attend_blocked, plan_blocks

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 8 queries, and scores of few rows at a time."""
    monkeypatch.setattr(blocked, "BLOCK", 8)
    monkeypatch.setattr(blocked, "SCORES_PER_THREAD", 600)


def draw(n_rows, n_positions, dtype=torch.float64, n_heads=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (4, n_rows, n_heads, n_positions, 6)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).unbind()


def value_and_slopes(attend, tensors):
    """Return the result and the gradients of q, k and v for a given gradient of the result."""
    *inputs, slope = (t.detach().clone().requires_grad_() for t in tensors)
    mixed = attend(*inputs)
    mixed.backward(slope.detach())
    return [mixed.detach(), *(t.grad for t in inputs)]


def segments_of(lengths, n_positions):
    """Lay documents of the given lengths side by side, and padding behind them."""
    ids = [i for i, length in enumerate(lengths) for _ in range(length)][:n_positions]
    return ids + [-1] * (n_positions - len(ids))


@pytest.mark.parametrize("other", [attend_sdpa, attend_reference])
@pytest.mark.parametrize("n_positions", [1, 7, 8, 9, 40])
def test_causal_attention_is_that_of_the_other_backends(n_positions, other):
    """Forward and backward; one position, less than a block, a block, and a rest."""
    tensors = draw(3, n_positions)
    plan = plan_blocks(None, n_positions, CPU)
    found = value_and_slopes(lambda q, k, v: attend_blocked(q, k, v, plan), tensors)
    wanted = value_and_slopes(lambda q, k, v: other(q, k, v, None), tensors)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@settings(max_examples=30)
@given(
    rows=st.lists(st.lists(st.integers(1, 20), max_size=8), min_size=1, max_size=5),
    seed=st.integers(0, 99),
)
def test_packed_documents_are_those_of_the_other_backends(rows, seed):
    """T08: every row with its own documents and padding, forward and backward."""
    mask = document_mask(torch.tensor([segments_of(row, 30) for row in rows]))
    tensors = draw(len(rows), 30, seed=seed)
    plan = plan_blocks(mask, 30, CPU)
    found = value_and_slopes(lambda q, k, v: attend_blocked(q, k, v, plan), tensors)
    wanted = value_and_slopes(lambda q, k, v: attend_reference(q, k, v, mask), tensors)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


# float32: sums of 40 terms in another order. bfloat16 holds 8 bits, and the weights are rounded
# once before they are multiplied; the largest entries are about 3.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.bfloat16, 5e-2)])
def test_narrow_types_stay_near_float64(dtype, tolerance):
    tensors = [t.to(dtype) for t in draw(2, 40)]
    plan = plan_blocks(None, 40, CPU)
    found = value_and_slopes(lambda q, k, v: attend_blocked(q, k, v, plan), tensors)
    exact = [t.double() for t in tensors]
    wanted = value_and_slopes(lambda q, k, v: attend_sdpa(q, k, v, None), exact)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=tolerance)


def test_the_gradient_is_that_of_finite_differences():
    q, k, v, _ = (t.requires_grad_() for t in draw(1, 10, n_heads=1))
    plan = plan_blocks(document_mask(torch.tensor([segments_of([3, 6], 10)])), 10, CPU)
    assert torch.autograd.gradcheck(lambda *a: attend_blocked(*a, plan), (q, k, v))


def test_a_block_begins_at_the_first_document_that_its_queries_belong_to():
    """Rows of 24 positions: by hand."""
    rows = [segments_of([8, 16], 24), segments_of([3, 13, 8], 24), segments_of([10], 24)]
    plan = plan_blocks(document_mask(torch.tensor(rows)), 24, CPU)
    # of the last row 10 positions are real: the second block holds two of them
    assert plan.first_keys == [[0, 8, 8], [0, 3, 16], [0, 0, 16]]
    assert plan_blocks(None, 24, CPU).first_keys == [[0, 0, 0]]


@pytest.mark.parametrize("n_rows", [1, 2, 5])
def test_every_row_and_query_is_met_once_by_keys_up_to_its_own_place(n_rows):
    rows = [segments_of([5 + i, 9], 20) for i in range(n_rows)]
    mask = document_mask(torch.tensor(rows))
    for plan in (plan_blocks(mask, 20, CPU), plan_blocks(None, 20, CPU)):
        met = torch.zeros(n_rows, 20, 20, dtype=torch.int64)
        for group, blocks in plan.groups(n_rows, 3):
            for queries, keys in blocks:
                assert keys.stop == queries.stop
                met[group, queries, keys] += 1
        assert met.max() == 1
        open_ = plan.bias[:, 0] == 0
        assert torch.equal(met.bool() & open_, open_.expand_as(met))


def test_scores_in_hand_stay_within_the_cache():
    """At most the stated count, or one row where a single one has more."""
    plan = plan_blocks(None, 16, CPU)
    for limit, n_together in ((10, 1), (8 * 16 * 3 * 2, 2), (10**9, 7)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocked, "SCORES_PER_THREAD", limit)
            groups = [rows for rows, _ in plan.groups(7, 3)]
        assert groups[0] == slice(0, n_together)
        assert groups[-1].stop == 7


def test_nothing_is_kept_where_no_gradient_is_asked_for():
    q, k, v, _ = draw(1, 20)
    plan = plan_blocks(None, 20, CPU)
    assert attend_blocked(q, k, v, plan).grad_fn is None
    with torch.no_grad():
        q.requires_grad_()
        assert attend_blocked(q, k, v, plan).grad_fn is None
