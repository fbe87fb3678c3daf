"""Installs the public base network that tests compare with, into ``.peers/`` (ignored by git), without its dependencies.

    python tests/install_peers.py

Two releases lie side by side, since each is one checkpoint generation (network before and after the RMS norm). torchvision is
left out: only the base network's data loader uses it, and tests/peers.py puts an empty stand-in there while importing.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PEERS = Path(__file__).resolve().parent.parent / ".peers"
BASE_VERSIONS = ("0.6.3", "0.7.0")
SHARED = ("einops==0.8.2", "einops-exts==0.0.4", "rotary-embedding-torch==0.9.1", "tqdm==4.67.1")


def install(target: Path, *requirements: str) -> None:
    if target.exists():
        print(target, "is there already")
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"]
    subprocess.run([*command, str(target), *requirements], check=True)
    print(target, *requirements)


def main() -> None:
    install(PEERS / "shared", *SHARED)
    for version in BASE_VERSIONS:
        install(PEERS / f"base-{version}", f"video-diffusion-pytorch=={version}")


if __name__ == "__main__":
    main()
