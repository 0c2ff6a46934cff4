"""The questions that make_golden.py puts to the originals, and the tests to the port."""

from __future__ import annotations

from pathlib import Path

from tiny_omni import hiss

from seen_jax.models.family import Family
from seen_jax.models.processor import Request

FOLDER = Path(__file__).parent / "golden"
BACKBONES = Path(__file__).parent / "golden_backbones"  # Ultravox on other language models than Llama
SECONDS = (0.3, 1.005, 30.01)
RANK, STRENGTH, NEW = 3, 0.8, 24


def golden_requests(family: Family) -> list[Request]:
    return [Request([hiss(seconds, 7 + i)], "which color ?") for i, seconds in enumerate(SECONDS)]
