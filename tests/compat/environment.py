"""Virtual environments for what must not share the one that runs everything else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["REPOSITORY", "environment", "pip"]

REPOSITORY = Path(__file__).resolve().parents[2]


def environment(name: str, *requirements: str) -> Path:
    """The interpreter of a virtual environment of that name with *requirements* in it.

    Made and filled at first use, and again when the requirements have changed.
    """
    version = ".".join(map(str, sys.version_info[:2]))
    folder = REPOSITORY / ".venv" / f"{name}-{version}"
    python = folder / "bin" / "python"
    stamp = folder / "installed"
    wanted = "\n".join(requirements)
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing {' '.join(requirements)}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip(python, "install", *requirements)
        stamp.write_text(wanted)
    return python


def pip(python: Path | str, *arguments: str | Path) -> None:
    """Run pip; what it says is shown only if it fails."""
    result = subprocess.run(
        [python, "-m", "pip", "-q", "--disable-pip-version-check", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode:
        sys.exit(f"pip {' '.join(map(str, arguments))} failed:\n{result.stdout}")
