"""The model that a step computes with: the masters themselves, or a faster twin.

Owns half-precision compute copies of float32 master weights, autocast, and compilation. Only the
masters are saved, evaluated and updated by the optimizer; only a training step uses the twin.
"""

import copy
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ladderlm.dist import ALONE
from ladderlm.errors import ConfigError
from ladderlm.model.transformer import Transformer
from ladderlm.training.config import Precision
from ladderlm.training.loss_scale import LossScale
from ladderlm.training.sharding import Sharding

__all__ = ["HALF_COPIES", "Compute", "find_cpp_compiler"]

HALF_COPIES = {"bf16": torch.bfloat16, "fp16": torch.float16}
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


class Compute:
    """Weights in the precision of matrix multiplications; gradients go to the masters.

    bf16 and fp16: matrix multiplications and the residual stream have half precision; softmax,
    norm statistics, loss, gradients over micro-batches, optimizer and weights are float32. The
    copies are made once per step; autocast would make them at every use. fp16 scales its loss.
    bf16-autocast: PyTorch's choice of dtypes, with a float32 residual stream.

    Args:
        master: float32 weights.
        precision: precision of matrix multiplications.
        compiled: compile each layer, for static shapes.
        backend: backend of torch.compile.
        sharding: distribution of the weights over processes; None: all are here.
    """

    def __init__(
        self,
        master: Transformer,
        precision: Precision = "float32",
        compiled: bool = False,
        backend: str = "inductor",
        sharding: Sharding | None = None,
    ) -> None:
        self.sharding = sharding or Sharding(ALONE)
        self.master = self.model = master
        self.masters: list[Tensor] = []
        self.copies: list[Tensor] = []
        self.autocast = precision == "bf16-autocast"
        self.loss_scale = LossScale() if precision == "fp16" else None
        half = HALF_COPIES.get(precision)
        if self.sharding.kind == "weights":
            return  # FSDP2 casts what it gathers
        if half is None and not compiled:
            return
        self.model = copy.deepcopy(master)
        if half is not None:
            angles = self.model.angles
            self.model.to(half)
            self.model.angles = angles  # positions need float32
            self.masters, self.copies = list(master.parameters()), list(self.model.parameters())
        else:
            for name, weight in master.named_parameters(remove_duplicate=False):
                place, _, leaf = name.rpartition(".")
                setattr(self.model.get_submodule(place), leaf, weight)
        if compiled:
            self.model.static_blocks = True
            for layer in self.model.layers:
                layer.compile(dynamic=False, fullgraph=True, backend=backend)

    def refresh(self) -> None:
        """Copy the updated masters, and whether they are in training mode."""
        self.model.train(self.master.training)
        if self.copies:
            with torch.no_grad():
                torch._foreach_copy_(self.copies, self.masters)

    @property
    def scale(self) -> float:
        """Factor on every loss before the backward pass."""
        return 1.0 if self.loss_scale is None else self.loss_scale.value

    def hidden_and_head(
        self, tokens: Tensor, positions: Tensor | None, segment_ids: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return `Transformer.hidden` and the head (V, D), in the matmul precision."""
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.autocast):
            hidden = self.model.hidden(tokens, positions, segment_ids)
        head = self.model.output.weight  # after the pass, in which FSDP2 has gathered it
        return (hidden.bfloat16(), head.bfloat16()) if self.autocast else (hidden, head)

    def collect(self) -> None:
        """Add the gradients of the copies to those of the masters, in float32."""
        for weight, twin in zip(self.masters, self.copies, strict=True):
            if twin.grad is not None:
                gradient = twin.grad.float()
                weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
                twin.grad = None

    def warm_up(self, once: Callable[[], object], cache: Path) -> None:
        """Compile before the first step, so that an error comes before anything is trained.

        Args:
            once: runs forward and backward with the shapes of a step; its gradients are dropped.
            cache: folder for compiled code of all runs, unless the environment names another.

        Raises:
            ConfigError: the layers cannot be compiled here.
        """
        os.environ.setdefault(CACHE_VARIABLE, str(cache.resolve()))
        from torch._dynamo.exc import TorchDynamoException

        try:
            with warnings.catch_warnings():  # torch warns about its own code
                warnings.simplefilter("ignore")
                once()
        except (TorchDynamoException, RuntimeError, OSError) as error:
            if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
                raise  # not a problem of the compiler
            first = str(error).strip().splitlines() or [type(error).__name__]
            message = f"the layers could not be compiled: {first[0]}"
            raise ConfigError(message, fix="set execution.compile to 'off'") from error
        for model in (self.master, self.model):
            model.zero_grad(set_to_none=True)


def find_cpp_compiler() -> str | None:
    """Return the C++ compiler that torch.compile needs on a CPU; None if there is none."""
    names = (os.environ.get("CXX", ""), "g++", "clang++", "c++")
    return next((found for name in names if name and (found := shutil.which(name))), None)
