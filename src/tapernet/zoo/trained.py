"""Trained networks that come with the library: small files in `weights/`."""

from pathlib import Path

from tapernet.errors import FileError

WEIGHTS = Path(__file__).parent / "weights"


def names() -> list[str]:
    """The trained networks."""
    return sorted(p.stem for p in WEIGHTS.glob("*.safetensors"))


def find(net: str) -> Path:
    """The file of a network: a path, or the name of a trained one; raises FileError if there is neither."""
    path = Path(net)
    if path.exists():
        return path
    if net in names():
        return WEIGHTS / f"{net}.safetensors"
    raise FileError(f"no such file, and no trained network of that name: {net}; trained: {', '.join(names())}")
