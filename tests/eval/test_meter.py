"""The document meter: every token once, every byte counted, EOS apart."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ladderlm.errors import ConfigError, DataError
from ladderlm.eval.config import Policy
from ladderlm.eval.meter import (
    Scoring,
    head_documents,
    make_windows,
    meter_documents,
    score_documents,
)
from ladderlm.eval.subsets import summarise
from ladderlm.tokenizer.bpe import BytePairTokenizer
from ladderlm.watch import Watch
from reference.byte_counter import ByteCounter
from reference.hand_made import make_model, make_split, weights_of
from reference.transformer import reference_logits, reference_nats

BOS, EOS = 1, 2
# float32 model against float64 twin: a sum over some 60 tokens
CLOSE = 1e-4


@st.composite
def policies(draw):
    context = draw(st.integers(2, 40))
    return Policy(context=context, stride=draw(st.integers(1, context)))


@given(n_tokens=st.integers(2, 150), policy=policies())
def test_windows_score_every_target_exactly_once_with_the_context_promised(n_tokens, policy):
    windows = make_windows(7, n_tokens, policy)
    scored = []
    for window in windows:
        assert window.document == 7
        assert 0 < window.n_tokens <= policy.context
        assert 0 <= window.n_context < window.n_tokens
        if window.start:  # all but a document's head has at least this much to look back on
            assert window.n_context >= policy.context - policy.stride
        scored += range(window.start + window.n_context, window.start + window.n_tokens)
    assert scored == list(range(n_tokens - 1))


def documents_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [[BOS, *rng.integers(3, 50, n).tolist(), EOS] for n in lengths]


def naive_nats(model, document, policy):
    """Score each target in a forward pass of its own, with the context its window gives it."""
    weights = weights_of(model)
    nats = []
    for window in make_windows(0, len(document), policy):
        ids = document[window.start : window.start + window.n_tokens + 1]
        logits = reference_logits(weights, model.config, ids[:-1])
        nats += reference_nats(logits, ids[1:])[window.n_context :]
    return nats


@pytest.mark.parametrize(("context", "stride"), [(64, 64), (8, 8), (8, 3), (2, 1)])
def test_nats_of_each_document_equal_the_slow_twin(context, stride, tmp_path):
    model = make_model(n_layers=1)
    documents = documents_of([0, 1, 6, 7, 8, 20])
    split = make_split(tmp_path, documents)
    policy = Policy(context=context, stride=stride)
    losses = score_documents(model, split, np.arange(6), policy, Scoring(40))
    for i, document in enumerate(documents):
        nats = naive_nats(model, document, policy)
        assert losses.nats[i] == pytest.approx(sum(nats[:-1]), abs=CLOSE)
        assert losses.eos_nats[i] == pytest.approx(nats[-1], abs=CLOSE)
    assert losses.n_tokens.tolist() == [0, 1, 6, 7, 8, 20]


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(0, 70), min_size=1, max_size=6),
    policy=policies(),
    batch_tokens=st.integers(1, 400),
)
def test_a_uniform_model_pays_the_same_for_every_token_under_any_policy(
    tmp_path, lengths, policy, batch_tokens
):
    model = make_model(n_layers=1)
    torch.nn.init.zeros_(model.output.weight)
    n_bytes = [2 * n + 1 for n in lengths]
    split = make_split(tmp_path, documents_of(lengths), n_bytes)
    everything = np.arange(len(lengths))
    losses = score_documents(model, split, everything, policy, Scoring(batch_tokens))
    np.testing.assert_allclose(losses.nats, np.array(lengths) * math.log(50), rtol=1e-6)
    np.testing.assert_allclose(losses.eos_nats, math.log(50), rtol=1e-6)
    assert losses.n_bytes.tolist() == n_bytes
    summary = summarise(losses, with_interval=False)
    assert summary["loss"] == pytest.approx(math.log(50), rel=1e-6)
    by_hand = sum(lengths) * math.log2(50) / sum(n_bytes)
    assert summary["bits_per_byte"] == pytest.approx(by_hand, rel=1e-6)


def cast(model, precision):
    """Turn the weights into another dtype; angles stay float32 beside half precision."""
    if precision == torch.float64:
        return model.double()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(precision)
    return model


class Share:
    """One process of several, as the meter sees it; what it would receive is added up later."""

    def __init__(self, rank, world_size):
        self.rank, self.world_size = rank, world_size

    def sum_array(self, array):
        return array


def nats_of_shares(model, split, ids, policy, world_size):
    parts = [
        score_documents(model, split, ids, policy, Scoring(100, processes=Share(rank, world_size)))
        for rank in range(world_size)
    ]
    assert all(part.nats.any() for part in parts)
    return np.array([sum(part.nats for part in parts), sum(part.eos_nats for part in parts)])


@pytest.mark.parametrize(
    ("precision", "close"),
    [(torch.float64, 1e-9), (torch.float32, 1e-6), (torch.bfloat16, 1e-4)],
)
@pytest.mark.parametrize("policy", [Policy(context=16, stride=5), Policy(context=32, stride=32)])
def test_batches_packing_and_processes_do_not_change_the_result(precision, close, policy, tmp_path):
    """Bounds are on sums over documents, which is what is reported; T04."""
    rng = np.random.default_rng(1)
    lengths = [30, 3, 55, 0, 17, 9, 1, 120, *rng.integers(0, 60, 16).tolist()]
    model = cast(make_model(), precision)
    split = make_split(tmp_path, documents_of(lengths))
    ids = np.arange(len(lengths))
    found = [
        np.array([losses.nats, losses.eos_nats])
        for packing in ("rows", "packed")
        for batch_tokens in (1, 50, 10**6)
        for losses in [score_documents(model, split, ids, policy, Scoring(batch_tokens, packing))]
    ]
    found += [nats_of_shares(model, split, ids, policy, n) for n in (2, 3)]
    sums = np.array([values.sum(axis=1) for values in found])
    assert (np.abs(sums / sums[0] - 1) <= close).all(), np.abs(sums / sums[0] - 1).max()
    if precision != torch.bfloat16:  # each document holds what the sum does, too
        np.testing.assert_allclose(found, [found[0]] * len(found), rtol=4 * close)


@settings(max_examples=30)
@given(
    texts=st.lists(st.text(max_size=60), min_size=1, max_size=5),
    policy=policies(),
    batch_tokens=st.integers(1, 400),
    packing=st.sampled_from(["rows", "packed"]),
)
def test_every_byte_of_every_text_is_scored_exactly_once(
    tiny_tokenizer, tmp_path, texts, policy, batch_tokens, packing
):
    """D10: whatever Unicode the text holds, strings that look like control tokens included."""
    texts.append("</s><|end_of_text|> caf\u00e9 \U0001f389")
    raw = [text.encode("utf-8") for text in texts]
    documents = [tiny_tokenizer.encode(text, bos=True, eos=True) for text in texts]
    split = make_split(tmp_path, documents, list(map(len, raw)))
    counter = ByteCounter(tiny_tokenizer, policy.context)
    losses = meter_documents(
        counter, split, np.arange(len(texts)), policy, Scoring(batch_tokens, packing)
    )
    assert losses.nats.tolist() == list(map(len, raw)) == losses.n_bytes.tolist()
    assert not losses.eos_nats.any()
    assert counter.longest_row <= policy.context


def uniform_over_bytes(precision):
    """Build a byte tokenizer and a model that gives each of its 256 bytes the same chance.

    Every layer adds nothing, every embedding is the same, so the stream before the head is one
    constant vector h. Rows of bytes in the head are 0, so their logits are equal; rows of BOS and
    EOS are -20 h, and exp(-20 |h|^2) is lost beside 256 in float32 and float64 alike.
    """
    tokenizer = BytePairTokenizer({bytes([byte]): byte for byte in range(256)})
    model = make_model(n_layers=2, vocab_size=tokenizer.vocab_size)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("wo.weight", "w2.weight")):
                weight.zero_()
        model.tok_embeddings.weight.fill_(1.0)
        constant = model.hidden(torch.zeros(1, 1, dtype=torch.int64))[0, 0]
        model.output.weight.zero_()
        model.output.weight[256:] = -20 * constant
    return tokenizer, cast(model, precision)


@pytest.mark.parametrize(("precision", "close"), [(torch.float64, 1e-15), (torch.float32, 1e-7)])
@pytest.mark.parametrize("packing", ["rows", "packed"])
@pytest.mark.parametrize("policy", [Policy(context=64, stride=64), Policy(context=9, stride=4)])
def test_a_uniform_byte_model_gives_8_bits_per_byte(precision, close, packing, policy, tmp_path):
    tokenizer, model = uniform_over_bytes(precision)
    texts = ["def f(x):\n    return x\n", "caf\u00e9 \U0001f389", "\x00", "a" * 300]
    documents = [tokenizer.encode(text, bos=True, eos=True) for text in texts]
    n_bytes = [len(text.encode("utf-8")) for text in texts]
    split = make_split(tmp_path, documents, n_bytes, [0, 1, 0, 1])
    losses = score_documents(model, split, np.arange(4), policy, Scoring(packing=packing))
    summary = summarise(losses, with_interval=False)
    assert summary["bits_per_byte"] == pytest.approx(8.0, rel=close)
    assert summary["macro_bits_per_byte"] == pytest.approx(8.0, rel=close)
    for row in summary["subsets"].values():
        assert row["bits_per_byte"] == pytest.approx(8.0, rel=close)
    assert summary["n_bytes"] == summary["n_tokens"] == sum(n_bytes)


def test_a_window_longer_than_the_model_reads_is_refused(tmp_path):
    split = make_split(tmp_path, documents_of([5]))
    with pytest.raises(ConfigError, match="context 65 is longer than the model's 64"):
        score_documents(make_model(n_layers=1), split, np.arange(1), Policy(context=65, stride=65))


def test_a_token_id_that_the_model_does_not_know_is_refused(tmp_path):
    """T17: data of another tokenizer; D12."""
    split = make_split(tmp_path, [[BOS, 3, EOS], [BOS, 50, EOS]])
    with pytest.raises(DataError, match="token id 50 in split 'hand', vocabulary 50"):
        score_documents(make_model(n_layers=1), split, np.arange(2), Policy(context=8, stride=8))


def test_packed_windows_do_not_see_each_other(tmp_path):
    """T08: another first document leaves the loss of the second as it was, to the bit."""
    model, policy = make_model(), Policy(context=32, stride=32)
    split = make_split(tmp_path, documents_of([12, 11]))
    before = score_documents(model, split, np.arange(2), policy, Scoring(packing="packed"))
    (tmp_path / "other").mkdir()
    other = make_split(tmp_path / "other", [documents_of([12], 9)[0], documents_of([12, 11])[1]])
    after = score_documents(model, other, np.arange(2), policy, Scoring(packing="packed"))
    assert before.nats[0] != after.nats[0]
    assert before.nats[1] == after.nats[1]


def test_documents_come_back_in_the_order_asked_for(tmp_path):
    model = make_model(n_layers=1)
    split = make_split(tmp_path, documents_of([5, 9, 2, 7]), [10, 20, 30, 40], [0, 1, 0, 1])
    policy = Policy(context=64, stride=64)
    everything = score_documents(model, split, np.arange(4), policy)
    some = score_documents(model, split, np.array([3, 0]), policy)
    assert some.document_ids.tolist() == [3, 0]
    assert some.n_bytes.tolist() == [40, 10]
    assert some.subset_ids.tolist() == [1, 0]
    np.testing.assert_allclose(some.nats, everything.nats[[3, 0]], rtol=1e-6)


def test_the_meter_leaves_the_model_in_the_mode_it_found(tmp_path):
    """C16: dropout neither disturbs validation nor is disturbed by it."""
    model = make_model(n_layers=1, dropout=0.5).train()
    split = make_split(tmp_path, documents_of([9, 9]))
    policy = Policy(context=8, stride=8)
    state = torch.get_rng_state()
    one, two = (score_documents(model, split, np.arange(2), policy) for _ in range(2))
    assert model.training
    assert one.nats.tolist() == two.nats.tolist()
    assert torch.equal(state, torch.get_rng_state())


def test_a_check_may_end_the_meter_before_any_forward_pass(tmp_path):
    """C05: a signal does not wait for the last document."""
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    split = make_split(tmp_path, documents_of([20] * 8))
    with pytest.raises(KeyboardInterrupt):
        score_documents(
            make_model(n_layers=1),
            split,
            np.arange(8),
            Policy(context=8, stride=8),
            Scoring(8, watch=Watch(check)),
        )
    assert len(calls) == 3


def test_progress_reaches_the_number_of_windows(tmp_path):
    told = []
    split = make_split(tmp_path, documents_of([20, 3]))
    score_documents(
        make_model(n_layers=1),
        split,
        np.arange(2),
        Policy(context=8, stride=8),
        Scoring(8, watch=Watch(progress=lambda done, n_all: told.append((done, n_all)))),
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


@given(lengths=st.lists(st.integers(0, 60), min_size=1, max_size=20), n_tokens=st.integers(1, 500))
def test_the_head_is_fixed_in_order_and_within_its_budget(tmp_path, lengths, n_tokens):
    split = make_split(tmp_path, documents_of(lengths))
    head = head_documents(split, 10**6, n_tokens).tolist()
    own = [length + 2 for length in lengths]
    assert head == head_documents(split, 10**6, n_tokens).tolist()
    assert head == sorted(set(head))
    if all(own[i] > max(n_tokens // 4, 1) for i in range(len(own))):
        assert head == [own.index(min(own))]
    else:
        assert sum(own[i] for i in head) <= n_tokens
        assert all(own[i] <= n_tokens // 4 for i in head)
        left = [i for i in range(len(own)) if i not in head and own[i] <= n_tokens // 4]
        assert not left or sum(own[i] for i in head) + own[left[0]] > n_tokens


def test_the_head_does_not_look_past_the_documents_of_the_run(tmp_path):
    split = make_split(tmp_path, documents_of([5] * 10))
    assert head_documents(split, 3, 10**6).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "fields",
    [
        {"context": 1, "stride": 1},
        {"context": 8, "stride": 0},
        {"context": 8, "stride": 9},
        {"context": 8, "stride": 8, "n_documents": 0},
    ],
)
def test_a_policy_that_would_skip_or_repeat_tokens_is_refused(fields):
    with pytest.raises(ConfigError):
        Policy(**fields)


def test_a_policy_says_what_a_reader_must_know():
    assert "context 8, stride 8" in Policy(context=8, stride=8).words
    assert "no overlap" in Policy(context=8, stride=8).words
    assert "re-reads 5 tokens" in Policy(context=8, stride=3).words


def test_two_policies_have_two_names():
    names = {Policy(context=c, stride=s, n_documents=n).name for c, s, n in (
        (8, 8, None), (8, 4, None), (16, 8, None), (8, 8, 10),
    )}  # fmt: skip
    assert len(names) == 4
