"""Install torch into this interpreter's environment: the CPU build unless a GPU is there.

Kept out of the lock because its plain build on Linux brings gigabytes of CUDA. pip is asked first
which build it would take as configured (a site may offer a CPU build); only if that is a CUDA
build and no GPU is there does PyTorch's own index of CPU builds come in.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
import subprocess
import sys

TORCH = "torch==2.13.0"
TORCHDATA = "torchdata==0.11.0"
"""For the tests of its StatefulDataLoader; without what it depends on, as that is torch."""
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def main() -> int:
    if importlib.util.find_spec("torchdata") is None:
        pip("install", "--quiet", "--no-deps", TORCHDATA)  # tests that need it say so without it
    if importlib.util.find_spec("torch") is not None:
        return 0
    arguments = [TORCH]
    if not has_gpu() and platform.system() == "Linux" and not configured_build_is_cpu():
        arguments += ["--index-url", CPU_INDEX, "--extra-index-url", "https://pypi.org/simple"]
    print(f"installing {' '.join(arguments)}")
    return pip("install", "--quiet", *arguments).returncode


def has_gpu() -> bool:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return False
    return subprocess.run([smi, "-L"], capture_output=True, check=False).returncode == 0


def configured_build_is_cpu() -> bool:
    """Whether pip, as it is configured here, already resolves torch to a CPU build."""
    plan = pip("install", "--quiet", "--dry-run", "--no-deps", "--report", "-", TORCH, capture=True)
    if plan.returncode != 0:
        return False
    versions = [item["metadata"]["version"] for item in json.loads(plan.stdout)["install"]]
    return all(version.endswith("+cpu") for version in versions)


def pip(*arguments: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", *arguments]
    return subprocess.run(command, capture_output=capture, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
