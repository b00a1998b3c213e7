"""A run folder as a model to use."""

import math
import shutil

import pytest
import torch

import ladderlm
from ladderlm.checkpoint.layout import step_folder
from ladderlm.errors import CheckpointError, ConfigError
from ladderlm.generation.config import SamplingConfig
from ladderlm.run.execute import execute
from ladderlm.run.open import Writing, complete, load
from ladderlm.tokenizer.prompt import encode_prompt


@pytest.fixture(scope="module")
def made():
    return {}


@pytest.fixture
def run(made, tiny_config, tmp_path_factory):
    """A run of 12 steps with the checkpoints of 5, 10 and 12."""
    if not made:
        out = tmp_path_factory.mktemp("opened") / "run"
        made["folder"] = execute(tiny_config(checkpoint__keep=9, out=str(out)))
    return made["folder"]


def test_load_gives_model_tokenizer_and_config(run):
    found = ladderlm.load(run)
    assert found.step == 12
    assert not found.model.training
    logits = found.model(torch.tensor([found.tokenizer.encode("def step", bos=True)]))
    assert logits.dtype == torch.float32
    assert logits.shape[-1] == found.config.model.vocab_size == found.tokenizer.vocab_size


def test_a_step_may_be_named_and_an_unknown_one_is_refused(run):
    early, late = load(run, 5), load(run)
    assert early.step == 5
    assert not torch.equal(early.model.output.weight, late.model.output.weight)
    with pytest.raises(CheckpointError, match=r"no checkpoint 7") as caught:
        load(run, 7)
    assert "[5, 10, 12]" in str(caught.value)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="not a run folder"):
        load(tmp_path)


def test_a_damaged_newest_checkpoint_is_passed_over(run, tmp_path):
    """C10: opening falls back as resuming does."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    path = step_folder(copy / "checkpoints", 12) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    assert load(copy).step == 10
    with pytest.raises(CheckpointError, match="damaged"):
        load(copy, 12)


def test_another_tokenizer_in_the_folder_is_refused(run, tmp_path):
    """T17: same size, other merges."""
    from builders import make_records
    from ladderlm.tokenizer.train import save_tokenizer, train_bpe

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    other = train_bpe((r["text"] for r in make_records(100, seed=99)), 320)
    save_tokenizer(copy / "tokenizer", other, {})
    with pytest.raises(CheckpointError, match="not the tokenizer"):
        load(copy)


def test_an_empty_text_is_the_unconditional_prompt(run):
    """G01: BOS alone, defined and seeded."""
    found = load(run)
    (one,) = complete(found, [""], 10, SamplingConfig(seed=4))
    (two,) = ladderlm.generate(found, [""], 10, SamplingConfig(seed=4))
    assert one == two
    assert len(one[1].tokens) <= 10
    assert not {found.tokenizer.bos_id, found.tokenizer.eos_id} & set(one[1].tokens)


def test_a_prompt_longer_than_the_context_keeps_its_end(run):
    """G01: and BOS before it."""
    found = load(run)
    text = "def loss batch return " * 40
    greedy = SamplingConfig(temperature=0.0)
    ((_, completion, _),) = complete(found, [text], 5, greedy)
    prompt = encode_prompt(found.tokenizer, text, 31)
    # the context of 32 keeps 31 tokens of prompt, of which the last may be drawn anew
    assert len(completion.tokens) == 32 - len(prompt.tokens)
    ids = found.tokenizer.encode(text, bos=True)
    kept = [ids[0], *ids[-30:]]
    assert list(prompt.tokens) == kept[: len(prompt.tokens)]
    with torch.inference_mode():
        logits = found.model(torch.tensor([prompt.tokens]))[0, -1]
    allowed = list(prompt.first_ids or range(found.tokenizer.vocab_size))
    assert completion.tokens[0] == allowed[int(logits[allowed].argmax())]


@pytest.mark.parametrize("prompt", ["", "def", "<|end_of_text|>", "\x00", "🦙 emoji", "\n\n"])
def test_any_prompt_gives_valid_text_and_finite_log_probabilities(run, prompt):
    """G01: special names are plain text, bytes of an emoji may be cut."""
    ((text, completion, _),) = complete(load(run), [prompt], 8, writing=Writing(logprobs=True))
    text.encode("utf-8")
    assert all(math.isfinite(p) and p <= 0 for p in completion.log_probabilities)


def test_texts_of_a_batch_are_those_of_each_alone(run):
    """G03: through text and tokenizer."""
    found = load(run)
    prompts = ["def ", "", "return the loss"]
    together = complete(found, prompts, 12, SamplingConfig(seed=7))
    for i, prompt in enumerate(prompts):
        (alone,) = complete(found, [prompt], 12, SamplingConfig(seed=7 + i))
        assert alone[0] == together[i][0]


def test_unknown_names_of_the_package_are_refused():
    with pytest.raises(AttributeError, match="lodd"):
        ladderlm.lodd  # noqa: B018
    assert "load" in dir(ladderlm)


def test_negative_temperature_is_refused():
    with pytest.raises(ConfigError, match="temperature"):
        SamplingConfig(temperature=-1.0)
