"""A config made whole, and data that does not fit it refused before the first step."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import make_records, write_jsonl
from ladderlm.config import meaning_of, to_dict
from ladderlm.data.shards import manifest_fingerprint, open_data
from ladderlm.errors import ConfigError, DataError
from ladderlm.eval.config import EvalConfig
from ladderlm.eval.meter import head_documents
from ladderlm.files import sha256_file
from ladderlm.model.accounting import forward_flops_per_token, train_flops_per_token
from ladderlm.prepare.prepare import PrepareConfig, prepare
from ladderlm.run.execute import execute
from ladderlm.run.resolve import resolve
from ladderlm.tokenizer.train import save_tokenizer, train_bpe
from ladderlm.training.config import TrainConfig
from ladderlm.training.run_config import NUMERICS_VERSION, RunConfig


@pytest.fixture(scope="module")
def other_data(tmp_path_factory):
    """Data of another tokenizer with the same number of tokens."""
    folder = tmp_path_factory.mktemp("other")
    tokenizer = train_bpe((r["text"] for r in make_records(100, seed=99)), 320)
    save_tokenizer(folder / "tokenizer", tokenizer, {})
    write_jsonl(folder / "corpus/train.jsonl", make_records(60, seed=1))
    write_jsonl(folder / "corpus/val.jsonl", make_records(12, seed=2))
    out = folder / "prepared"
    sources, tokens = (str(folder / "corpus"),), str(folder / "tokenizer")
    prepare(PrepareConfig(sources=sources, tokenizer=tokens, out=str(out)))
    return out


def test_resolving_twice_changes_nothing(tiny_config):
    config = resolve(tiny_config(eval__head_tokens=None))
    assert resolve(config) == config
    assert "null" not in json.dumps(meaning_of(config)["data"])
    for name in ("device", "n_threads", "micro_batch_seqs"):
        assert to_dict(config)["execution"][name] not in (None, "auto")
    assert config.model.attention == "sdpa"  # 32 tokens a row


@pytest.mark.parametrize(
    ("seq_len", "n_heads", "backend"), [(256, 2, "sdpa"), (512, 2, "blocked"), (512, 4, "sdpa")]
)
def test_long_rows_and_wide_heads_are_attended_by_blocks_on_a_cpu(
    seq_len, n_heads, backend, tiny_config
):
    """By the shape alone: the heads are 32 or 16 wide."""
    shape = {"dim": 64, "n_layers": 2, "n_heads": n_heads, "max_seq_len": 512}
    fields = {"data__seq_len": seq_len, "train__global_batch_tokens": 1024}
    config = resolve(tiny_config(model=shape, **fields))
    assert config.model.attention == backend
    assert resolve(config) == config
    asked = resolve(tiny_config(model=shape | {"attention": "reference"}, **fields))
    assert asked.model.attention == "reference"
    assert asked.run_id == config.run_id


def test_execution_is_no_part_of_the_name_and_meaning_is(tiny_config):
    name = resolve(tiny_config()).run_id
    for fields in (
        {"execution__n_threads": 2},
        {"execution__micro_batch_seqs": 1},
        {"model__attention": "reference"},
        {"checkpoint__keep": 4},
        {"out": "elsewhere"},
        {"eval__n_samples": 0},
    ):
        assert resolve(tiny_config(**fields)).run_id == name, fields
    for fields in (
        {"train__seed": 2},
        {"data__order_seed": 2},
        {"optim__learning_rate": 0.004},
        {"model__n_layers": 1},
        {"train__n_steps": 13},
        {"data__packing": "padded"},
        {"eval__n_evals": 3},
    ):
        assert resolve(tiny_config(**fields)).run_id != name, fields


def test_a_config_of_other_numerics_is_refused_with_both_numbers(tiny_config):
    with pytest.raises(ConfigError, match=f"in this ladderlm, got {NUMERICS_VERSION + 1}"):
        replace(tiny_config(), numerics_version=NUMERICS_VERSION + 1)


@given(n_steps=st.integers(1, 500), n_evals=st.integers(0, 60))
def test_validations_are_spread_evenly_with_both_ends(n_steps, n_evals):
    train, evaluation = TrainConfig(n_steps=n_steps), EvalConfig(n_evals=n_evals)
    steps = sorted(RunConfig(train=train, eval=evaluation).eval_steps)
    assert steps[0] == 0
    assert steps[-1] == n_steps
    assert len(steps) >= min(n_evals, n_steps)
    gaps = np.diff(steps)
    assert gaps.min() >= 1
    if n_evals:
        assert gaps.max() - gaps.min() <= 1


@settings(max_examples=15)
@given(
    n_steps=st.integers(100, 5000),
    global_batch_rows=st.integers(8, 64),
    time_share=st.floats(0.01, 0.5),
    n_evals=st.integers(1, 40),
    stride=st.sampled_from([None, 8, 16]),
)
def test_the_head_keeps_within_its_share_of_compute_by_prediction(
    tiny_config, n_steps, global_batch_rows, time_share, n_evals, stride
):
    """At most `time_share` of the training FLOPs, all validations together."""
    config = resolve(
        tiny_config(
            train__n_steps=n_steps,
            train__global_batch_tokens=32 * global_batch_rows,
            eval={"time_share": time_share, "n_evals": n_evals, "stride": stride},
        )
    )
    split = open_data(config.data.path).split("val")
    lengths = np.diff(split.offsets)
    head = head_documents(split, config.eval.n_documents, config.eval.head_tokens)
    if len(head) == 1 and lengths[head[0]] > config.eval.head_tokens // 4:
        return  # a budget too small for any document: one is scored all the same
    reread = 32 / (stride or 32)
    forward = forward_flops_per_token(config.model, 32) * lengths[head].sum() * reread
    n_positions = n_steps * 32 * global_batch_rows
    train = train_flops_per_token(config.model, 32) * n_positions
    assert forward * (n_evals + 1) <= time_share * train * (1 + 1e-9)


def test_the_default_share_is_below_a_twentieth(tiny_config):
    assert tiny_config(eval={}).eval.time_share <= 0.05
    assert tiny_config(eval={}).eval.n_evals >= 20
    assert tiny_config(eval={}).eval.n_documents == 10_000


def test_a_model_with_too_few_rows_for_the_tokenizer_is_refused(tiny_config):
    """T17: before step 1, with both numbers."""
    with pytest.raises(
        ConfigError,
        match=r"vocab_size must be at least 320, the tokens of the data's tokenizer, got 300",
    ):
        execute(tiny_config(model__vocab_size=300))


def test_a_model_may_have_rows_to_spare(tiny_config):
    folder = execute(tiny_config(model__vocab_size=384, train__n_steps=1))
    assert json.loads((folder / "summary.json").read_text())["n_params"]["head"] == 384 * 32


def test_data_of_another_tokenizer_of_the_same_size_is_refused(tiny_config, other_data, tmp_path):
    """T17: the ids would mean other texts."""
    config = resolve(tiny_config())
    assert open_data(other_data).vocab_size == config.model.vocab_size
    swapped = replace(
        config,
        data=replace(config.data, path=str(other_data), fingerprint=None),
        eval=replace(config.eval, fingerprint=None),
    )
    with pytest.raises(DataError, match="tokenizer_fingerprint"):
        execute(swapped)
    with pytest.raises(DataError, match=r"data\.fingerprint"):
        execute(replace(config, data=replace(config.data, path=str(other_data))))
    with pytest.raises(DataError, match=r"tokenizer of eval\.path"):
        execute(tiny_config(eval__path=str(other_data)))
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_run_is_not_continued_on_other_data(tiny_config, other_data, tmp_path):
    """T17: the same command with another --data."""
    execute(tiny_config(train__n_steps=1))
    config = replace(
        tiny_config(train__n_steps=1),
        data=replace(tiny_config().data, path=str(other_data)),
    )
    with pytest.raises(Exception, match=r"data\.fingerprint"):
        execute(config)


def forged(source, target, split, token, honest):
    """Copy data and put an id outside the vocabulary in, with all hashes right."""
    shutil.copytree(source, target)
    path = next(Path(target).glob(f"{split}-*.bin"))
    tokens = np.frombuffer(path.read_bytes(), "<u2").copy()
    tokens[5] = token
    path.write_bytes(tokens.tobytes())
    manifest = json.loads((target / "manifest.json").read_text())
    entry = manifest["splits"][split]
    entry["shards"][0]["sha256"] = sha256_file(path)
    if honest:
        entry["max_token_id"] = token
    manifest["fingerprint"] = manifest_fingerprint(manifest)
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


@pytest.mark.parametrize("honest", [True, False])
@pytest.mark.parametrize("split", ["train", "val"])
def test_an_id_outside_the_vocabulary_is_refused_before_step_1(
    split, honest, tiny_config, tiny_data, tmp_path
):
    """T17: by the manifest, and where the manifest lies by looking at the ids."""
    data = forged(tiny_data, tmp_path / "forged", split, 400, honest)
    rows = []
    config = tiny_config(
        data__path=str(data), train__global_batch_tokens=32 * 300, eval__head_tokens=10**6
    )
    with pytest.raises(DataError, match="400"):
        execute(config, observe=rows.append)
    assert not [row for row in rows if row["kind"] == "train"]


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_shard_is_refused_by_name_before_step_1(damage, tiny_config, tiny_data, tmp_path):
    data = tmp_path / "damaged"
    shutil.copytree(tiny_data, data)
    path = next(data.glob("train-*.bin"))
    raw = bytearray(path.read_bytes())
    raw[100] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(bytes(raw) if damage == "flip" else bytes(raw[:-2]))
    with pytest.raises(DataError, match=path.name):
        execute(tiny_config(data__path=str(data)))
    assert not (tmp_path / "run/config.json").exists()


def test_a_device_that_is_not_there_is_an_error_and_no_fall_back(tiny_config):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(Exception, match="cuda"):
        execute(tiny_config(execution__device="cuda"))


def test_rows_that_do_not_fit_are_refused(tiny_config):
    with pytest.raises(ConfigError, match="must be a multiple of"):
        tiny_config(train__global_batch_tokens=100)
    with pytest.raises(ConfigError, match="max_seq_len"):
        tiny_config(data__seq_len=64)
    with pytest.raises(ConfigError, match="max_seq_len"):
        tiny_config(eval__context=64)
    with pytest.raises(ConfigError, match="the config names no data"):
        resolve(tiny_config(data__path=None))
