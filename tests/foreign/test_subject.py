"""Foreign models on our meter: the loss of transformers itself, every byte, every document."""

import importlib.util
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builders import write_jsonl
from ladderlm.errors import CheckpointError, ConfigError
from ladderlm.eval.config import EvaluationRequest, Policy
from ladderlm.eval.evaluate import Material
from ladderlm.eval.evaluate import evaluate as evaluate_subject
from ladderlm.eval.meter import Scoring
from ladderlm.eval.texts import Texts, read_texts
from ladderlm.files import read_json
from ladderlm.foreign.causal_lm import Framing
from ladderlm.foreign.hub import ForeignModel
from ladderlm.foreign.subject import ForeignSubject, score_texts
from reference.byte_counter import ByteCounter
from reference.causal_lm import END, plain_nats, write_causal_lm

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="needs transformers [interop]"
)
TEXTS = [
    "def f(x): return the loss",
    f"a {END} in a text is text",
    "x",
    "caf\u00e9 caf\u0065\u0301 \U0001f389 " * 3,
    " the model of a layer\n",
]


@pytest.fixture
def corpus(tmp_path):
    """Five texts in two subsets."""
    records = [{"text": t, "meta": {"pile_set_name": "ab"[i % 2]}} for i, t in enumerate(TEXTS)]
    return write_jsonl(tmp_path / "val.jsonl", records)


def evaluate(folder, corpus, tmp_path, **request):
    asked = EvaluationRequest(**request)
    subject = ForeignSubject(ForeignModel("theirs", folder), tmp_path / "evals")
    texts = read_texts(corpus, asked.split, asked.max_documents)
    return evaluate_subject(subject, Material.from_texts(texts), asked)


def plain_ids(folder, text):
    """Encode with the `tokenizers` library alone, where control words of a text stay text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer.encode(text, add_special_tokens=False).ids, tokenizer.token_to_id(END)


@pytest.mark.parametrize("kind", ["gpt2", "neox"])
@pytest.mark.parametrize(("context", "stride"), [(64, 64), (7, 7), (9, 4)])
def test_nats_are_those_of_plain_forward_passes_of_transformers(
    kind, context, stride, corpus, tmp_path
):
    folder = write_causal_lm(tmp_path / kind, kind)
    found = evaluate(folder, corpus, tmp_path, context=context, stride=stride, batch_tokens=20)
    for i, text in enumerate(TEXTS):
        ids, end = plain_ids(folder, text)
        assert end not in ids
        nats = plain_nats(folder, [end, *ids, end], context, stride)
        assert found.losses.nats[i] == pytest.approx(sum(nats[:-1]), rel=1e-5)
        assert found.losses.eos_nats[i] == pytest.approx(nats[-1], rel=1e-5)
        assert found.losses.n_tokens[i] == len(ids)
        assert found.losses.n_bytes[i] == len(text.encode())
    total = sum(len(text.encode()) for text in TEXTS)
    assert found.summary["bits_per_byte"] == pytest.approx(
        math.fsum(found.losses.nats) / (math.log(2) * total)
    )
    assert found.summary["text"] == {
        "begins": "bos",
        "begin_token": END,
        "end_token": END,
        "n_changed_documents": 0,
        "n_changed_bytes": 0,
    }
    assert set(found.summary["subsets"]) == {"a", "b"}


def test_weights_in_bfloat16_are_read_in_float32(corpus, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = write_causal_lm(tmp_path / "gpt2", "gpt2")
    weights = load_file(folder / "model.safetensors")
    half = {name: weight.bfloat16() for name, weight in weights.items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    change_config(folder, dtype="bfloat16", torch_dtype="bfloat16")
    found = evaluate(folder, corpus, tmp_path)
    assert found.summary["precision"] == "float32"
    ids, end = plain_ids(folder, TEXTS[0])
    nats = plain_nats(folder, [end, *ids], 64, 64)
    assert found.losses.nats[0] == pytest.approx(sum(nats), rel=1e-5)


@pytest.mark.parametrize(("bos", "eos"), [(None, END), ("<s>", None), (None, None)])
def test_a_tokenizer_without_bos_or_eos_says_what_stands_for_it(bos, eos, corpus, tmp_path):
    folder = write_causal_lm(tmp_path / "gpt2", "gpt2", bos, eos)
    found = evaluate(folder, corpus, tmp_path)
    text = found.summary["text"]
    assert text["begins"] == ("bos" if bos else "eos" if eos else "none")
    assert (text["begin_token"], text["end_token"]) == (bos or eos, eos)
    n_tokens = read_json(folder / "config.json")["vocab_size"]
    for i, content in enumerate(TEXTS):
        ids, _ = plain_ids(folder, content)
        begin = 0  # the only control token, or "!" where there is none
        if bos or eos:
            nats = plain_nats(folder, [begin, *ids], 64, 64)
        else:  # nothing stands before the first token, which is charged as a blind guess
            nats = [math.log(n_tokens), *plain_nats(folder, ids, 64, 64)]
        assert len(nats) == len(ids) == found.losses.n_tokens[i]
        assert found.losses.nats[i] == pytest.approx(sum(nats), rel=1e-5)
    if eos is None:
        assert np.isnan(found.losses.eos_nats).all()
        total = math.fsum(found.losses.nats)
        assert found.summary["loss"] == pytest.approx(total / found.losses.n_tokens.sum())


def test_a_tokenizer_that_changes_texts_is_measured_on_raw_bytes_and_says_so(corpus, tmp_path):
    """NFC as Pythia has it: one text of five does not come back."""
    from tokenizers import normalizers

    folder = write_causal_lm(tmp_path / "neox", "neox", normalizer=normalizers.NFC())
    found = evaluate(folder, corpus, tmp_path)
    n_bytes = len(TEXTS[3].encode())
    assert found.summary["text"]["n_changed_documents"] == 1
    assert found.summary["text"]["n_changed_bytes"] == n_bytes
    assert found.losses.n_bytes[3] == n_bytes
    ids, end = plain_ids(folder, TEXTS[3])
    assert found.losses.nats[3] == pytest.approx(
        sum(plain_nats(folder, [end, *ids], 64, 64)), rel=1e-5
    )


def test_the_answer_is_stored_beside_and_never_in_the_model(corpus, tmp_path):
    folder = write_causal_lm(tmp_path / "gpt2", "gpt2")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    first, second = (evaluate(folder, corpus, tmp_path) for _ in range(2))
    assert (first.summary["reused"], second.summary["reused"]) == (False, True)
    assert first.path == second.path
    assert first.path.parent == tmp_path / "evals"
    assert second.summary["bits_per_byte"] == first.summary["bits_per_byte"]
    assert second.summary["text"] == first.summary["text"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not evaluate(folder, corpus, tmp_path, fresh=True).summary["reused"]
    assert not evaluate(folder, corpus, tmp_path, context=8).summary["reused"]
    (folder / "tokenizer_config.json").write_text('{"bos_token": null}')
    assert not evaluate(folder, corpus, tmp_path).summary["reused"]


def test_what_the_model_cannot_do_is_refused(corpus, tmp_path):
    folder = write_causal_lm(tmp_path / "gpt2", "gpt2")
    with pytest.raises(ConfigError, match="at most the 64"):
        evaluate(folder, corpus, tmp_path, context=65)
    for place in (folder / "evals", folder):
        with pytest.raises(ConfigError, match="is in the folder of the model"):
            ForeignSubject(ForeignModel("a", folder), place)
    with pytest.raises(ConfigError, match="--packing packed"):
        evaluate(folder, corpus, tmp_path, packing="packed")
    assert not (tmp_path / "evals").exists()


def change_config(folder, **changes):
    values = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps(values | changes))


HOSTILE = {
    "a billion layers": {"n_layer": 10**9, "num_hidden_layers": 10**9},
    "a huge vocabulary": {"vocab_size": 10**11},
    "strings": {"n_embd": "16", "hidden_size": "16"},
    "layers in words": {"num_hidden_layers": "two"},
    "a text config that is none": {"text_config": "x", "n_positions": None, "n_embd": -1},
    "no layers": {"n_layer": -1},
    "a layer less": {"n_layer": 1},
    "no such architecture": {"model_type": "nonesuch"},
    "code of its own": {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}},
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_config_that_asks_for_too_much_or_for_code_is_refused(fault, corpus, tmp_path):
    """I07, I01: before anything is allocated, and without running a line of the folder."""
    folder = write_causal_lm(tmp_path / "gpt2", "gpt2")
    canary = tmp_path / "canary"
    (folder / "own.py").write_text(f"open({str(canary)!r}, 'w')\n")
    change_config(folder, **HOSTILE[fault])
    with pytest.raises(CheckpointError):
        evaluate(folder, corpus, tmp_path)
    assert not canary.exists()


def test_pickles_are_not_opened_and_missing_weights_not_replaced(corpus, tmp_path):
    """I01."""
    from safetensors.torch import load_file, save_file

    folder = write_causal_lm(tmp_path / "gpt2", "gpt2")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "mlp.c_fc.weight" in name)
    save_file({k: v for k, v in weights.items() if k != name}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="its files hold"):
        evaluate(folder, corpus, tmp_path)
    extra = {"unrelated": torch.zeros(10**6)}
    rest = {k: v for k, v in weights.items() if k != name} | extra
    save_file(rest, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"it lacks \S*c_fc\.weight and holds unrelated"):
        evaluate(folder, corpus, tmp_path)
    old = {"transformer.h.0.attn.bias": torch.ones(1, 1, 4, 4)}  # a mask, as older versions saved
    save_file(weights | old, folder / "model.safetensors", metadata={"format": "pt"})
    assert evaluate(folder, corpus, tmp_path).summary["n_documents"] == 5
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        evaluate(folder, corpus, tmp_path)


@pytest.mark.parametrize("fault", ["index", "absolute", "address", "no map", "link", "header"])
def test_weights_are_read_from_plain_honest_files_of_the_folder_only(fault, corpus, tmp_path):
    """I03, I06: before transformers sees them."""
    folder = write_causal_lm(tmp_path / "gpt2", "gpt2")
    weights = folder / "model.safetensors"
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(weights.read_bytes())
    place = {"index": "../outside.safetensors", "absolute": str(outside), "address": "https://h/x"}
    if fault == "link":
        weights.unlink()
        weights.symlink_to(outside)
    elif fault == "header":
        weights.write_bytes(weights.read_bytes() + b"PK\x05\x06")
    else:
        table = {"weight_map": {"transformer.wte.weight": place.get(fault)}}
        table = {} if fault == "no map" else table
        (folder / "model.safetensors.index.json").write_text(json.dumps(table))
    with pytest.raises(CheckpointError) as caught:
        evaluate(folder, corpus, tmp_path)
    assert "transformers" not in caught.value.what


def test_a_model_that_looks_ahead_is_refused(corpus, tmp_path):
    """T08: BERT's head is no causal one unless it is told to be."""
    import transformers

    folder = write_causal_lm(tmp_path / "bert", "gpt2")
    n_tokens = read_json(folder / "config.json")["vocab_size"]
    config = transformers.BertConfig(
        vocab_size=n_tokens,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    model = transformers.BertLMHeadModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    model.save_pretrained(folder)
    with pytest.raises(CheckpointError, match="depends on tokens after it"):
        evaluate(folder, corpus, tmp_path)


class Frame(Framing):
    """Our own tokenizer as a foreign one."""

    def encode(self, texts, check):
        check()
        return [ids.tolist() for ids in self.tokenizer.encode_batch(texts)]

    def decode(self, ids):
        return self.tokenizer.decode(ids)

    def describe(self):
        return {}


@given(
    texts=st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=5),
    context=st.integers(2, 40),
    data=st.data(),
    frame=st.sampled_from([("bos", 0, 1), ("eos", 1, 1), ("bos", 0, None), ("none", None, None)]),
)
def test_every_byte_is_scored_exactly_once_under_every_frame(
    tiny_tokenizer, texts, context, data, frame
):
    policy = Policy(context=context, stride=data.draw(st.integers(1, context)))
    zeros = np.zeros(len(texts))
    given_texts = Texts("val", texts, zeros.astype(int), ("a",), len(texts), {}, zeros)
    scorer = ByteCounter(tiny_tokenizer, context)
    framing = Frame(tiny_tokenizer, *frame)
    losses, said = score_texts(scorer, framing, given_texts, policy, Scoring(50))
    raw = [len(text.encode()) for text in texts]
    assert losses.n_bytes.tolist() == raw
    if frame[0] == "none":
        firsts = [tiny_tokenizer.encode(text)[0] for text in texts]
        raw -= scorer.n_bytes[firsts] - math.log(scorer.vocab_size)
    np.testing.assert_allclose(losses.nats, raw)
    assert np.isnan(losses.eos_nats).all() == (frame[2] is None)
    assert said["n_changed_documents"] == 0
