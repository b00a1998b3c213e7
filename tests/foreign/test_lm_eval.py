"""Our runs as a model of lm-eval: its three questions against the plain way."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ladderlm.data.config import DataConfig
from ladderlm.errors import ConfigError
from ladderlm.eval.config import Policy
from ladderlm.eval.meter import score_documents
from ladderlm.foreign.lm_eval import Answers, encode_pair
from ladderlm.run.open import LoadedRun
from ladderlm.training.config import TrainConfig
from ladderlm.training.run_config import RunConfig
from reference.hand_made import make_model, make_split


@dataclass
class Asked:
    """A question as lm-eval asks it."""

    args: tuple


@pytest.fixture(scope="module")
def loaded(tiny_tokenizer):
    """A random model of 24 positions under the tokenizer of the tests."""
    n_tokens = tiny_tokenizer.vocab_size + 5
    model = make_model(vocab_size=n_tokens, max_seq_len=24, logit_softcap=2.0).eval()
    data, train = DataConfig(seq_len=24), TrainConfig(global_batch_tokens=24)
    config = RunConfig(model=model.config, data=data, train=train)
    return LoadedRun(model, tiny_tokenizer, config, 0)


def plain_score(run, ids, n_scored):
    """Add up the last targets one by one, each seeing as much as the model can hold."""
    with torch.inference_mode():
        logits = run.model(torch.tensor([ids[:-1]]))[0].double()
    shares = logits.log_softmax(-1)
    places = range(len(ids) - 1 - n_scored, len(ids) - 1)
    score = sum(float(shares[i, ids[i + 1]]) for i in places)
    return score, all(int(logits[i].argmax()) == ids[i + 1] for i in places)


PAIRS = [
    ("", "the loss"),
    ("the loss", " of a batch"),
    ("the loss ", "of a batch"),  # the space is a part of the word's token
    ("def f(x):\n\n  ", "return"),
    ("lo", "ss"),  # the border lies inside a token, if "loss" is one
    ("caf", "\u00e9 \U0001f389"),
    ("x" * 200, " tail"),  # cut from the left
    (" ", "a"),
]


def test_continuations_are_scored_as_the_plain_way_scores_them(loaded):
    answers = Answers(loaded, batch_tokens=50)
    found = answers.loglikelihood([Asked(pair) for pair in PAIRS])
    for (context, continuation), (score, greedy) in zip(PAIRS, found, strict=True):
        whole = loaded.tokenizer.encode(context + continuation, bos=True)
        bare = loaded.tokenizer.encode(context.rstrip(), bos=True)
        same = 0
        while same < min(len(whole), len(bare)) and whole[same] == bare[same]:
            same += 1
        n_scored = len(whole) - same
        expected = plain_score(loaded, whole[-25:], n_scored)
        assert score == pytest.approx(expected[0], rel=1e-4)
        assert greedy == expected[1]
    together = Answers(loaded).loglikelihood([Asked(pair) for pair in PAIRS])
    np.testing.assert_allclose([s for s, _ in together], [s for s, _ in found], rtol=1e-5)


@given(context=st.text(max_size=20), continuation=st.text(max_size=20))
def test_no_byte_of_a_continuation_is_left_out(tiny_tokenizer, context, continuation):
    ids, n_scored = encode_pair(tiny_tokenizer, context, continuation)
    scored = tiny_tokenizer.decode_bytes(ids[len(ids) - n_scored :])
    assert scored.endswith(continuation.encode())
    assert tiny_tokenizer.decode_bytes(ids) == (context + continuation).encode()
    assert len(ids) > n_scored  # BOS is never scored


def test_nothing_to_score_is_certain(loaded):
    found = Answers(loaded).loglikelihood([Asked(("", "")), Asked(("the", ""))])
    assert found == [(0.0, True), (0.0, True)]
    assert Answers(loaded).loglikelihood_rolling([Asked(("",))]) == [0.0]


def test_rolling_is_what_the_meter_measures_without_eos(loaded, tmp_path):
    texts = ["the loss of a batch " * n for n in (1, 4, 9)]
    documents = [loaded.tokenizer.encode(text, bos=True) for text in texts]
    split = make_split(tmp_path, documents)
    losses = score_documents(loaded.model, split, np.arange(3), Policy(context=24, stride=24))
    found = Answers(loaded, batch_tokens=30).loglikelihood_rolling([Asked((t,)) for t in texts])
    np.testing.assert_allclose(found, -(losses.nats + losses.eos_nats), rtol=1e-5)


def test_a_continuation_longer_than_the_context_is_scored_whole(loaded):
    text = "the loss of a batch " * 9
    (score, _), (alone,) = (
        Answers(loaded).loglikelihood([Asked(("", text))])[0],
        Answers(loaded).loglikelihood_rolling([Asked((text,))]),
    )
    assert score == pytest.approx(alone, rel=1e-5)


def plain_greedy(run, context, n_new, stop):
    """Write by whole forward passes, one token at a time, looking for a stop string each time."""
    ids = run.tokenizer.encode(context, bos=True)
    ids = ids[-max(24 - n_new, 12) :]
    new = []
    while len(new) < n_new and len(ids) + len(new) < 24:
        with torch.inference_mode():
            logits = run.model(torch.tensor([ids + new]))[0, -1, : run.tokenizer.vocab_size]
        token = int(logits.argmax())
        if token in (run.tokenizer.bos_id, run.tokenizer.eos_id):
            break
        new.append(token)
    text = run.tokenizer.decode_bytes(new, continued=True).decode("utf-8", "replace")
    ends = [text.index(word) for word in stop if word in text]
    return text[: min(ends)] if ends else text


def test_texts_are_written_greedily_up_to_a_stop_string(loaded):
    contexts = ["the loss", "", "def f(x):", "a model " * 30, "the loss"]
    whole = [plain_greedy(loaded, context, 10, []) for context in contexts]
    letters = [next((c for c in text[1:] if c.isalnum()), "\n") for text in whole]
    asked = [Asked((context, {"max_gen_toks": 10})) for context in contexts]
    assert Answers(loaded).generate_until(asked) == whole
    asked = [
        Asked((context, {"until": [letter, "\n\n"], "max_gen_toks": 10, "do_sample": False}))
        for context, letter in zip(contexts, letters, strict=True)
    ]
    stopped = [
        plain_greedy(loaded, context, 10, [letter, "\n\n"])
        for context, letter in zip(contexts, letters, strict=True)
    ]
    assert Answers(loaded).generate_until(asked) == stopped
    assert stopped != whole


def test_sampling_is_asked_for_and_unknown_options_are_refused(loaded):
    answers = Answers(loaded)
    options = {"do_sample": True, "temperature": 5.0, "seed": 3, "max_gen_toks": 10}
    one, two = (answers.generate_until([Asked(("the", options))]) for _ in range(2))
    assert one == two != answers.generate_until([Asked(("the", {"max_gen_toks": 10}))])
    with pytest.raises(ConfigError, match="num_beams"):
        answers.generate_until([Asked(("the", {"num_beams": 4}))])
