"""The published shapes: built without memory, with the published numbers of parameters."""

import pytest
import torch

from ladderlm.model.accounting import count_params
from ladderlm.model.config import ModelConfig
from ladderlm.model.published import PUBLISHED_SHAPES
from ladderlm.model.transformer import Transformer
from ladderlm.optim.schedule import learning_rate_at
from ladderlm.run.presets import PRESETS, preset
from ladderlm.training.run_config import RunConfig

# Parameters of the published files, and the published width of the MLP.
PUBLISHED = {
    "llama-1-7b": (6_738_415_616, 11008),
    "llama-1-13b": (13_015_864_320, 13824),
    "llama-1-33b": (32_528_943_616, 17920),
    "llama-1-65b": (65_285_660_672, 22016),
    "llama-2-7b": (6_738_415_616, 11008),
    "llama-2-13b": (13_015_864_320, 13824),
    "llama-2-70b": (68_976_648_192, 28672),
    "llama-3-8b": (8_030_261_248, 14336),
    "llama-3-70b": (70_553_706_496, 28672),
    "llama-3.1-8b": (8_030_261_248, 14336),
    "llama-3.1-70b": (70_553_706_496, 28672),
    "llama-3.2-1b": (1_235_814_400, 8192),
    "llama-3.2-3b": (3_212_749_824, 8192),
}


def test_every_published_model_has_a_preset():
    assert set(PUBLISHED) == set(PUBLISHED_SHAPES)
    assert set(PUBLISHED) <= set(PRESETS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_has_its_published_number_of_parameters(name):
    config = preset(name).model
    with torch.device("meta"):
        model = Transformer(config)
    sizes = {parameter_name: p.numel() for parameter_name, p in model.named_parameters()}
    assert all(p.device.type == "meta" for p in model.parameters())
    assert (sum(sizes.values()), config.ffn_width) == PUBLISHED[name]
    assert count_params(config).total == PUBLISHED[name][0]
    assert model.angles.shape == (config.max_seq_len, config.head_dim // 2, 2)


def test_the_preset_of_the_paper_holds_what_its_section_2_states():
    """AdamW 0.9 / 0.95, decay 0.1, clipping 1, cosine to a tenth, 2,000 of warm-up, 4M tokens."""
    config = preset("llama-paper")
    optim, n_steps = config.optim, config.train.n_steps
    found = (optim.name, optim.beta1, optim.beta2, optim.weight_decay, optim.grad_clip)
    assert found == ("adamw", 0.9, 0.95, 0.1, 1.0)
    assert (optim.schedule, optim.final_lr_fraction) == ("cosine", 0.1)
    assert config.train.global_batch_tokens == 4 * 2**20
    assert n_steps * config.train.global_batch_tokens == pytest.approx(1.0e12, rel=1e-5)
    rates = [learning_rate_at(optim, step, n_steps) for step in (999, 1999, n_steps - 1)]
    assert rates == pytest.approx([1.5e-4, 3e-4, 3e-5])
    assert (config.data.seq_len, config.model.max_seq_len) == (2048, 2048)


def test_a_tied_head_is_counted_once_and_multiplies():
    """T13: the table is one parameter, in N as the head that multiplies."""
    shape = {"dim": 16, "n_layers": 1, "n_heads": 2, "vocab_size": 40}
    tied, untied = (count_params(ModelConfig(**shape, tied_head=t)) for t in (True, False))
    assert tied.total == untied.total - 40 * 16
    assert tied.n_matmul == untied.n_matmul
    model = Transformer(ModelConfig(**shape, tied_head=True))
    assert model.output.weight is model.tok_embeddings.weight
    assert "output.weight" not in dict(model.named_parameters())


def test_options_added_for_the_published_models_leave_older_names_of_runs_alone():
    """The names that version 2 of the numerics gives to configs without RoPE scaling or tied head.

    If they move, finished runs are no longer found: give an added option a neutral value instead.
    """
    assert RunConfig().run_id == "243521fff57e"
    assert preset("llama-124m").run_id == "67f5ec22e3fe"
    changed = RunConfig(model=ModelConfig(rope_scaling_factor=8.0))
    assert changed.run_id != RunConfig().run_id
    assert RunConfig(model=ModelConfig(tied_head=True)).run_id != RunConfig().run_id
