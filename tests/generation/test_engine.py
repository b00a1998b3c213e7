"""Continuing prompts: with and without a cache, alone and in a batch, and where it ends."""

import math

import pytest
import torch

from ladderlm.errors import ConfigError
from ladderlm.generation.config import SamplingConfig
from ladderlm.generation.decoder import Decoder
from ladderlm.generation.sampling import sample_tokens
from reference.generation import generate
from reference.hand_made import make_model
from reference.meta_generation import generate_as_meta

PROMPTS = [[1, 20, 21, 22, 23, 24, 25, 26], [1], [1, 5, 9, 12, 30], [1, 7, 7]]
NEVER = frozenset({-1})


def scores_of(model, ids):
    """Score each token given those before it; the first is 0."""
    with torch.no_grad():
        shares = torch.log_softmax(model(torch.tensor([ids]))[0].double(), -1)
    return [0.0] + [float(shares[i - 1, ids[i]]) for i in range(1, len(ids))]


def without_cache(model, prompt, n_new, sampling, seed, stop):
    """Read the whole text again for every token."""
    ids, generator = list(prompt), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _ in range(n_new):
            logits = model(torch.tensor([ids]))[:, -1]
            uniform = torch.rand((), generator=generator, dtype=torch.float64).view(1)
            drawn = int(sample_tokens(logits, sampling, uniform))
            if drawn in stop:
                break
            ids.append(drawn)
    return ids[len(prompt) :]


@pytest.mark.parametrize("n_kv_heads", [None, 1])
@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_logits_with_a_cache_equal_logits_without(backend, n_kv_heads):
    """G03: whole, in pieces and one by one."""
    model = make_model(attention=backend, n_kv_heads=n_kv_heads).eval()
    tokens = torch.randint(0, 50, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(tokens)
        for pieces in ([20], [1] * 20, [7, 1, 5, 7]):
            caches, at = model.make_caches(3, 20), 0
            for n in pieces:
                found = model.step(tokens[:, at : at + n], caches, at)
                # two orders of summing float32
                torch.testing.assert_close(found, whole[:, at : at + n], rtol=0, atol=2e-5)
                at += n


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_texts_with_a_cache_equal_texts_without(temperature):
    """G03: same seed, same text."""
    model = make_model().eval()
    sampling = SamplingConfig(temperature=temperature, top_p=0.95, top_k=40, seed=11)
    for prompt in PROMPTS:
        (found,) = generate(model, [prompt], 25, sampling, frozenset({2}))
        assert found.tokens == without_cache(model, prompt, 25, sampling, 11, {2})


def test_texts_in_a_batch_equal_texts_alone():
    """G03: sequence i of a batch draws with seed + i, whatever stands beside it."""
    model = make_model().eval()
    together = generate(model, PROMPTS, 20, SamplingConfig(seed=3), frozenset({2, 17}))
    for i, prompt in enumerate(PROMPTS):
        (alone,) = generate(model, [prompt], 20, SamplingConfig(seed=3 + i), frozenset({2, 17}))
        assert together[i].tokens == alone.tokens
        assert together[i].stopped == alone.stopped
    assert len({tuple(c.tokens) for c in together}) == len(PROMPTS)


def test_the_seed_decides_the_text():
    model = make_model().eval()

    def text(seed):
        return generate(model, [[1]], 20, SamplingConfig(seed=seed), NEVER)[0].tokens

    torch.manual_seed(0)
    first = text(5)
    torch.manual_seed(1)
    assert text(5) == first
    assert text(6) != first


def test_sampling_does_not_disturb_the_random_state_of_training():
    """C16: texts written during a run change nothing."""
    model = make_model()
    before = torch.get_rng_state()
    generate(model, [[1]], 5, SamplingConfig(), NEVER)
    assert torch.equal(before, torch.get_rng_state())


def test_temperature_zero_takes_the_likeliest_token_for_any_seed():
    model = make_model().eval()
    texts = [
        generate(model, [[1, 5]], 9, SamplingConfig(temperature=0.0, seed=seed), NEVER)[0].tokens
        for seed in (1, 2)
    ]
    with torch.no_grad():
        likeliest = int(model(torch.tensor([[1, 5]]))[0, -1].argmax())
    assert texts[0] == texts[1]
    assert texts[0][0] == likeliest


def test_log_probabilities_are_those_of_the_unmodified_distribution():
    model = make_model().eval()
    sampling = SamplingConfig(temperature=0.5, top_k=3, seed=2)
    (found,) = generate(model, [[1, 5, 9]], 10, sampling, NEVER, logprobs=True)
    ids = [1, 5, 9, *found.tokens]
    with torch.no_grad():
        shares = torch.log_softmax(model(torch.tensor([ids]))[0].double(), -1)
    expected = [float(shares[2 + i, token]) for i, token in enumerate(found.tokens)]
    assert found.log_probabilities == pytest.approx(expected, abs=1e-4)


def chain_model():
    """Give a model whose likeliest next token is always the id plus one."""
    model = make_model(n_layers=1, dim=16, vocab_size=16)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0) if name.endswith("norm.weight") else weight.zero_()
        model.tok_embeddings.weight.copy_(torch.eye(16))
        model.output.weight.copy_(torch.eye(16).roll(1, 0))
    return model.eval()


GREEDY = SamplingConfig(temperature=0.0)


def test_a_stop_id_ends_a_text_and_is_left_out():
    found = generate(chain_model(), [[3], [5, 6], [9]], 4, GREEDY, frozenset({6, 8, 14}))
    assert [c.tokens for c in found] == [[4, 5], [7], [10, 11, 12, 13]]
    assert [c.stopped for c in found] == [True, True, False]


def test_a_stop_id_inside_a_prompt_does_not_end_it():
    found = generate(chain_model(), [[3], [5, 3, 8]], 2, GREEDY, frozenset({3, 5}))
    assert [c.tokens for c in found] == [[4], [9, 10]]


def test_a_text_ends_at_the_context_and_says_that_no_stop_was_met():
    (found,) = generate(chain_model(), [[i % 16 for i in range(60)]], 100, GREEDY, NEVER)
    assert found.tokens == [12, 13, 14, 15]
    assert not found.stopped


@pytest.mark.parametrize("n", [65, 1000])
def test_a_prompt_longer_than_the_context_is_refused_with_its_length(n):
    """G01: the model has no positions there."""
    with pytest.raises(ConfigError, match=f"{n} tokens does not fit the context of 64"):
        generate(chain_model(), [[1] * n], 5, GREEDY, NEVER)


def test_a_prompt_that_fills_the_context_gets_nothing_and_may_still_be_scored():
    """G01: as in Meta's code, but with the scores at their own tokens."""
    model, prompt = make_model().eval(), [1 + i % 40 for i in range(64)]
    (found,) = generate(model, [prompt], 5, GREEDY, NEVER, prompt_logprobs=True, logprobs=True)
    assert (found.tokens, found.stopped, found.log_probabilities) == ([], False, [])
    assert found.prompt_log_probabilities == pytest.approx(scores_of(model, prompt), abs=1e-4)


def test_the_longest_prompt_that_fits_gets_one_token():
    (found,) = generate(chain_model(), [[5] * 63], 5, GREEDY, NEVER)
    assert found.tokens == [6]


def test_an_empty_prompt_is_refused_and_no_prompt_gives_nothing():
    """G01: an unconditional text begins with BOS, which the caller adds."""
    with pytest.raises(ConfigError, match="a prompt must have at least one token"):
        generate(chain_model(), [[]], 5, GREEDY, NEVER)
    assert generate(chain_model(), [], 5, GREEDY, NEVER) == []


def test_no_new_tokens_are_no_new_tokens():
    found = generate(chain_model(), [[1], [2, 3]], 0, GREEDY, NEVER)
    assert [c.tokens for c in found] == [[], []]


def test_asking_to_stop_ends_with_what_there_is_and_calls_it_no_stop():
    """C05: a signal during sampling."""
    asked = []

    def should_stop():
        asked.append(1)
        return len(asked) > 3

    (found,) = generate(chain_model(), [[1]], 10, GREEDY, NEVER, should_stop)
    assert found.tokens == [2, 3, 4]
    assert not found.stopped


def test_frequencies_of_an_unconditional_text_follow_the_model():
    """A thousand first tokens after BOS, each from its own seed."""
    model = make_model(vocab_size=5, n_layers=1).eval()
    found = generate(
        model, [[1]] * 1000, 1, SamplingConfig(temperature=1.0, top_p=None, seed=0), NEVER
    )
    counts = torch.bincount(torch.tensor([c.tokens[0] for c in found]), minlength=5) / 1000
    with torch.no_grad():
        shares = torch.softmax(model(torch.tensor([[1]]))[0, -1], -1)
    # four standard deviations of a share of one half
    assert float((counts - shares).abs().max()) < 4 * math.sqrt(0.25 / 1000)


def test_the_first_token_is_drawn_among_those_allowed_and_the_others_are_free():
    """Prompts of unequal length, one of them without a limit."""
    model = make_model().eval()
    free = generate(model, PROMPTS, 6, SamplingConfig(seed=1), NEVER)
    limits = [[4, 44], None, [7], None]
    found = generate(model, PROMPTS, 6, SamplingConfig(seed=1), NEVER, first_ids=limits)
    assert found[0].tokens[0] in (4, 44)
    assert found[2].tokens[0] == 7
    assert set(found[2].tokens[1:]) != {7}
    for row in (1, 3):
        assert found[row].tokens == free[row].tokens
    greedy = generate(chain_model(), [[3]], 3, GREEDY, NEVER, first_ids=[[9, 4]])
    assert greedy[0].tokens == [4, 5, 6]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("max_gen_len", [1, 7, 30, 100])
@pytest.mark.parametrize("kind", ["model", "decoder"])
def test_batches_of_unequal_prompts_follow_metas_rule(kind, max_gen_len, temperature):
    """Decoding begins at the shortest prompt, prompts win, ends at EOS and max_gen_len."""
    model = make_model(n_kv_heads=2).eval()
    sampling = SamplingConfig(temperature=temperature, top_p=0.9, seed=4)
    expected = generate_as_meta(model, PROMPTS, max_gen_len, sampling, eos_id=17)
    stepper = model if kind == "model" else Decoder(model)
    found = generate(
        stepper,
        PROMPTS,
        max_gen_len,
        sampling,
        frozenset({17}),
        logprobs=True,
        prompt_logprobs=True,
    )
    assert [c.tokens for c in found] == [tokens for tokens, _, _ in expected]
    for completion, (_, scores, prompt_scores) in zip(found, expected, strict=True):
        assert completion.log_probabilities == pytest.approx(scores, abs=1e-4)
        assert completion.prompt_log_probabilities == pytest.approx(prompt_scores, abs=1e-4)


def test_log_probabilities_are_computed_only_when_asked_for(monkeypatch):
    """Meta's code always pays for them."""
    calls = []
    plain = torch.log_softmax
    monkeypatch.setattr(torch, "log_softmax", lambda *a, **k: calls.append(1) or plain(*a, **k))
    (found,) = generate(make_model().eval(), [[1, 5]], 5, GREEDY, NEVER)
    assert (found.log_probabilities, found.prompt_log_probabilities, calls) == (None, None, [])
    (found,) = generate(make_model().eval(), [[1, 5]], 5, GREEDY, NEVER, logprobs=True)
    assert found.prompt_log_probabilities is None
    assert len(found.log_probabilities) == len(calls) == 5


class Counting:
    """Pass everything on to a model and note the shape of what it reads."""

    def __init__(self, model):
        self.model, self.config, self.read = model, model.config, []

    def make_caches(self, batch, seq_len):
        return self.model.make_caches(batch, seq_len)

    def step(self, tokens, caches, start, last=False):
        self.read.append((*tokens.shape, start))
        return self.model.step(tokens, caches, start, last)


def test_samples_of_one_prompt_read_it_once_and_are_those_of_their_seeds():
    """G03: the shared cache is copied before the texts part."""
    model, prompt = make_model().eval(), [1, 5, 9, 12, 30]
    counting = Counting(model)
    found = generate(counting, [prompt] * 6, 9, SamplingConfig(seed=2), NEVER)
    assert counting.read[0] == (1, 5, 0)
    assert counting.read[1:] == [(6, 1, 5 + i) for i in range(8)]
    for i in range(6):
        (alone,) = generate(model, [prompt], 9, SamplingConfig(seed=2 + i), NEVER)
        assert found[i].tokens == alone.tokens
    assert len({tuple(c.tokens) for c in found}) == 6


def test_prompts_that_begin_alike_share_that_part():
    counting = Counting(make_model().eval())
    prompts = [[1, 6, 9], [1, 5], [1, 5, 9], [1, 5]]
    found = generate(counting, prompts, 4, SamplingConfig(seed=2), NEVER)
    assert counting.read[0] == (2, 2, 0)
    for i, prompt in enumerate(prompts):
        (alone,) = generate(make_model().eval(), [prompt], 4, SamplingConfig(seed=2 + i), NEVER)
        assert found[i].tokens == alone.tokens


def test_texts_that_have_ended_leave_the_batch_and_the_others_go_on_unchanged():
    counting = Counting(chain_model())
    found = generate(counting, [[3], [1], [2], [1]], 14, GREEDY, frozenset({4, 15}))
    assert [len(c.tokens) for c in found] == [0, 2, 1, 2]
    widths = [rows for rows, _, _ in counting.read]
    assert widths == [3, 4, 2]
    found = generate(chain_model(), [[3], [1], [2]], 12, GREEDY, frozenset({5}))
    assert [c.tokens for c in found] == [[4], [2, 3, 4], [3, 4]]


def test_a_watcher_sees_every_new_token_in_order_and_may_end_its_text():
    seen = []

    def watch(index, token):
        seen.append((index, token))
        return token == 7

    found = generate(chain_model(), [[5], [1, 2]], 3, GREEDY, frozenset({4}), watch=watch)
    assert seen == [(0, 6), (0, 7), (1, 3)]
    assert [(c.tokens, c.stopped) for c in found] == [([6, 7], True), ([3], True)]


def test_a_repetition_penalty_counts_the_prompt_and_the_text():
    """The chain stays below 10, so ids follow the order of the untouched logits."""
    model = make_model().eval()
    penalised = SamplingConfig(temperature=0.0, repetition_penalty=1e5)
    (found,) = generate(model, [[1, 5, 9]], 30, penalised, NEVER)
    whole = [1, 5, 9, *found.tokens]
    assert len(set(whole)) == len(whole)
    together = generate(model, PROMPTS, 20, penalised, NEVER)
    for i, prompt in enumerate(PROMPTS):
        (alone,) = generate(model, [prompt], 20, penalised, NEVER)
        assert together[i].tokens == alone.tokens


def test_ids_that_the_tokenizer_lacks_are_never_drawn():
    model = make_model().eval()
    sampling = SamplingConfig(temperature=5.0, seed=1)
    found = generate(model, [[1]] * 40, 10, sampling, NEVER, n_ids=7)
    assert {token for c in found for token in c.tokens} == set(range(7))
