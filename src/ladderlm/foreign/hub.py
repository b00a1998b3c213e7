"""Find models of other people: folders on this disk, and repositories of the Hugging Face hub.

Owns what a name on the command line means, and which files of a repository are fetched. They go
into the hub's own cache by the hub's own client; nothing else is ever written there.
"""

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from ladderlm.convert.native import is_native
from ladderlm.convert.tensors import inside
from ladderlm.errors import CheckpointError
from ladderlm.files import read_json
from ladderlm.units import format_bytes

__all__ = ["ForeignModel", "find_foreign", "model_files"]

_log = logging.getLogger(__name__)

_ID = re.compile(r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")
# Weights only as safetensors, which cannot run code; the rest is config and tokenizer.
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_BESIDE = (".json", ".txt", ".model")


@dataclass(frozen=True)
class ForeignModel:
    """A folder in Hugging Face's form.

    Args:
        name: as it was asked for.
        folder: where it lies.
        commit: of its repository on the hub; None: a folder of the user's.
    """

    name: str
    folder: Path
    commit: str | None = None


def find_foreign(name: str) -> ForeignModel | None:
    """Return the foreign model of that name; None: it is none (a run, or nothing at all).

    A folder counts if its `config.json` names a `model_type`. A name that is no path here and has
    the form OWNER/NAME or OWNER/NAME@REVISION is one of the hub, unless a folder OWNER lies here:
    then it is a slip in a path.

    Raises:
        CheckpointError: the hub has no such repository, does not answer, or has no safetensors.
    """
    folder = Path(name)
    if folder.exists():
        return ForeignModel(name, folder) if _names_a_type(folder) else None
    match = _ID.fullmatch(name)
    if match is None or Path(name.split("/")[0]).exists():
        return None
    return _fetch(name, match["id"], match["revision"])


def _names_a_type(folder: Path) -> bool:
    try:
        value = json.loads((folder / "config.json").read_text("utf-8"))
        return not is_native(folder) and isinstance(value, dict) and "model_type" in value
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def model_files(folder: Path) -> list[Path]:
    """List what a model's numbers depend on: weights, config and tokenizer.

    Raises:
        CheckpointError: there are no safetensors, or a file or an index leads out of the folder.
    """
    names = sorted(path.name for path in folder.iterdir())
    files = [inside(folder, name) for name in names if _is_wanted(name)]
    if not any(path.suffix == ".safetensors" for path in files):
        raise CheckpointError(
            f"{folder} holds no model.safetensors",
            "weights in a pickle can run code when they are opened, so they are not",
            "use a revision with safetensors; a LLaMA goes through "
            f"`ladderlm convert {folder} --to hf`, which reads pickles safely",
        )
    index = folder / "model.safetensors.index.json"
    if index in files:
        table = read_json(index)
        places = table.get("weight_map") if isinstance(table, dict) else None
        for name in (
            set(map(str, places.values())) if isinstance(places, dict) else {"no weight_map"}
        ):
            if inside(folder, name) not in files:
                raise CheckpointError(f"{index} names {name!r}", "it is no file of weights")
    return files


def _is_wanted(name: str) -> bool:
    return _WEIGHTS.fullmatch(name) is not None or (
        name.endswith(_BESIDE) and name != "README.txt" and "/" not in name
    )


def _fetch(name: str, repository: str, revision: str | None) -> ForeignModel:
    """Bring a repository's model into the hub's cache, or take it from there without a network."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        described = HfApi().model_info(repository, revision=revision, files_metadata=True)
    except Exception as error:  # of the hub's client or of the HTTP library below it
        try:
            place = snapshot_download(repository, revision=revision, local_files_only=True)
        except Exception:
            raise _not_there(name, str(error).strip().split("\n")[0]) from error
        return ForeignModel(name, Path(place), Path(place).name)
    sizes = {file.rfilename: file.size or 0 for file in described.siblings or ()}
    wanted = [file for file in sizes if _is_wanted(file)]
    if not any(file.endswith(".safetensors") for file in wanted):
        raise _not_there(name, "it has no model.safetensors, and pickles are not opened")
    n_bytes = sum(sizes[file] for file in wanted)
    _log.warning("%s: %s from the hub, where not in its cache", name, format_bytes(n_bytes))
    try:
        place = snapshot_download(repository, revision=described.sha, allow_patterns=wanted)
    except Exception as error:
        raise _not_there(name, str(error).strip().split("\n")[0]) from error
    return ForeignModel(name, Path(place), described.sha)


def _not_there(name: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{name} is no folder here, and no model could be had from the hub under that name",
        why,
        "check the name (OWNER/NAME or OWNER/NAME@REVISION) and the network, or download the "
        "folder by other means and name it",
    )
