"""Where tests keep compiled programs."""

from pathlib import Path

CACHE = Path(__file__).parents[2] / ".cache" / "xla"
