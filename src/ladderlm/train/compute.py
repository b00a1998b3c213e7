"""The model that a step runs through: the masters themselves, or a twin made for speed.

Owns bfloat16 compute copies of float32 master weights, and compilation. The masters alone are
saved, evaluated and moved by the optimizer; nothing outside a training step sees the twin.
"""

import copy
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ladderlm.errors import ConfigError
from ladderlm.model.transformer import Transformer

__all__ = ["Compute", "find_cpp_compiler"]

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


class Compute:
    """Weights in the precision of the products, and gradients given back to the masters.

    bf16: products and the residual stream are bfloat16; softmax, norm statistics, loss, gradients
    over micro-batches, optimizer and weights are float32. The copies are made once a step, where
    autocast would make them at every use.

    Args:
        master: float32 weights.
        precision: of the products.
        compiled: compile each layer, for static shapes.
        backend: of torch.compile.
    """

    def __init__(
        self,
        master: Transformer,
        precision: Literal["float32", "bf16"] = "float32",
        compiled: bool = False,
        backend: str = "inductor",
    ) -> None:
        self.master = self.model = master
        self.masters: list[Tensor] = []
        self.copies: list[Tensor] = []
        if precision == "float32" and not compiled:
            return
        self.model = copy.deepcopy(master)
        if precision == "bf16":
            angles = self.model.angles
            self.model.to(torch.bfloat16)
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
