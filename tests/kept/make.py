"""Make the fixtures of this folder: data, runs, studies and evaluations of ladderlm 87e1e34.

They were made once, by that commit, and are kept as they came out: `test_kept.py` holds later code
against them. This file shows what is in them; it runs with that commit alone:

    git worktree add ../kept-by 87e1e34
    PYTHONPATH=../kept-by/src python tests/kept/make.py FOLDER

Everything is named relative to FOLDER. Left out are logs, requests, locks, compiled code, and the
checkpoints of the studies' runs, which neither fits nor reports need.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

COMMIT = "87e1e34"
WORDS = "the a of model loss token batch step rate layer def return for in print self".split()

RUN = """
[model]
dim = 8
n_layers = 2
n_heads = 2
max_seq_len = 32
dropout = 0.1

[data]
path = "data"
seq_len = 32
order_seed = 3

[optim]
learning_rate = 0.02

[train]
n_steps = 12
global_batch_tokens = 256
log_every_steps = 1
seed = 5
ema_decay = 0.9

[eval]
n_evals = 3
head_tokens = 300
n_samples = 1
sample_tokens = 8
sample_prompts = ["def "]

[checkpoint]
every_steps = 6
keep = 2

[execution]
device = "cpu"
n_threads = 1
micro_batch_seqs = 3
float32_matmul = "highest"
compile = "off"
"""

BASE = """
[base]
data = "data"
model = { dim = 16, n_layers = 1, n_heads = 2, max_seq_len = 32, multiple_of = 8 }
"data.seq_len" = 32
"train.global_batch_tokens" = 256
"train.log_every_steps" = 1000
"optim.learning_rate" = 0.03
"checkpoint.every_steps" = 1000
eval = { n_evals = 1, head_tokens = 300, n_samples = 0 }
execution = { device = "cpu", n_threads = 1, float32_matmul = "highest", compile = "off" }
"""

STUDY = f"""
name = "kept"
question = "Is SwiGLU better than GELU?"
rationale = "Five rungs, two seeds, a tuned baseline, one rung held out."
{BASE}
[ladder]
flops = [2.0e8, 3.96e8, 5.87e8, 1.31e9, 2.31e9]
tokens_per_param = 0.5
aspect_ratio = 16
min_updates = 10
seeds = [1, 2]
noise_seeds = 0
holdout = 1

[[arm]]
name = "swiglu"
tune = {{ "optim.learning_rate" = "bracket" }}

[[arm]]
name = "gelu"
hypothesis = "m below 1"
set = {{ "model.mlp" = "gelu" }}
"""

BRANCHES = f"""
name = "kept-lengths"
question = "The same, at two lengths of each size, with runs for the noise."
{BASE}
"optim.schedule" = "wsd"
"optim.warmup_steps" = 2

[ladder]
flops = [2.0e8, 3.96e8, 5.87e8]
tokens_per_param = 0.5
branches = [0.5, 1]
aspect_ratio = 16
min_updates = 10
seeds = [1]
noise_seeds = 2
holdout = 1

[[arm]]
name = "swiglu"

[[arm]]
name = "gelu"
set = {{ "model.mlp" = "gelu" }}
"""


def write_corpus() -> None:
    """Write the raw text: lines of few words, in two subsets."""
    for split, n, seed in (("train", 30, 1), ("val", 12, 2)):
        rng = random.Random(seed)
        lines = []
        for i in range(n):
            words = [" ".join(rng.choices(WORDS, k=8)) for _ in range(rng.randint(1, 12))]
            subset = "Prose" if i % 3 else "Code"
            text = f"{split} {i}: " + "\n".join(words) + "\n"
            lines.append(json.dumps({"text": text, "meta": {"pile_set_name": subset}}) + "\n")
        place = Path("corpus") / f"{split}.jsonl"
        place.parent.mkdir(exist_ok=True)
        place.write_text("".join(lines), encoding="utf-8")


def ladderlm(*words: str) -> None:
    """Run a command of that commit, and show it."""
    print("ladderlm", *words, file=sys.stderr, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LADDERLM_CACHE": ".cache"}
    command = [sys.executable, "-m", "ladderlm.cli.main", *words]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def stop_midway() -> None:
    """Train a run until SIGTERM comes after its eighth step; it saves and can be resumed."""
    from ladderlm.config import from_dict, read_config_file
    from ladderlm.errors import Stopped
    from ladderlm.run.execute import execute
    from ladderlm.training.run_config import RunConfig

    values = read_config_file("run.toml") | {"out": "stopped"}

    def observe(row: dict) -> None:
        if row["kind"] == "train" and row["step"] == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        execute(from_dict(RunConfig, values), observe=observe)
    except Stopped:
        return
    raise SystemExit("the run was not stopped")


def clean() -> None:
    """Leave out what depends on the place, and what no reader needs."""
    for name in (".cache", "runs/.compiled"):
        shutil.rmtree(name, ignore_errors=True)
    for study in ("study", "lengths"):
        for place in ("runs/.requests", "runs/.compiled", "executor", "figures"):
            shutil.rmtree(f"{study}/{place}", ignore_errors=True)
        for folder in Path(study, "runs").iterdir():
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            shutil.rmtree(folder / "tokenizer", ignore_errors=True)
    for path in list(Path().rglob("*")):
        if path.name in (".lock", "run.log") or path.suffix == ".lock":
            path.unlink()
        elif path.name == "environment.json":
            made = json.loads(path.read_text(encoding="utf-8"))
            names = [Path(w).name if w.startswith("/") else w for w in made["command"][1:]]
            made["command"] = ["ladderlm", *names]
            path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


def main(folder: str) -> None:
    """Make everything."""
    Path(folder).mkdir(parents=True)
    os.chdir(folder)
    os.environ["LADDERLM_CACHE"] = ".cache"
    write_corpus()
    ladderlm("tokenizer", "train", "corpus/train.jsonl", "--vocab-size", "280", "--out", "vocab")
    ladderlm("prepare", "corpus", "--tokenizer", "vocab", "--out", "data")
    for name, text in (("run", RUN), ("study", STUDY), ("lengths", BRANCHES)):
        Path(f"{name}.toml").write_text(text.lstrip(), encoding="utf-8")
    ladderlm("train", "--config", "run.toml", "--out", "run")
    stop_midway()
    ladderlm("eval", "run", "--split", "val", "--max-documents", "5")
    policy = ("--context", "16", "--stride", "8", "--checkpoint", "average")
    ladderlm("eval", "run", *policy)
    ladderlm("convert", "run", "--to", "hf", "--out", "foreign")
    ladderlm("eval", "foreign", "--data", "data", "--max-documents", "5", "--out", "evals")
    for name in ("study", "lengths"):
        ladderlm("study", "run", f"{name}.toml", "--out", name)
    clean()


if __name__ == "__main__":
    main(sys.argv[1])
