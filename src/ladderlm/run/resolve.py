"""Fill in the options of a config before a run starts.

Owns the options that depend on data or machine: vocabulary, fingerprints, validation head,
checkpoints, device, threads, micro-batch. None of them depends on a clock or a cache.
"""

from dataclasses import replace

from ladderlm.data.shards import PreparedData, Split, open_data
from ladderlm.errors import ConfigError, DataError
from ladderlm.machine import count_cores, find_device, has_bfloat16
from ladderlm.model.config import AttentionBackend, ModelConfig
from ladderlm.optim.schedule import count_stable_steps
from ladderlm.training.config import ExecutionConfig, Precision
from ladderlm.training.run_config import RunConfig

__all__ = ["open_splits", "resolve", "resolve_attention", "resolve_precision"]

MICRO_BATCH_TOKENS = 8192
# From here on blocked attention was measured to be faster than PyTorch's CPU kernel; at 256 tokens
# they were equal, and with heads of 8 channels it was slower.
BLOCKED_FROM_TOKENS, BLOCKED_FROM_HEAD_DIM = 512, 32


def open_splits(config: RunConfig) -> tuple[PreparedData, Split, Split]:
    """Open the data and its training and validation splits, and check their hashes.

    Raises:
        ConfigError: the config names no data.
        DataError: the data is damaged, or not that of the config.
    """
    if config.data.path is None:
        raise ConfigError(
            "the config names no data", fix="add --data DIR (made by `ladderlm prepare`)"
        )
    data = open_data(config.data.path)
    eval_data = open_data(config.eval.path) if config.eval.path else data
    train, val = data.split(config.data.split), eval_data.split(config.eval.split)
    for what, stated, found in (
        ("data.fingerprint", config.data.fingerprint, train.fingerprint),
        ("eval.fingerprint", config.eval.fingerprint, val.fingerprint),
        (
            "data.tokenizer_fingerprint",
            config.data.tokenizer_fingerprint,
            data.tokenizer_fingerprint,
        ),
        ("the tokenizer of eval.path", data.tokenizer_fingerprint, eval_data.tokenizer_fingerprint),
    ):
        if stated is not None and stated != found:
            raise DataError(
                f"{what} is {stated[:12]} in the config and {found[:12]} in the data",
                "the run would train on other tokens than it began with",
                "set --data to the data of the config, or start a new run for the new data",
            )
    return data, train, val


def resolve(config: RunConfig, world_size: int = 1) -> RunConfig:
    """Return the config with every derived option filled in.

    Raises:
        ConfigError: this data or machine does not support an option.
    """
    data, train, val = open_splits(config)
    vocab_size = config.model.vocab_size or data.vocab_size
    if vocab_size < data.vocab_size:
        raise ConfigError(
            f"model.vocab_size must be at least {data.vocab_size}, the tokens of the data's "
            f"tokenizer, got {vocab_size}",
            fix="leave model.vocab_size out",
        )
    _check_warmup(config)
    n_evals = min(config.eval.n_evals, config.train.n_steps)
    execution = _resolve_execution(config, world_size)
    model = replace(config.model, vocab_size=vocab_size)
    attention = resolve_attention(model, config.data.seq_len, execution.device)
    precision = resolve_precision(config.train.precision, execution.device)
    return replace(
        config,
        model=replace(model, attention=attention),
        data=replace(
            config.data,
            fingerprint=train.fingerprint,
            tokenizer_fingerprint=data.tokenizer_fingerprint,
        ),
        train=replace(config.train, precision=precision),
        eval=replace(
            config.eval,
            fingerprint=val.fingerprint,
            n_evals=n_evals,
            context=config.eval_policy.context,
            stride=config.eval_policy.stride,
            head_tokens=config.eval.head_tokens or _head_tokens(config, n_evals),
        ),
        checkpoint=replace(config.checkpoint, every_steps=config.checkpoint_every_steps),
        execution=execution,
    )


def _check_warmup(config: RunConfig) -> None:
    """Check that an absolute warm-up leaves room for the rest of the schedule."""
    optim, n_steps = config.optim, config.train.n_steps
    cooled = optim.schedule == "wsd"
    room = count_stable_steps(optim, n_steps) if cooled else n_steps
    if optim.warmup_steps is not None and optim.warmup_steps > room:
        rest = f", {n_steps - room} of them the cooldown" if cooled else ""
        raise ConfigError(
            f"optim.warmup_steps = {optim.warmup_steps} of a run of {n_steps} steps{rest}",
            "the learning rate would never reach its peak",
            f"set optim.warmup_steps to at most {room}, or raise train.n_steps",
        )


def _head_tokens(config: RunConfig, n_evals: int) -> int:
    """Return the tokens of the validation head, whose FLOPs are a third of those of training."""
    n_positions = config.positions_after(config.train.n_steps)
    reread = config.eval_policy.context / config.eval_policy.stride
    return max(int(3 * config.eval.time_share * n_positions / ((n_evals + 1) * reread)), 1)


def _resolve_execution(config: RunConfig, world_size: int) -> ExecutionConfig:
    execution = config.execution
    device = find_device(execution.device, "execution.device")
    own_rows = -(-config.global_batch_seqs // world_size)
    rows = execution.micro_batch_seqs or max(1, MICRO_BATCH_TOKENS // config.data.seq_len)
    return replace(
        execution,
        device="cpu" if device == "cpu" else "cuda",
        n_threads=execution.n_threads or max(count_cores() // world_size, 1),
        micro_batch_seqs=min(rows, own_rows),
    )


def resolve_precision(asked: Precision, device: str) -> Precision:
    """Return the precision, auto replaced by bf16 if the device has its instructions.

    Otherwise auto is fp16 on a GPU, and float32 on a CPU, which would emulate half precision.

    Raises:
        ConfigError: the GPU has no bf16.
    """
    if asked == "auto":
        return "bf16" if has_bfloat16(device) else "fp16" if device == "cuda" else "float32"
    if device == "cuda" and asked in ("bf16", "bf16-autocast") and not has_bfloat16(device):
        import torch

        raise ConfigError(
            f"train.precision = {asked!r}, but {torch.cuda.get_device_name()} has no bfloat16",
            "it would be emulated, slower than float32",
            "set train.precision to 'fp16' (its loss is scaled) or 'float32'",
        )
    return asked


def resolve_attention(model: ModelConfig, seq_len: int, device: str) -> AttentionBackend:
    """Return the attention backend, auto replaced according to device and shape.

    Raises:
        ConfigError: the backend is blocked on a GPU, or flex on a CPU.
    """
    asked = model.attention
    if device == {"blocked": "cuda", "flex": "cpu"}.get(asked):
        raise ConfigError(
            f"model.attention = {asked!r} on device {device!r}",
            "blocked attention is made for a CPU's cache, and FlexAttention has no backward pass "
            "on a CPU",
            "set model.attention to 'auto'",
        )
    if asked != "auto":
        return asked
    long = seq_len >= BLOCKED_FROM_TOKENS
    wide = model.head_dim >= BLOCKED_FROM_HEAD_DIM
    return "blocked" if device == "cpu" and long and wide else "sdpa"
