"""Running a trained model. Without torch, but for the functions that read a checkpoint.

Hosts that only run models install this package without its dependencies; then what is missing is told here.
"""

from importlib.util import find_spec

_missing = [package for package, module in (("numpy", "numpy"), ("pillow", "PIL")) if find_spec(module) is None]
if _missing:
    raise ImportError(f"running a model needs {' and '.join(_missing)}: pip install {' '.join(_missing)}")
