"""FlexAttention: the numbers of the other backends, by its plain forward pass on a CPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ladderlm.errors import ConfigError
from ladderlm.model.attention import attend_sdpa, document_mask
from ladderlm.model.config import ModelConfig
from ladderlm.model.flex import attend_flex, plan_flex
from ladderlm.run.resolve import resolve_attention
from model.test_blocked import segments_of

CPU = torch.device("cpu")
UNFUSED = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


def draw(n_rows, n_positions, n_kv_heads):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(n_rows, 4, n_positions, 16, generator=generator)
    k, v = torch.randn(2, n_rows, n_kv_heads, n_positions, 16, generator=generator)
    return q, k, v


@pytest.mark.slow  # PyTorch loads its compiler
@UNFUSED
@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("n_positions", [7, 128, 150])
def test_causal_attention_is_that_of_the_kernel(n_kv_heads, n_positions):
    q, k, v = draw(2, n_positions, n_kv_heads)
    plan = plan_flex(None, n_positions, CPU)
    wanted = attend_sdpa(q, k, v, None)
    torch.testing.assert_close(attend_flex(q, k, v, plan), wanted, rtol=0, atol=1e-5)


@pytest.mark.slow
@UNFUSED
@settings(max_examples=10)
@given(rows=st.lists(st.lists(st.integers(1, 60), max_size=5), min_size=1, max_size=3))
def test_packed_documents_are_those_of_the_kernel(rows):
    """T08: every row with its own documents and padding."""
    segments = torch.tensor([segments_of(lengths, 140) for lengths in rows])
    q, k, v = draw(len(rows), 140, 2)
    found = attend_flex(q, k, v, plan_flex(segments, 140, CPU))
    wanted = attend_sdpa(q, k, v, document_mask(segments))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_closed_blocks_are_passed_over():
    """Three documents of 128 positions: of six causal blocks three are left."""
    segments = torch.arange(3).repeat_interleave(128)[None]
    counts = [
        int(plan.blocks.kv_num_blocks.sum()) + int(plan.blocks.full_kv_num_blocks.sum())
        for plan in (plan_flex(None, 384, CPU), plan_flex(segments, 384, CPU))
    ]
    assert counts == [6, 3]


def test_it_is_refused_where_it_cannot_train():
    config = ModelConfig(vocab_size=50, attention="flex")
    with pytest.raises(ConfigError, match="no backward pass"):
        resolve_attention(config, 512, "cpu")
    assert resolve_attention(config, 512, "cuda") == "flex"
