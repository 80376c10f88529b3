"""Runs the engine's tests on the copy of the library in a folder, whose kernels were built with the sanitizers."""

import sys
from pathlib import Path

# An editable install would come first with its own kernels.
sys.meta_path = [finder for finder in sys.meta_path if "ScikitBuild" not in type(finder).__name__]
sys.path.insert(0, sys.argv[1])

import pytest  # noqa: E402

from tapernet.engine.native import extension  # noqa: E402

if extension() is None:
    sys.exit("the kernels were not built: is there a C++ compiler?")
assert str(Path(sys.argv[1]).resolve()) in extension().__file__
here = Path(__file__).parent
# How much memory a sanitized process takes says nothing, and time is not the matter here. Of the whole networks, the
# small ones do: the large ones take a minute and run the same kernels.
chosen = "not memory and not timed and not mobilenetv2 and not nin- and not resnet and not vgg16 and not one_buffer"
files = ["test_compile.py", "test_engine.py", "test_kernels.py", "test_terminating_kernels.py"]
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-k", chosen, *(str(here / name) for name in files)]))
