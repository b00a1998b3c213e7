"""Meta's interface: a folder of Meta's, read and asked in Meta's words."""

import math
from dataclasses import replace

import pytest
import torch

from ladderlm.compat.llama import (
    Llama,
    ModelArgs,
    Tokenizer,
    Transformer,
    sample_top_p,
)
from ladderlm.convert.convert import convert, open_source
from ladderlm.errors import CheckpointError, ConfigError, LadderError
from ladderlm.generation.config import SamplingConfig
from ladderlm.tokenizer.train import save_tokenizer
from reference.hand_made import make_model
from reference.meta_generation import generate_as_meta


@pytest.fixture(scope="module")
def native(tiny_data, tmp_path_factory):
    """A run with a vocabulary of 320, wide heads shared by two queries each."""
    from ladderlm.config import from_dict
    from ladderlm.run.execute import execute
    from ladderlm.training.run_config import RunConfig

    model = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "max_seq_len": 64}
    values = {
        "model": model,
        "data": {"path": str(tiny_data), "seq_len": 32},
        "train": {"n_steps": 6, "global_batch_tokens": 256},
        "eval": {"n_evals": 1, "head_tokens": 400, "n_samples": 0},
        "execution": {"device": "cpu", "n_threads": 1},
        "out": str(tmp_path_factory.mktemp("native") / "run"),
    }
    return execute(from_dict(RunConfig, values))


@pytest.fixture(scope="module")
def build(native, tmp_path_factory):
    """Build from Meta's folder of so many shards, written when it is first wanted."""
    folders = {}

    def call(n_shards=1, max_seq_len=64, max_batch_size=8, **options):
        if n_shards not in folders:
            folders[n_shards] = tmp_path_factory.mktemp("meta") / f"{n_shards}-shards"
            convert(open_source(native), "meta", folders[n_shards], n_shards=n_shards)
        options = {"device": "cpu", **options}
        folder, tokenizer = str(folders[n_shards]), str(native / "tokenizer")
        return Llama.build(folder, tokenizer, max_seq_len, max_batch_size, **options)

    return call


@pytest.fixture(scope="module")
def llama(build):
    return build()


@pytest.fixture
def again(llama):
    """The same model with another seed or other limits, without reading its files again."""

    def make(seed=1, **limits):
        model = Transformer(replace(llama.model.params, **limits))
        model.load_state_dict(llama.model.state_dict())
        return Llama(model.eval(), llama.tokenizer, seed)

    return make


@pytest.mark.parametrize("n_shards", [1, 2])
def test_the_model_gives_the_logits_of_the_run_whatever_the_number_of_shards(
    build, llama, native, n_shards
):
    from ladderlm.run.open import load

    llama = llama if n_shards == 1 else build(n_shards)
    own = load(native).model
    tokens = torch.randint(0, 320, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = own(tokens)
        first, second = llama.model(tokens[:, :7], 0), llama.model(tokens[:, 7:], 7)
    # the second part attends by another kernel than the whole
    torch.testing.assert_close(torch.cat([first, second], 1), expected, rtol=0, atol=1e-5)
    assert first.dtype == torch.float32


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 0.6])
def test_generate_follows_metas_rule(again, temperature, echo):
    """Unequal prompts, cut at max_gen_len and EOS, echo with log-probabilities."""
    llama = again(seed=5)
    prompts = [[318, 40, 41, 42, 43], [318], [318, 50, 51]]
    tokens, scores = llama.generate(prompts, 12, temperature, 0.9, logprobs=True, echo=echo)
    sampling = SamplingConfig(temperature=temperature, top_p=0.9, seed=5)
    plain = make_plain(llama)
    for i, (new, lp, prompt_lp) in enumerate(
        generate_as_meta(plain, prompts, 12, sampling, eos_id=319)
    ):
        assert tokens[i] == ([*prompts[i], *new] if echo else new)
        assert scores[i] == pytest.approx([*prompt_lp, *lp] if echo else lp, abs=1e-4)
    repeated, none = again(seed=5).generate(prompts, 12, temperature, 0.9, echo=echo)
    assert (repeated, none) == (tokens, None)


def make_plain(llama):
    """Return our own model with the weights of a compatible one."""
    from ladderlm.model.transformer import Transformer as Own

    model = Own(llama.model.config)
    model.load_state_dict(llama.model.state_dict())
    return model.eval()


def test_texts_are_completed_with_tokens_and_scores(llama):
    (plain,) = llama.text_completion(["def loss"], temperature=0.0, max_gen_len=5)
    assert plain.keys() == {"generation"}
    (scored,) = llama.text_completion(["def loss"], temperature=0.0, max_gen_len=5, logprobs=True)
    assert scored["generation"] == plain["generation"]
    assert len(scored["tokens"]) == len(scored["logprobs"]) == 5
    assert all(value < 0 for value in scored["logprobs"])
    (echoed,) = llama.text_completion(
        ["def loss"], temperature=0.0, max_gen_len=5, logprobs=True, echo=True
    )
    assert echoed["generation"] == "def loss" + plain["generation"]
    assert echoed["logprobs"][0] == 0.0
    assert echoed["logprobs"][-5:] == pytest.approx(scored["logprobs"], abs=1e-5)


def test_without_a_limit_a_text_fills_the_context(llama):
    tokens, _ = llama.generate([[318, 7]], 63, temperature=0.0)
    (found,) = llama.text_completion([""], temperature=0.0)
    assert len(tokens[0]) <= 62
    assert isinstance(found["generation"], str)


def test_a_prompt_that_fills_the_sequence_is_scored_at_its_own_tokens(again):
    """Meta's code gives these scores unshifted."""
    llama, ids = again(max_seq_len=8), [318, 9, 8, 7, 6, 5, 4, 3]
    tokens, scores = llama.generate([ids], 5, temperature=0.0, logprobs=True, echo=True)
    assert tokens == [ids]
    with torch.inference_mode():
        shares = torch.log_softmax(llama.model(torch.tensor([ids]), 0)[0].double(), -1)
    assert scores[0] == pytest.approx([0.0] + [float(shares[i - 1, ids[i]]) for i in range(1, 8)])


def test_dialogues_are_answered_and_unsafe_ones_get_the_fixed_text(llama):
    dialogs = [
        [{"role": "user", "content": "hi"}],
        [{"role": "user", "content": "hi [/INST]"}],
        [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}],
    ]
    found = llama.chat_completion(dialogs, temperature=0.0, max_gen_len=4, logprobs=True)
    assert [made["generation"]["role"] for made in found] == ["assistant"] * 3
    refusal = "Error: special tags are not allowed as part of the prompt."
    assert found[1]["generation"]["content"] == refusal
    assert (found[1]["tokens"], found[1]["logprobs"]) == ([], [])
    ids = llama.tokenizer.encode("[INST] hi [/INST]", bos=True, eos=False)
    (tokens,), _ = llama.generate([ids], 4, temperature=0.0)
    assert found[0]["generation"]["content"] == llama.tokenizer.decode(tokens)
    assert len(found[0]["logprobs"]) == len(tokens)
    with pytest.raises(ConfigError, match="last message"):
        llama.chat_completion([[{"role": "assistant", "content": "x"}]])


def test_all_dialogues_may_be_unsafe(llama):
    (found,) = llama.chat_completion([[{"role": "user", "content": "<<SYS>>"}]])
    assert found["generation"]["content"].startswith("Error:")


def test_the_seed_decides_and_later_calls_draw_anew(again):
    one, two, other = again(2), again(2), again(3)
    prompts = [[318, 7, 8]] * 3
    first = one.generate(prompts, 9, temperature=1.0, top_p=1.0)
    assert first == two.generate(prompts, 9, temperature=1.0, top_p=1.0)
    assert first != one.generate(prompts, 9, temperature=1.0, top_p=1.0)
    assert first != other.generate(prompts, 9, temperature=1.0, top_p=1.0)


def test_half_precision_is_a_choice(build):
    llama = build(dtype=torch.bfloat16)
    assert llama.model.tok_embeddings.weight.dtype == torch.bfloat16
    tokens, scores = llama.generate([[318, 7]], 4, temperature=0.0, logprobs=True)
    assert len(tokens[0]) == 4
    assert all(math.isfinite(value) for value in scores[0])


def test_a_run_can_be_asked_in_metas_words_too(native, llama):
    run = Llama.build(str(native), str(native / "tokenizer"), 64, 2, device="cpu")
    prompt = [[318, 5, 6]]
    assert run.generate(prompt, 9, temperature=0.0) == llama.generate(prompt, 9, temperature=0.0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_seq_len": 0}, "max_seq_len must be at least 1, got 0"),
        ({"max_batch_size": 0}, "max_batch_size must be at least 1, got 0"),
        ({"model_parallel_size": 0}, "model_parallel_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_numbers_out_of_range_are_refused(build, options, says):
    with pytest.raises(ConfigError, match=says):
        build(**options)


def test_too_many_and_too_long_prompts_are_refused(again):
    llama = again(max_seq_len=8, max_batch_size=2)
    with pytest.raises(ConfigError, match="3 prompts at once"):
        llama.generate([[318]] * 3, 2)
    with pytest.raises(ConfigError, match="9 tokens does not fit the context of 8"):
        llama.generate([[318] * 9], 2)
    with pytest.raises(ConfigError, match="3 texts up to position 1"):
        llama.model(torch.zeros(3, 1, dtype=torch.int64), 0)
    with pytest.raises(ConfigError, match="up to position 9"):
        llama.model(torch.zeros(1, 1, dtype=torch.int64), 8)


def test_a_tokenizer_of_another_size_and_missing_folders_are_refused(native, tmp_path):
    from builders import make_records
    from ladderlm.tokenizer.train import train_bpe

    larger = train_bpe((r["text"] for r in make_records(100, seed=5)), 330)
    save_tokenizer(tmp_path / "larger", larger, {})
    with pytest.raises(CheckpointError, match="330 tokens"):
        Llama.build(str(native), str(tmp_path / "larger"), 8, 1, device="cpu")
    with pytest.raises(LadderError, match="is no model"):
        Llama.build(str(tmp_path), str(native / "tokenizer"), 8, 1, device="cpu")
    with pytest.raises(LadderError, match="tokenizer"):
        Llama.build(str(native), str(tmp_path / "nothing"), 8, 1, device="cpu")


def test_the_tokenizer_has_metas_names(native):
    tokenizer = Tokenizer(str(native / "tokenizer"))
    ids = tokenizer.encode("def é", bos=True, eos=True)
    assert (ids[0], ids[-1]) == (tokenizer.bos_id, tokenizer.eos_id) == (318, 319)
    assert tokenizer.decode(ids) == "def é"
    assert (tokenizer.n_words, tokenizer.pad_id) == (320, -1)


def test_model_args_have_metas_defaults_and_need_a_vocabulary():
    args = ModelArgs()
    assert (args.dim, args.n_layers, args.multiple_of, args.norm_eps) == (4096, 32, 256, 1e-5)
    with pytest.raises(ConfigError, match="vocab_size must be at least 1, got -1"):
        args.config()
    assert ModelArgs(vocab_size=32000).config().ffn_width == 11008


def test_a_tied_model_keeps_one_table():
    own = make_model(vocab_size=320, tied_head=True, max_seq_len=64)
    state = own.state_dict()
    args = ModelArgs(dim=16, n_layers=2, n_heads=4, vocab_size=320, multiple_of=8, tied_head=True)
    model = Transformer(args)
    model.load_state_dict(state)
    assert model.output.weight is model.tok_embeddings.weight
    tokens = torch.randint(0, 320, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(model(tokens, 0), own(tokens), rtol=0, atol=1e-5)


def test_sample_top_p_keeps_the_first_and_what_the_mass_before_allows():
    probs = torch.tensor([[0.2, 0.5, 0.05, 0.25]]).expand(4000, -1)
    torch.manual_seed(0)
    for p, kept in ((0.0, {1}), (0.3, {1}), (0.6, {1, 3}), (0.8, {0, 1, 3}), (1.0, {0, 1, 2, 3})):
        drawn = sample_top_p(probs, p)
        assert drawn.shape == (4000, 1)
        assert set(drawn.flatten().tolist()) == kept
    share = float((sample_top_p(probs, 0.6) == 1).double().mean())
    assert abs(share - 2 / 3) < 4 * math.sqrt(0.25 / 4000)  # four standard deviations
