"""A decoder that reads single tokens with C code compiled for this machine.

Owns `CompiledDecoder`, the call of the compiler, and the choice of a decoder for a model. PyTorch
reads the prompts, since its matrix multiplications are fast there. Single tokens of a few texts
are bound by reading weights and caches, which `kernel.c` does once for all of them.
"""

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ladderlm.config import require
from ladderlm.errors import ConfigError
from ladderlm.generation.decoder import Decoder, can_decode
from ladderlm.generation.engine import Stepper
from ladderlm.model.attention import LayerCache
from ladderlm.model.transformer import Transformer

__all__ = ["CompiledDecoder", "make_stepper"]

_SOURCE = Path(__file__).with_name("kernel.c")
_JOINED_WEIGHTS = 500_000_000
# No -ffast-math: sums must keep their order, so that a text has the same bits in any batch, and it
# makes the whole process, PyTorch included, flush small numbers to zero.
_FLAGS = "-O3 -march=native -fno-signed-zeros -fno-trapping-math -fno-math-errno -fopenmp".split()


class _Layer(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p)
        for name in "attention_norm qkv wo ffn_norm up w2 keys values".split()
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                "n_layers dim n_heads n_kv_heads head_dim ffn_dim vocab_size capacity n_threads "
                "text_stride position_stride head_stride"
            ).split()
        ),
        ("eps", ctypes.c_float),
        *(
            (name, ctypes.c_void_p)
            for name in "embeddings norm head turns layers x normed wide mixed scores".split()
        ),
    ]


@functools.cache
def _compile(half: bool) -> Any:
    """Compile the kernel, load it into this process and return its function."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise ConfigError(
            "--compile found no C compiler",
            fix="install gcc or clang, set CC, or leave --compile out",
        )
    types = ("-DWEIGHT=uint16_t", "-DHALF") if half else ("-DWEIGHT=float",)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "kernel.so"
        words = [compiler, *_FLAGS, *types, "-shared", "-fPIC", str(_SOURCE), "-o", str(out), "-lm"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ConfigError(
                f"{compiler} could not build the decoding kernel",
                done.stderr.strip()[-500:],
                "set CC to gcc or clang with OpenMP, or leave --compile out",
            )
        function = ctypes.CDLL(str(out)).step  # stays mapped after the file is deleted
    function.argtypes = [
        *(ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p),  # model, texts, tokens
        *(ctypes.c_int64, ctypes.c_void_p),  # position, logits
    ]
    function.restype = None
    return function


class CompiledDecoder(Decoder):
    """A `Decoder` that reads single tokens, of any number of texts, with compiled code.

    Args:
        model: on the CPU, with the SwiGLU MLP.
        dtype: float32 or bfloat16; None: the model's.

    Raises:
        ConfigError: the device, dtype or model is another one, or there is no compiler.
    """

    def __init__(self, model: Transformer, dtype: torch.dtype | None = None) -> None:
        wanted = model.tok_embeddings.weight.dtype if dtype is None else dtype
        fits = can_decode(model) and model.config.mlp == "swiglu"
        if not fits or model.tok_embeddings.weight.device.type != "cpu":
            raise ConfigError(
                "--compile needs a LLaMA model on the CPU (SwiGLU, no reference attention)",
                fix="leave --compile out",
            )
        known = wanted in (torch.float32, torch.bfloat16)
        require("the dtype with --compile", wanted, known, "be float32 or bfloat16")
        super().__init__(model, dtype)
        self._call = _compile(self.dtype == torch.bfloat16)
        self._caches: list[LayerCache] = []
        self._kept: list[Any] = []

    def step(
        self, tokens: Tensor, caches: list[LayerCache], start: int, last: bool = False
    ) -> Tensor:
        """Read T more tokens of every sequence; see `Decoder.step`."""
        n_rows, n_new = tokens.shape
        if n_new > 1:
            return super().step(tokens, caches, start, last)
        if caches is not self._caches:
            self._bind(caches)
        tokens, logits = tokens.contiguous(), torch.empty(n_rows, 1, self.config.vocabulary)
        model = ctypes.byref(self._model)
        self._call(model, n_rows, tokens.data_ptr(), start, logits.data_ptr())
        return logits

    def _bind(self, caches: list[LayerCache]) -> None:
        """Describe caches, buffers and weights to the kernel."""
        config, (n_rows, capacity, _, _) = self.config, caches[0].keys.shape
        n_all, n_threads = config.n_heads + 2 * config.kv_heads, torch.get_num_threads()
        strides = caches[0].keys.stride()
        assert {side.stride() for c in caches for side in (c.keys, c.values)} == {strides}
        sizes = {
            "x": n_rows * config.dim,
            "normed": n_rows * max(config.dim, config.ffn_width),
            "wide": n_rows * max(n_all * config.head_dim, 2 * config.ffn_width),
            "mixed": n_rows * config.n_heads * config.head_dim,
            "scores": n_threads * config.n_heads // config.kv_heads * capacity,
        }
        buffers = {name: torch.empty(size) for name, size in sizes.items()}
        layers = (_Layer * config.n_layers)()
        for place, weights, cache in zip(layers, self.layers, caches, strict=True):
            for name, weight in vars(weights).items():
                setattr(place, name, weight.data_ptr())
            place.keys, place.values = cache.keys.data_ptr(), cache.values.data_ptr()
        turns = torch.view_as_real(self.turns).contiguous()
        self._model = _Model(
            n_layers=config.n_layers,
            dim=config.dim,
            n_heads=config.n_heads,
            n_kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            ffn_dim=config.ffn_width,
            vocab_size=config.vocabulary,
            capacity=capacity,
            n_threads=n_threads,
            text_stride=strides[0],
            position_stride=strides[1],
            head_stride=strides[2],
            eps=config.norm_eps,
            embeddings=self.embeddings.data_ptr(),
            norm=self.norm.data_ptr(),
            head=self.head.data_ptr(),
            turns=turns.data_ptr(),
            layers=ctypes.addressof(layers),
            **{name: buffer.data_ptr() for name, buffer in buffers.items()},
        )
        self._caches, self._kept = caches, [layers, turns, buffers]  # pointers keep nothing alive


def make_stepper(
    model: Transformer, dtype: torch.dtype | None = None, compiled: bool = False
) -> Stepper:
    """Return the fastest reader of a model's tokens: a `Decoder`, or the model itself.

    A large model is its own reader unless another dtype is requested: joined matrices save calls,
    not arithmetic, and would double its memory.

    Args:
        dtype: dtype of weights and cache; None: the model's own.
        compiled: return a `CompiledDecoder`.

    Raises:
        ConfigError: a dtype is given for a model that `Decoder` does not implement, or
            `CompiledDecoder` raises.
    """
    if compiled:
        return CompiledDecoder(model, dtype)
    own = model.tok_embeddings.weight.dtype
    if can_decode(model):
        n_weights = sum(weight.numel() for weight in model.parameters())
        if dtype not in (None, own) or n_weights < _JOINED_WEIGHTS:
            return Decoder(model, dtype)
    elif dtype not in (None, own):
        raise ConfigError(
            f"the dtype of this model must be its own, {own}, got {dtype}",
            f"its own forward pass decodes it (model.attention = {model.config.attention})",
            "leave the dtype out",
        )
    return model
