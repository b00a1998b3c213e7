"""Set up ladderlm and run its development commands; needs nothing but Python 3.11 or newer.

    python bootstrap.py setup [--extras interop,ray]     make .venv and install into it
    python bootstrap.py quickstart [options]             setup, then `ladderlm quickstart`
    python bootstrap.py test|lint|bench|docs|simulate [options]   setup, then that
    python bootstrap.py clean                            remove .venv, caches and site/

Owns the environment in .venv and the choice of the PyTorch build; nothing outside the checkout is
touched. LADDERLM_TORCH_INDEX names another index for the CPU build of PyTorch.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, NamedTuple, Sequence

OLDEST_PYTHON = (3, 11)
OLDEST_PIP = (23, 3)  # older ones download whole wheels only to look at them
DRIVER_FILE = Path("/proc/driver/nvidia/version")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
DISK_PER_WHEEL_BYTE = 5  # what a wheel takes once unpacked and compiled, with some room
COMMANDS = {
    "quickstart": [["ladderlm", "quickstart"]],
    "test": [
        ["python", "-m", "pytest", "-n", "auto", "--maxprocesses", "4", "--dist", "worksteal"]
    ],
    "lint": [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]],
    "bench": [["ladderlm", "bench"]],
    "simulate": [["python", "benchmarks/simulate.py"]],
    "docs": [["python", "docs/build.py"]],
}


class SetupError(Exception):
    """Say what went wrong and how to mend it."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(f"{what}\n  fix: {fix}")


class Wheel(NamedTuple):
    """One file that pip would take."""

    name: str
    version: str
    url: str


class TorchChoice(NamedTuple):
    """Where torch comes from, with a sentence that tells the user why."""

    pin: str  # its line in constraints.txt
    source: str | None  # an index; None leaves it to pip's own settings
    wheels: list[Wheel] | None  # everything that pip would take; None: not known
    why: str


def say(text: str) -> None:
    """Print a line at once."""
    print(f"setup: {text}", flush=True)


def check_python(version: Sequence[Any]) -> None:
    """Refuse an interpreter that is too old."""
    if tuple(version)[:2] < OLDEST_PYTHON:
        raise SetupError(
            f"Python {version[0]}.{version[1]} is too old: ladderlm needs 3.11 or newer",
            "install a newer one and name it: make setup PYTHON=python3.12",
        )


def find_driver() -> bool:
    """Tell whether an NVIDIA driver is at work."""
    tool = shutil.which("nvidia-smi")
    return DRIVER_FILE.exists() or (
        tool is not None and subprocess.run([tool, "-L"], capture_output=True).returncode == 0
    )


def find_torch(interpreter: str | Path) -> str | None:
    """Give the version of torch that an interpreter has, or None."""
    code = "from importlib.metadata import version; print(version('torch'))"
    try:
        words = [interpreter, "-c", code]
        found = subprocess.run(words, capture_output=True, text=True, check=True, cwd="/")
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def numbers_of(version: str) -> tuple[int, ...]:
    """Give the first two numbers of a version: 2.13.0+cpu -> (2, 13)."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def is_cuda_library(wheel: Wheel) -> bool:
    """Tell whether a wheel is one of NVIDIA's libraries, which only CUDA builds of torch need."""
    return re.match(r"(nvidia|cuda)[-_]", wheel.name.lower()) is not None


def choose_torch(
    wanted: str,
    *,
    base_torch: str | None,
    needs_cpu_build: bool,
    cpu_index: str,
    resolve: Callable[[str | None], list[Wheel] | None],
) -> TorchChoice:
    """Choose where torch comes from.

    Args:
        wanted: the version of constraints.txt.
        base_torch: the version that the base interpreter has, if it is in range.
        needs_cpu_build: this is Linux without an NVIDIA driver, where CUDA libraries are ballast.
        cpu_index: an index of CPU builds.
        resolve: gives the wheels that pip would take with torch from an index (None: pip's usual
            one), or None when it finds no way.
    """
    wheels = resolve(None)
    if base_torch:
        why = f"the PyTorch {base_torch} of the base Python is used as it is"
        return TorchChoice(f"torch=={base_torch}", None, wheels, why)
    pin = f"torch=={wanted}"
    if not needs_cpu_build:
        return TorchChoice(pin, None, wheels, f"PyTorch {wanted} from pip's usual index")
    if wheels is not None and not any(map(is_cuda_library, wheels)):
        why = f"no NVIDIA driver, and pip's usual index gives a PyTorch {wanted} without CUDA"
        return TorchChoice(pin, None, wheels, why)
    cpu_wheels = resolve(cpu_index)
    if cpu_wheels is None:
        why = f"no NVIDIA driver, but {cpu_index} cannot be reached: PyTorch {wanted} comes from "
        return TorchChoice(pin, None, wheels, why + "pip's usual index, with its CUDA libraries")
    version = next(wheel.version for wheel in cpu_wheels if wheel.name == "torch")
    why = f"no NVIDIA driver: PyTorch {version}, a CPU build, from {cpu_index}"
    return TorchChoice(f"torch=={version}", cpu_index, cpu_wheels, why)


def measure_wheel(wheel: Wheel) -> tuple[int | None, int]:
    """Give the bytes to download (None: unknown; 0: a file on this machine) and of the file."""
    place = urllib.parse.urlsplit(wheel.url)
    try:
        if place.scheme == "file":
            return 0, os.path.getsize(urllib.request.url2pathname(place.path))
        request = urllib.request.Request(wheel.url, method="HEAD")
        with urllib.request.urlopen(request, timeout=10) as answer:
            n_bytes = int(answer.headers["Content-Length"])
            return n_bytes, n_bytes
    except (OSError, TypeError, ValueError):
        return None, 0


def announce(choice: TorchChoice, n_free_bytes: int) -> None:
    """Say what will be downloaded and how large it is; refuse a disk that is too small."""
    say(choice.why)
    if choice.wheels is None:
        say("pip does not say what it will download; a failure below will say why")
        return
    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(measure_wheel, choice.wheels))
    downloads = [download for download, _ in sizes if download]
    n_unknown = sum(download is None for download, _ in sizes)
    n_disk_bytes = DISK_PER_WHEEL_BYTE * sum(size for _, size in sizes)
    unknown = f" and {n_unknown} of unknown size" if n_unknown else ""
    say(
        f"packages to install: {len(sizes)}; to download: {len(downloads)}, at most "
        f"{sum(downloads) / 1e6:.0f} MB{unknown}; up to {n_disk_bytes / 1e9:.1f} GB in .venv"
    )
    for (download, _), wheel in zip(sizes, choice.wheels, strict=True):
        if download and download > 50e6:
            say(f"  {wheel.name} {wheel.version}: {download / 1e6:.0f} MB")
    if n_free_bytes < n_disk_bytes:
        raise SetupError(
            f"{n_free_bytes / 1e9:.1f} GB are free, {n_disk_bytes / 1e9:.1f} GB may be needed",
            "free some disk space, then run the same command again",
        )


def advise(pip_output: str) -> str:
    """Give the advice that fits the output of a pip that failed."""
    again = "then run the same command again: it goes on from there"
    if "No space left on device" in pip_output:
        return f"the disk is full: free some space, {again}"
    if re.search(r"Connection|Max retries|timed out|name resolution|ProxyError", pip_output):
        return f"check the network, {again}"
    if "No matching distribution" in pip_output:
        return "no build for this Python or machine: try another, make setup PYTHON=python3.12"
    return f"see pip's lines above, {again}"


class Environment:
    """The virtual environment of a checkout.

    Args:
        root: folder of the checkout.
        base: interpreter to make it from.
    """

    def __init__(self, root: Path, base: str) -> None:
        self.root, self.base, self.folder = root, base, root / ".venv"
        self.bin = self.folder / ("Scripts" if os.name == "nt" else "bin")
        self.python = self.bin / "python"
        self.constraints = self.folder / "constraints.txt"
        self.state_file = self.folder / "ladderlm.json"

    def read_state(self) -> dict[str, Any]:
        """Give what an earlier setup noted, {} when there was none."""
        try:
            return dict(json.loads(self.state_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

    def write_state(self, **state: Any) -> None:
        """Note the state, all of it or nothing."""
        temporary = self.state_file.with_suffix(".tmp")
        temporary.write_text(json.dumps(state), encoding="utf-8")
        os.replace(temporary, self.state_file)

    def fingerprint(self) -> str:
        """Hash everything that decides what is installed, but for the extras."""
        digest = hashlib.sha256(f"{sys.version}\n{self.base}\n{self.root}".encode())
        for name in ("pyproject.toml", "constraints.txt", "bootstrap.py"):
            digest.update((self.root / name).read_bytes())
        return digest.hexdigest()

    def runs(self, code: str) -> bool:
        """Tell whether the environment's Python runs `code` without an error."""
        try:
            return subprocess.run([self.python, "-c", code], capture_output=True).returncode == 0
        except OSError:
            return False

    def create(self, ours: bool, with_base_packages: bool) -> None:
        """Make the environment, or keep one that works and fits.

        Args:
            ours: it was made here, or is not there yet.
            with_base_packages: let a new one see the packages of the base interpreter.
        """
        fits = self.runs(f"import sys; assert sys.version_info[:2] == {sys.version_info[:2]}")
        noted = self.read_state().get("with_base_packages")  # None: the making was interrupted
        if fits and (not ours or noted == with_base_packages):
            return
        if os.path.lexists(self.folder):
            if not ours:
                raise SetupError(
                    f"{self.folder} was not made by bootstrap.py and does not work",
                    "move it away or delete it, then run the same command again",
                )
            say(".venv is broken or of another Python: making it anew")
            shutil.rmtree(self.folder)
        self.folder.mkdir()
        self.write_state(ours=True)
        words = [self.base, "-m", "venv", str(self.folder)]
        words += ["--system-site-packages"] if with_base_packages else []
        if subprocess.run(words, capture_output=True).returncode == 0:
            return
        # Debian and Colab come without ensurepip: then the base's own pip will do
        made = subprocess.run([*words, "--without-pip"], capture_output=True, text=True)
        if made.returncode:
            lines = (made.stdout + made.stderr).strip().splitlines() or ["no message"]
            raise SetupError(
                f"{self.base} cannot make a virtual environment: {lines[-1]}",
                "install Python's venv module (Debian, Ubuntu: apt install python3-venv)",
            )

    def pip(self, *words: str, quiet: bool = False) -> None:
        """Run pip for this environment.

        Raises:
            SetupError: it failed; with its last lines and what to do.
        """
        command = [str(self.python), "-m", "pip"]
        if not self.runs("import pip"):
            command = [self.base, "-m", "pip", "--python", str(self.python)]
        constraints = self.constraints.as_uri()  # a plain path would be split at its spaces
        variables = {"PIP_CONSTRAINT": constraints, "PIP_BUILD_CONSTRAINT": constraints}
        variables["PIP_USER"] = "0"
        lines: list[str] = []
        with subprocess.Popen(
            [*command, "--disable-pip-version-check", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
            cwd=self.root,
            text=True,
            errors="replace",
        ) as process:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                large = re.search(r"Downloading .*?([^/]+ \([\d.]+ [MG]B\))", line)
                if large and not quiet:
                    print(f"  {large[1]}", flush=True)
        if process.returncode:
            tail = "\n".join(f"  | {line}" for line in lines[-15:])
            raise SetupError(f"pip failed; its last lines:\n{tail}", advise("\n".join(lines)))

    def resolve(self, *words: str) -> list[Wheel] | None:
        """Give the wheels that `pip install WORDS` would take; None when it finds no way."""
        report = self.folder / "report.json"
        try:
            self.pip("install", "--dry-run", "--report", str(report), *words, quiet=True)
            found = json.loads(report.read_text(encoding="utf-8"))["install"]
        except (SetupError, OSError, ValueError):
            return None
        finally:
            report.unlink(missing_ok=True)
        return [
            Wheel(w["metadata"]["name"], w["metadata"]["version"], w["download_info"]["url"])
            for w in found
        ]

    def setup(self, extras: set[str]) -> None:
        """Install the project with these extras, unless that has been done and still works."""
        state = self.read_state()
        if (
            state.get("fingerprint") == self.fingerprint()
            and extras <= set(state["extras"])
            and self.runs("import ladderlm")
        ):
            return
        extras |= set(state.get("extras", ()))
        requirements = read_requirements(self.root / "pyproject.toml", extras)
        oldest = next(r for r in requirements if r.startswith("torch>=")).partition(">=")[2]
        pins = (self.root / "constraints.txt").read_text(encoding="utf-8")
        wanted = re.findall(r"^torch==(\S+)$", pins, re.MULTILINE)[0]

        ours = state.get("ours", not os.path.lexists(self.folder))
        base_torch = find_torch(self.base if ours else self.python)
        if base_torch and numbers_of(base_torch) < numbers_of(oldest):
            say(f"the PyTorch {base_torch} of the base Python is too old and is left alone")
            base_torch = None
        noted = {"ours": ours, "with_base_packages": base_torch is not None}
        self.create(**noted)
        self.write_state(**noted, extras=sorted(extras))  # no fingerprint: not done yet
        pin = f"torch=={base_torch or wanted}"
        self.constraints.write_text(replace_pin(pins, pin), encoding="utf-8")
        if self.runs("import pip") and not self.runs(
            f"import pip; assert tuple(map(int, pip.__version__.split('.')[:2])) >= {OLDEST_PIP}"
        ):
            try:
                self.pip("install", "--upgrade", "pip", quiet=True)
            except SetupError:
                say("pip is old and a newer one cannot be had: going on with it")

        @functools.cache
        def resolve(index: str | None) -> list[Wheel] | None:
            if index is None:
                return self.resolve(*requirements)
            alone = ["--ignore-installed", "--no-deps", "--retries", "1", "--timeout", "15"]
            found = self.resolve(*alone, "--index-url", index, f"torch=={wanted}")
            others = [w for w in resolve(None) or () if w.name not in ("torch", "triton")]
            return found and found + [w for w in others if not is_cuda_library(w)]

        choice = choose_torch(
            wanted,
            base_torch=base_torch,
            needs_cpu_build=sys.platform.startswith("linux") and not find_driver(),
            cpu_index=os.environ.get("LADDERLM_TORCH_INDEX") or CPU_INDEX,
            resolve=resolve,
        )
        announce(choice, shutil.disk_usage(self.folder).free)
        self.constraints.write_text(replace_pin(pins, choice.pin), encoding="utf-8")
        if choice.source:
            self.pip("install", "--no-deps", "--index-url", choice.source, choice.pin)
        say("installing")
        self.pip("install", "--editable", f".[{','.join(sorted(extras))}]")
        self.write_state(**noted, extras=sorted(extras), fingerprint=self.fingerprint())
        say("done: .venv is ready")

    def clean(self) -> None:
        """Remove what setup and the development tools made; results of runs stay."""
        if self.read_state().get("ours"):
            shutil.rmtree(self.folder)
        caches = (".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", "__pycache__")
        places = [self.root / name for name in (*caches, "site")]
        for name in ("src", "tests", "docs", "benchmarks"):
            places += (self.root / name).rglob("__pycache__")
        for place in places:
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)

    def run(self, verb: str, arguments: list[str]) -> int:
        """Run the commands of a verb; give the first exit code that is not 0."""
        codes = []
        # Many containers set it: then every process compiles every module again, half a second for
        # each training run. `clean` removes what is written.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        for name, *words in COMMANDS[verb]:
            command = [str(self.bin / name), *words, *arguments]
            codes.append(subprocess.call(command, cwd=self.root, env=environment))
        return next((code for code in codes if code), 0)


def replace_pin(pins: str, pin: str) -> str:
    """Give the constraints with another line for torch."""
    return re.sub(r"^torch==.*$", pin, pins, flags=re.MULTILINE)


def read_requirements(pyproject: Path, extras: set[str]) -> list[str]:
    """Give the requirements of the project and of some extras."""
    import tomllib  # not before `check_python`

    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    for extra in extras - set(optional):
        raise SetupError(f"there is no extra {extra!r}", f"choose among {', '.join(optional)}")
    return [*project["dependencies"], *(r for extra in sorted(extras) for r in optional[extra])]


def main(words: list[str]) -> int:
    """Do what the first word says; give the exit code."""
    verb, arguments = words[0] if words else "", words[1:]
    if verb not in ("setup", "clean", *COMMANDS):
        print(__doc__)
        return 0 if verb in ("-h", "--help") else 2
    try:
        check_python(sys.version_info)
        base = getattr(sys, "_base_executable", None) or sys.executable  # not a venv around us
        environment = Environment(Path(__file__).resolve().parent, base)
        if verb == "clean":
            environment.clean()
            return 0
        extras = {"dev"}
        if verb == "setup" and arguments:
            if arguments[0] != "--extras":
                raise SetupError(f"setup does not know {arguments[0]!r}", "--extras NAME,NAME")
            extras |= set(filter(None, ",".join(arguments[1:]).split(",")))
        environment.setup(extras)
        return 0 if verb == "setup" else environment.run(verb, arguments)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error}\n  fix: check the free space and permissions", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from there", file=sys.stderr)
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
