"""Where recorded results lie by default: beside the mains; in the current folder where moejax was installed without them."""

from pathlib import Path

_BESIDE = Path(__file__).resolve().parent / "results"
RESULTS = _BESIDE if _BESIDE.is_dir() else Path()
