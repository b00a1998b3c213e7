"""`ladderlm doctor`: list what this machine has."""

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladderlm.cli.options import parse, print_json
from ladderlm.machine import find_device

__all__ = ["PARTS", "run"]

PARTS = {  # the extras of pyproject.toml
    "interop": ("transformers", "gguf"),
    "evals": ("lm_eval",),
    "ray": ("ray",),
    "slurm": ("submitit",),
    "fast": ("fastokens",),
}


@dataclass(frozen=True)
class DoctorOptions:
    """List versions, hardware and optional packages of this machine, and what is missing."""

    json: bool = False
    """Print them as JSON."""


def run(argv: list[str]) -> int:
    """Print versions, hardware and optional packages."""
    options = parse(DoctorOptions, argv, "doctor")
    import torch

    from ladderlm.run.environment import describe_environment

    device = find_device()
    found: dict[str, Any] = describe_environment(torch.get_num_threads(), device)
    found["free_disk_bytes"] = shutil.disk_usage(Path.cwd()).free
    found["optional_parts"] = {
        part: all(importlib.util.find_spec(name) is not None for name in names)
        for part, names in PARTS.items()
    }
    if options.json:
        print_json(found)
        return 0
    print(f"ladderlm {found['ladderlm']}, Python {found['python']}, {found['platform']}")
    print(f"hardware  {found['hardware']}; device {device}, {found['n_threads']} threads")
    print("versions  " + ", ".join(f"{name} {v}" for name, v in found["versions"].items()))
    print(f"free disk {found['free_disk_bytes'] / 1e9:.1f} GB here")
    for part, present in found["optional_parts"].items():
        state = "installed" if present else f"missing: pip install 'ladderlm[{part}]'"
        print(f"  {part:<8} {state}")
    return 0
