"""The golden run: ten losses that move only when someone means them to."""

import pytest

from builders import write_jsonl
from ladderlm.config import from_dict
from ladderlm.prepare.prepare import PrepareConfig, prepare
from ladderlm.run.directory import RunDirectory
from ladderlm.run.execute import execute
from ladderlm.tokenizer.train import save_tokenizer, train_bpe
from ladderlm.training.run_config import NUMERICS_VERSION, RunConfig

GOLDEN_VERSION = 2
GOLDEN = [
    5.537578106,
    5.274446607,
    4.932225704,
    4.520424962,
    4.177032113,
    3.876381397,
    3.709320664,
    3.556641233,
    3.443437934,
    3.385079563,
]
# Other CPUs have other vector widths and other libraries of matrix products, so they add float32
# numbers in another order. Ten updates carry that to some 1e-6 of a loss; 1e-4 leaves room and is
# still far below any change of a formula, a seed, an order or a rate.
TOLERANCE = 1e-4


def golden_config(folder, **execution):
    """Make everything from nothing: text by arithmetic, a token a byte, a model of two layers."""
    for split, numbers in (("train", range(80)), ("val", range(100, 108))):
        texts = [f"{n} times {n} is {n * n}, " * (2 + n % 7) for n in numbers]
        records = [{"text": text, "meta": {"pile_set_name": "Sums"}} for text in texts]
        write_jsonl(folder / f"corpus/{split}.jsonl", records)
    save_tokenizer(folder / "tokenizer", train_bpe(["no merges"], 258), {})
    sources, tokenizer, out = (str(folder / name) for name in ("corpus", "tokenizer", "data"))
    prepare(PrepareConfig(sources=(sources,), tokenizer=tokenizer, out=out))
    return from_dict(
        RunConfig,
        {
            "model": {
                "dim": 32,
                "n_layers": 2,
                "n_heads": 4,
                "n_kv_heads": 2,
                "max_seq_len": 64,
                "dropout": 0.1,
            },
            "data": {"path": out, "seq_len": 64, "order_seed": 3},
            "optim": {"learning_rate": 0.01, "weight_decay": 0.1, "grad_clip": 0.5},
            "train": {"n_steps": 10, "global_batch_tokens": 512, "seed": 5, "log_every_steps": 1},
            "eval": {"n_evals": 1, "n_samples": 0},
            "execution": {"device": "cpu", "n_threads": 1, "micro_batch_seqs": 3, **execution},
            "out": str(folder / "run"),
        },
    )


@pytest.mark.parametrize("execution", [{"float32_matmul": "highest"}, {}])
def test_the_golden_run_gives_the_committed_losses(execution, tmp_path):
    """T15: if this fails, numbers of old runs can no longer be made again.

    By PyTorch's own products, and by whatever `auto` chooses on this machine: how a run is carried
    out moves no loss by more than the tolerance.
    """
    folder = execute(golden_config(tmp_path, **execution))
    losses = [row["loss"] for row in RunDirectory(folder).metrics("train")]
    shown = ",\n    ".join(f"{loss:.9f}" for loss in losses)
    assert losses == pytest.approx(GOLDEN, rel=TOLERANCE), (
        "The golden run has moved: the same config now gives other numbers. If that was not the "
        "aim, find out why. If it was, raise NUMERICS_VERSION in training/run_config.py, "
        "so that no old run is taken for a new one, set GOLDEN_VERSION here to the same number, "
        f"say so in the changelog, and commit these losses:\n    {shown},"
    )


def test_the_golden_losses_belong_to_the_numerics_version():
    assert GOLDEN_VERSION == NUMERICS_VERSION, (
        "NUMERICS_VERSION was changed without new golden losses, or the other way round"
    )
