"""Find foreign models: local folders, and repositories of the Hugging Face hub.

Owns the meaning of a name on the command line, and the choice of the files to download. The hub's
own client stores them in its cache; ladderlm writes nothing else there.
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
_WANTED = re.compile(r"model(-\d+-of-\d+)?\.safetensors|(?!README\.txt)[^/]*\.(json|txt|model)")


@dataclass(frozen=True)
class ForeignModel:
    """A folder in Hugging Face's form.

    Args:
        name: as given on the command line.
        commit: of its repository on the hub; None: a local folder.
    """

    name: str
    folder: Path
    commit: str | None = None


def find_foreign(name: str) -> ForeignModel | None:
    """Return the foreign model of that name, or None if the name means no foreign model.

    The name means a local folder if `config.json` in it has a `model_type`. It means a repository
    of the hub if it has the form OWNER/NAME or OWNER/NAME@REVISION and is no path. If there is a
    local folder OWNER, it is taken for a misspelled path.

    Raises:
        CheckpointError: the hub does not answer, has no such repository, or has no safetensors.
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
    """Return the files that a model's numbers depend on: weights, config and tokenizer.

    Raises:
        CheckpointError: there are no safetensors, or a file or an index leads out of the folder.
    """
    names = sorted(path.name for path in folder.iterdir())
    files = [inside(folder, name) for name in names if _WANTED.fullmatch(name)]
    if not any(path.suffix == ".safetensors" for path in files):
        raise CheckpointError(
            f"{folder} holds no model.safetensors",
            "a pickle can run code when it is opened, so pickles are never opened",
            "use a revision with safetensors, or convert a LLaMA safely: "
            f"`ladderlm convert {folder} --to hf --out DIR`",
        )
    index = folder / "model.safetensors.index.json"
    if index in files:
        table = read_json(index)
        places = table.get("weight_map") if isinstance(table, dict) else None
        if not isinstance(places, dict):
            raise CheckpointError(f"{index} has no weight_map")
        for name in set(map(str, places.values())):
            if inside(folder, name) not in files:
                raise CheckpointError(f"{index} names {name!r}, which is not a file of weights")
    return files


def _fetch(name: str, repository: str, revision: str | None) -> ForeignModel:
    """Download a repository's model into the hub's cache, or find it there without a network."""
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
    wanted = [file for file in sizes if _WANTED.fullmatch(file)]
    if not any(file.endswith(".safetensors") for file in wanted):
        raise _not_there(name, "it has no model.safetensors, and pickles are not opened")
    n_bytes = sum(sizes[file] for file in wanted)
    _log.warning("%s: %s from the hub, unless in its cache", name, format_bytes(n_bytes))
    try:
        place = snapshot_download(repository, revision=described.sha, allow_patterns=wanted)
    except Exception as error:
        raise _not_there(name, str(error).strip().split("\n")[0]) from error
    return ForeignModel(name, Path(place), described.sha)


def _not_there(name: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{name} is not a local folder, and the hub returned no model of that name",
        why,
        "check the name (OWNER/NAME or OWNER/NAME@REVISION) and the network, or name a folder that "
        "you downloaded",
    )
