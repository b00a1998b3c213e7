"""The model that a step runs through: the masters themselves, or a twin made for speed.

Owns half-precision compute copies of float32 master weights, autocast, and compilation. The
masters alone are saved, evaluated and moved by the optimizer; nothing outside a training step sees
the twin.
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
    """Weights in the precision of the products, and gradients given back to the masters.

    bf16 and fp16: products and the residual stream are of half precision; softmax, norm
    statistics, loss, gradients over micro-batches, optimizer and weights are float32. The copies
    are made once a step, where autocast would make them at every use. fp16 scales its loss.
    bf16-autocast: PyTorch's choice of dtypes, with a float32 residual stream.

    Args:
        master: float32 weights.
        precision: of the products.
        compiled: compile each layer, for static shapes.
        backend: of torch.compile.
        sharding: how the weights lie over processes; by default all are here.
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
            self.model.angles = angles  # positions need all their bits
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
        """Copy the masters, which the optimizer has moved, and the mode of the master."""
        self.model.train(self.master.training)
        if self.copies:
            with torch.no_grad():
                torch._foreach_copy_(self.copies, self.masters)

    @property
    def scale(self) -> float:
        """What every loss is multiplied by before its gradient is taken."""
        return 1.0 if self.loss_scale is None else self.loss_scale.value

    def hidden_and_head(
        self, tokens: Tensor, positions: Tensor | None, segment_ids: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Give `Transformer.hidden` and the head (V, D), both in the precision of the products."""
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
        """Compile before the first step, so that what cannot be compiled stops nothing later.

        Args:
            once: forward and backward of the shapes of a step; its gradients are dropped.
            cache: folder where compiled code is kept from run to run, unless the environment names
                another.

        Raises:
            ConfigError: the layers cannot be compiled here.
        """
        os.environ.setdefault(CACHE_VARIABLE, str(cache.resolve()))
        from torch._dynamo.exc import TorchDynamoException

        try:
            with warnings.catch_warnings():  # torch warns of what it does itself
                warnings.simplefilter("ignore")
                once()
        except (TorchDynamoException, RuntimeError, OSError) as error:
            if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
                raise  # another trouble than compiling
            first = str(error).strip().splitlines() or [type(error).__name__]
            raise ConfigError(
                f"the layers could not be compiled: {first[0]}",
                "nothing has been trained yet",
                "set execution.compile to 'off'",
            ) from error
        for model in (self.master, self.model):
            model.zero_grad(set_to_none=True)


def find_cpp_compiler() -> str | None:
    """Give the C++ compiler that torch.compile needs on a CPU; None if there is none."""
    names = (os.environ.get("CXX", ""), "g++", "clang++", "c++")
    return next((found for name in names if name and (found := shutil.which(name))), None)
