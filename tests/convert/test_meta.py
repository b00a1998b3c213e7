"""Folders of Meta's: merged to the bit, cut as fairscale cuts, strict about all but two things."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch

from ladderlm.convert.convert import convert, open_source
from ladderlm.convert.hf import read_hf
from ladderlm.convert.meta import read_meta, write_meta
from ladderlm.convert.params import model_config, params_of
from ladderlm.convert.weights import parameter_shapes
from ladderlm.errors import CheckpointError
from ladderlm.model.config import ModelConfig
from ladderlm.model.published import PUBLISHED_SHAPES
from reference.foreign import meta_shards, write_hf_folder, write_meta_folder
from reference.hand_made import make_model


def assert_same(source, model):
    weights = dict(model.named_parameters())
    assert list(source.dtypes) == list(parameter_shapes(source.config))
    for name in source.dtypes:
        assert torch.equal(source.read(name), weights[name]), name


@pytest.mark.parametrize(("n_shards", "axis"), [pytest.param(2, 1, marks=pytest.mark.long), (4, 0)])
def test_shards_are_merged_to_the_bit(n_shards, axis, tmp_path):
    """LLaMA 2 splits the embedding by columns, LLaMA 3 by rows; `rope.freqs` is passed over."""
    model = make_model(vocab_size=320, n_heads=8, n_kv_heads=4, dim=32)
    extra = {"rope_theta": 500000.0} if axis == 0 else {"some_new_key": 3}
    folder = write_meta_folder(tmp_path / "m", model, n_shards, axis, **extra)
    source = open_source(folder)
    assert_same(source, model)
    expected = {"max_seq_len": 4096} if axis else {"max_seq_len": 8192, "rope_theta": 500000.0}
    shape = replace(model.config, **expected)
    assert source.config == shape
    assert source.ignored == (("some_new_key",) if axis else ())


def test_what_is_written_is_cut_as_fairscale_cuts(tmp_path):
    """Also: a float16 copy, and a width of the MLP that Meta's rule alone would not give."""
    model = make_model(vocab_size=320, n_kv_heads=2, ffn_dim=44)
    source = read_hf(write_hf_folder(tmp_path / "hf", model))
    files = write_meta(source, tmp_path / "m", None, 2)
    assert [path.name for path in files] == [
        "consolidated.00.pth",
        "consolidated.01.pth",
        "params.json",
    ]
    for path, shard in zip(files, meta_shards(model, 2, 1), strict=False):
        written = torch.load(path, weights_only=True)
        del shard["rope.freqs"]
        assert written.keys() == shard.keys()
        assert all(torch.equal(written[name], shard[name]) for name in shard)
        assert all(t.untyped_storage().nbytes() == t.nbytes for t in written.values())
    write_meta(source, tmp_path / "half", torch.float16, 1)
    half = torch.load(tmp_path / "half/consolidated.00.pth", weights_only=True)
    assert torch.equal(half["norm.weight"], model.norm.weight.detach().half())
    params = json.loads((tmp_path / "m/params.json").read_text())
    assert model_config(params, 320, 64, "params.json")[0].ffn_width == 44


def test_a_tied_model_keeps_its_one_table_through_metas_two(tmp_path):
    model = make_model(tied_head=True, vocab_size=50, rope_theta=500000.0, rope_scaling_factor=8.0)
    write_meta_folder(
        tmp_path / "m", model, 1, 0, rope_theta=500000.0, use_scaled_rope=True, n_kv_heads=None
    )
    source = read_meta(tmp_path / "m")
    assert source.config.tied_head
    assert source.config.max_seq_len == 131072
    assert_same(source, model)
    write_meta(source, tmp_path / "again")
    state = torch.load(tmp_path / "again/consolidated.00.pth", weights_only=True)
    assert torch.equal(state["output.weight"], state["tok_embeddings.weight"])
    params = json.loads((tmp_path / "again/params.json").read_text())
    assert params["use_scaled_rope"] is True
    assert "rope_scaling_factor" not in params  # 8 is what Meta's code takes


@pytest.mark.parametrize("name", PUBLISHED_SHAPES)
def test_published_shapes_go_through_params_json(name):
    config = ModelConfig(**PUBLISHED_SHAPES[name])
    params = params_of(config)
    known = "dim n_layers n_heads n_kv_heads vocab_size multiple_of ffn_dim_multiplier norm_eps"
    if not name.startswith("llama-3"):
        assert set(params) <= set(known.split())  # LLaMA 2's ModelArgs takes no other key
    again, ignored = model_config(params, config.vocabulary, config.max_seq_len, "params.json")
    assert again == replace(config, tied_head=False)
    assert not ignored
    if config.tied_head:  # 3.2's own files do not say the factor
        del params["rope_scaling_factor"]
        again, _ = model_config(params, config.vocabulary, config.max_seq_len, "params.json")
        assert again.rope_scaling_factor == 32.0


@pytest.mark.parametrize("width", [8, 10, 42, 43, 44, 100, 172, 173])
def test_any_width_of_the_mlp_has_a_rule(width):
    config = ModelConfig(dim=16, n_heads=2, vocab_size=9, ffn_dim=width)
    again, _ = model_config(params_of(config), 9, None, "params.json")
    assert again.ffn_width == width


BROKEN = {
    "no params.json": (lambda f: (f / "params.json").unlink(), "params.json"),
    "no files": (lambda f: [p.unlink() for p in f.glob("*.pth")], "no \\*.pth file"),
    "a gap": (lambda f: (f / "consolidated.00.pth").unlink(), "without a gap"),
    "a link out": (
        lambda f: [
            (f / "consolidated.01.pth").rename(f.parent / "y"),
            (f / "consolidated.01.pth").symlink_to("../y"),
        ],
        "leads out",
    ),
    "a wrong checksum": (
        lambda f: (f / "checklist.chk").write_text(f"{'0' * 32} consolidated.00.pth\n"),
        "MD5",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_folder_with_a_fault_is_refused_before_anything_is_unpickled(fault, tmp_path):
    """I06: a link that leads out among them."""
    folder = write_meta_folder(tmp_path / "m", make_model(vocab_size=320), 2)
    breaks, message = BROKEN[fault]
    breaks(folder)
    with pytest.raises(CheckpointError, match=message):
        read_meta(folder)


def test_a_right_checksum_is_accepted_and_unequal_norms_are_not(tmp_path):
    model = make_model(vocab_size=320)
    folder = write_meta_folder(tmp_path / "m", model, 2)
    path = folder / "consolidated.01.pth"
    state = torch.load(path, weights_only=True)
    state["norm.weight"] += 1
    torch.save(state, path)
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    (folder / "checklist.chk").write_text(f"{digest}  consolidated.01.pth\n")
    source = read_meta(folder)
    with pytest.raises(CheckpointError, match="differs between the shards"):
        source.read("norm.weight")


def test_a_tensor_too_many_is_refused(tmp_path):
    """I04: only `rope.freqs` is passed over, by its name."""
    folder = write_meta_folder(tmp_path / "m", make_model(vocab_size=320))
    state = torch.load(folder / "consolidated.00.pth", weights_only=True)
    state["layers.0.attention.wq.bias"] = torch.ones(16)
    torch.save(state, folder / "consolidated.00.pth")
    with pytest.raises(CheckpointError, match=r"unknown: layers\.0\.attention\.wq\.bias"):
        read_meta(folder)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"dim": 16, "n_layers": 2}, "n_heads"),
        ({"dim": "16", "n_layers": 2, "n_heads": 4}, "dim"),
        ({"dim": -16, "n_layers": 2, "n_heads": 4}, "dim"),
        ({"dim": 16, "n_layers": 2, "n_heads": 4, "vocab_size": 49}, "vocab_size"),
        ({"dim": 16, "n_layers": 2, "n_heads": 4, "quantization_args": {"x": 1}}, "quantized"),
        ({"dim": 16, "n_layers": 2**40, "n_heads": 4}, "n_layers"),
    ],
)
def test_params_that_cannot_be_are_refused(params, message):
    """I07."""
    with pytest.raises(CheckpointError, match=message):
        model_config(params, 50, None, "params.json")


BEYOND = {"logit_softcap": 30.0, "mlp": "relu2", "qk_norm": True, "value_embeddings": 1}


@pytest.mark.parametrize("kind", ["meta", "hf", "gguf"])
@pytest.mark.parametrize("option", BEYOND)
def test_what_llama_lacks_is_refused_by_every_format(option, kind, tmp_path):
    """Without it every probability would be another one."""
    source = read_hf(write_hf_folder(tmp_path / "hf", make_model(vocab_size=320)))
    other = replace(source, config=replace(source.config, **{option: BEYOND[option]}))
    words = f"model.{option} = {BEYOND[option]} cannot be written as {kind}"
    with pytest.raises(CheckpointError, match=words):
        convert(other, kind, tmp_path / "out")
    assert not (tmp_path / "out/config.json").exists()


def test_a_shape_that_does_not_split_is_refused(tmp_path):
    source = read_hf(write_hf_folder(tmp_path / "hf", make_model(vocab_size=320, n_kv_heads=2)))
    with pytest.raises(CheckpointError, match="n_kv_heads is 2"):
        write_meta(source, tmp_path / "m", None, 4)
    assert not (tmp_path / "m").exists()
