"""`ladderlm bench` and `ladderlm profile`: one table each, and a trace."""

import json

import pytest
import torch

from ladderlm.bench import step as bench_module
from ladderlm.bench.peers import PlainGPT, PlainLlama
from ladderlm.bench.step import (
    WAYS,
    Measured,
    Workload,
    build,
    compare_ways,
    describe,
    measure_speed,
)
from ladderlm.config import to_dict
from ladderlm.model.accounting import count_params, train_flops_per_token
from ladderlm.model.config import ModelConfig
from ladderlm.run import peak as peak_module
from ladderlm.run.peak import measured_peak
from ladderlm.training.throughput import (
    Peaks,
    matmul_rate,
    peak_flops_per_second,
    peak_memory_bytes,
    throughput,
)

SHAPE = ModelConfig(dim=48, n_layers=2, n_heads=2, vocab_size=64, max_seq_len=32, multiple_of=16)
WORK = Workload(SHAPE, 32, 2)


def test_the_plain_models_have_the_products_of_ours():
    """The same work for all: matrices and head are as large, biases and positions aside."""
    wanted = count_params(SHAPE)
    for plain, extra in ((PlainGPT, 32 * 48), (PlainLlama, 0)):
        shapes = [p.numel() for p in plain(SHAPE).parameters() if p.ndim == 2]
        assert sum(shapes) == wanted.n_matmul + wanted.embedding + extra


def test_plain_llama_is_a_llama():
    """With our weights in the order of its halves it gives our loss."""
    from ladderlm.model.init import init_weights
    from ladderlm.model.loss import token_nats
    from ladderlm.model.transformer import Transformer

    ours, plain = Transformer(SHAPE), PlainLlama(SHAPE)
    init_weights(ours, 1)
    names = {"wq": "q", "wk": "k", "wv": "v", "wo": "out", "w1": "gate", "w3": "up", "w2": "down"}
    state = dict(plain.named_parameters())
    with torch.no_grad():
        for name, weight in ours.named_parameters():
            parts = name.split(".")
            if parts[0] != "layers":
                own = {"tok_embeddings": "embedding", "output": "head"}.get(parts[0], parts[0])
                state[f"{own}.weight"].copy_(weight)
                continue
            norms = {"attention_norm": "norm", "ffn_norm": "mlp_norm"}
            own = norms.get(parts[2]) or names[parts[3]]
            if own in ("q", "k"):  # pairs of channels to halves of a head
                weight = weight.view(2, 12, 2, 48).transpose(1, 2).reshape(48, 48)
            state[f"layers.{parts[1]}.{own}.weight"].copy_(weight)
        tokens = torch.randint(0, 64, (2, 33), generator=torch.Generator().manual_seed(0))
        hidden = ours.hidden(tokens[:, :-1])
        wanted = token_nats(hidden, ours.output.weight, tokens[:, 1:]).mean()
        torch.testing.assert_close(plain(tokens[:, :-1], tokens[:, 1:]), wanted)


@pytest.mark.parametrize("name", [name for name, way in WAYS.items() if not way.compiled])
def test_every_way_learns(name):
    """Eight updates on one batch; ways of one model begin with one loss."""
    contender = build(name, WORK)
    losses = [contender.update() for _ in range(8)]
    assert losses[-1] < 0.98 * losses[0]
    if name.startswith("ours"):
        assert losses[0] == pytest.approx(build("ours-plain", WORK).update(), rel=2e-3)


def test_numbers_of_the_table_are_those_of_the_times():
    """By hand: three rounds of two ways."""
    found = {
        "a": Measured(9.0, [2.0, 4.0, 2.0], [1.0, 2.0, 1.0], [5.0, 4.0, 3.0]),
        "b": Measured(1.0, [1.0, 1.0, 4.0], [1.0, 1.0, 1.0], [5.0, 4.0, 3.5]),
    }
    a, b = describe(found, {"a": 1e9, "b": 2e9}, WORK)
    assert (a["times_first"], a["times_first_cpu"], a["cpu_over_wall"]) == (1.0, 1.0, 0.5)
    assert (b["times_first"], b["times_first_cpu"], b["cpu_over_wall"]) == (2.0, 1.0, 1.0)
    assert (b["tokens_per_second"], b["slowest"], b["fastest"]) == (64.0, 16.0, 64.0)
    assert b["flops_per_second"] == train_flops_per_token(SHAPE, 32) * 64
    assert b["of_ceiling"] == pytest.approx(b["flops_per_second"] / 2e9)
    assert (a["first_step_seconds"], b["loss"]) == (9.0, 3.5)


def test_contenders_take_turns(monkeypatch):
    made = []
    build_one = bench_module.build

    def spying(name, work):
        contender = build_one(name, work)

        def update():
            made.append(name)
            return contender.update()

        return bench_module.Contender(name, contender.way, update)

    monkeypatch.setattr(bench_module, "build", spying)
    found, ceilings = compare_ways(["gpt", "ours"], WORK, 3, probe_seconds=0.001)
    assert made == ["gpt", "ours"] * 4
    assert [len(one.wall) for one in found.values()] == [3, 3]
    assert all(rate > 1e8 for rate in ceilings.values())


def test_the_speed_of_the_step_of_runs_is_its_flops_by_its_time(monkeypatch):
    """Updates are timed until they have taken a second; the first one is not counted."""
    clock = iter([0.0, 9.0, 10.0, 10.5, 20.0, 20.25, 30.0, 31.0])
    monkeypatch.setattr(bench_module.time, "monotonic", lambda: next(clock))
    n_threads = torch.get_num_threads()
    assert measure_speed(WORK, 1) == WORK.flops / 0.5
    assert torch.get_num_threads() == 1
    torch.set_num_threads(n_threads)


def test_one_table_is_printed(ladderlm):
    words = ["bench", "--rounds", "1", "--threads", "1", "--ways", "llama,ours", "--mask-documents"]
    text = ladderlm(*words).out
    for part in ("2,048 tokens", "llama", "ours", "of ceiling", "CPU/wall"):
        assert part in text
    found = ladderlm(*words, "--optimizer", "muon", "--json").json
    assert [row["way"] for row in found["ways"]] == ["llama", "ours"]
    assert found["mask_documents"]
    assert found["optimizer"] == "muon"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bench", "--ways", "fast"], "a way must be one of gpt, "),
        (["bench", "--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["profile", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["profile", "--threads", "0"], "--threads must be at least 1, got 0"),
        (["profile", "--way", "x"], "ours-bf16"),
    ],
)
def test_what_cannot_be_measured_is_refused(words, message, ladderlm):
    said = ladderlm(*words)
    assert said.code == 2
    assert message in said.err


def test_a_profile_of_a_runs_shape_writes_a_table_and_a_trace(ladderlm, tiny_config, tmp_path):
    config = tiny_config(model__vocab_size=320, execution__micro_batch_seqs=4)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(json.dumps(to_dict(config)))
    trace = tmp_path / "trace.json"
    words = ["profile", str(tmp_path / "run"), "--steps", "1", "--out", str(trace)]
    found = ladderlm(*words, "--json").json
    assert sum(kind["share"] for kind in found["kinds"]) == pytest.approx(1.0)
    assert "matrix multiplications" in {kind["name"] for kind in found["kinds"]}
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert "aten::mm" in names
    assert "matrix multiplications" in ladderlm(*words).out


def test_the_peak_is_measured_once_for_each_machine_and_dtype(monkeypatch, tmp_path):
    monkeypatch.setenv("LADDERLM_CACHE", str(tmp_path))
    rates = iter([7.0, 8.0, 9.0])
    monkeypatch.setattr(peak_module, "matmul_rate", lambda *_: next(rates))
    assert measured_peak("cpu A", "cpu", "float32") == 7.0
    assert measured_peak("cpu A", "cpu", "float32") == 7.0
    assert measured_peak("cpu A", "cpu", "bf16") == 8.0
    (tmp_path / "peaks.json").write_text("{torn")
    assert measured_peak("cpu A", "cpu", "float32") == 9.0


@pytest.mark.parametrize("precision", ["bf16", "bf16-autocast", "fp16"])
def test_the_data_sheet_knows_half_precision_on_tensor_cores(precision):
    assert peak_flops_per_second("NVIDIA H200", precision) == pytest.approx(989.4e12)
    assert peak_flops_per_second("Tesla T4", "float32") == pytest.approx(8.1e12)
    assert peak_flops_per_second("some other card", precision) is None


def test_utilisation_by_hand():
    peaks = Peaks(1e12, 4e12)
    found = throughput(2.0, 1000, 1e12, peaks, recomputed=0.5e12)
    assert (found["mfu"], found["mfu_datasheet"], found["hfu"]) == (0.5, 0.125, 0.75)
    assert found["tokens_per_second"] == 500
    assert "hfu" not in throughput(2.0, 1000, 1e12, Peaks(1e12))
    assert throughput(2.0, 1000, 1e12, Peaks(1e12))["mfu_datasheet"] is None
    assert 1e8 < matmul_rate("cpu", torch.float32, 0.01) < 1e14
    assert 5e7 < peak_memory_bytes("cpu") < 1e12
