"""Every public name documents its parameters, and the example in its docstring gives what it says."""

from __future__ import annotations

import doctest
import inspect
import re
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hub_server import StandIn, stand_in

import seen_jax
from seen_jax import api, audio, subspace
from seen_jax.audio import noise_for_clip
from seen_jax.data.items import load_clips

PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (seen_jax, subspace, audio)
    for name in module.__all__
    if callable(getattr(module, name))
}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def test_the_package_offers_what_its_api_lists():
    assert seen_jax.__all__ == api.__all__


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What examples may use."""
    model = seen_jax.load("seen-tiny")
    clips = [item.wave[:16000] for item in load_clips("calibration")[:3]]
    noises = [noise_for_clip("white", len(clip), i) for i, clip in enumerate(clips)]
    calibration = seen_jax.calibrate(model, clips, noises, card={"noise": "white"})
    basis = calibration.select(seen_jax.Selection(method="complement", layers="all"))
    modules = {"seen_jax": seen_jax, "subspace": subspace, "audio": audio, "jax": jax, "jnp": jnp, "np": np}
    values = {"model": model, "clips": clips, "noises": noises, "calibration": calibration, "basis": basis}
    return {**modules, **values, "folder": tmp_path_factory.mktemp("examples")}


def parameters(value) -> list[str]:
    """What callers pass by name; of `**options`, the keys of its type."""
    names = []
    for name, parameter in inspect.signature(value).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            kind = next(filter(typing.is_typeddict, typing.get_args(parameter.annotation)), None)
            names += sorted(kind.__optional_keys__) if kind else [name]
        else:
            names.append(name)
    return names


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_parameters_are_documented_and_the_example_runs(name, names):
    value = PUBLIC[name]
    text = inspect.getdoc(value) or ""
    missing = [parameter for parameter in parameters(value) if not documented(parameter, text)]
    assert not missing, f"{name} does not document {', '.join(missing)}"
    example = doctest.DocTestParser().get_doctest(text, dict(names), name, None, 0)
    assert example.examples, f"{name} has no example"
    report: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(example, out=report.append)
    assert not report, "".join(report)


def documented(parameter: str, text: str) -> bool:
    """`name:` or `name, other:` begins a line or a sentence of the docstring."""
    heads = re.findall(r"(?:^|[.;:] )\s*([*\w]+(?:(?:, | and )[*\w]+)*):", text, re.MULTILINE)
    return any(parameter in re.split(", | and ", head) for head in heads)


def test_the_python_code_of_the_howto_runs(names, monkeypatch):
    """Its blocks in order, with the audio and arrays that the text speaks of, and a hub on this machine."""
    rng = np.random.default_rng(0)
    clean, noise = rng.standard_normal((2, 4, 12, 768)).astype(np.float32)
    vector, a, mask = rng.standard_normal(192), jnp.asarray(rng.standard_normal((5, 768)), jnp.float32), jnp.ones(5)
    extra = [clip[::-1] for clip in names["clips"]]
    values = {"more_clips": extra, "more_noises": names["noises"], "pcm": np.zeros(4410, np.int16) + 9, "layer": 3}
    values |= {"risk": np.linspace(0, 1, 40), "changed": np.arange(40) > 20}
    values |= {"clean": clean, "noise": noise, "vector": vector, "a": a, "mask": mask}
    monkeypatch.chdir(names["folder"])
    audio.write_audio("speech.wav", names["clips"][0])
    text = (Path(__file__).parents[1] / "docs" / "howto.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    space = {**names, **values}
    monkeypatch.setenv("HF_TOKEN", StandIn.token)
    with stand_in(names["folder"] / "hub", monkeypatch):
        for block in blocks:
            if "my.site" in block:  # its calibration and basis are of another model
                exec(block, dict(space))
            else:
                exec(block, space)
    assert len(blocks) > 5
