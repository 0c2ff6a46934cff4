# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A real model: what fits, SEE with the encoder alone, int8
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/seen-jax/seen-jax/blob/main/colab/real_model.ipynb)
#
# What of a published audio language model fits your machine, SEE with its encoder alone, and the whole model with
# matrices in 8 bits. As it stands, the notebook makes a tiny Qwen2.5-Omni with *random* weights and runs on any CPU, in
# about a minute, without a download. For a real model choose a T4, a TPU or a larger card, and change two constants.

# %%
import re
import subprocess
import sys
from importlib import metadata

if "google.colab" in sys.modules:  # elsewhere: docs/start.md says how to install seen-jax
    versions = {one.name: one.version for one in metadata.distributions()}
    kept = [f"{name}=={versions[name]}" for name in versions if re.fullmatch(r"jax(lib|[-_].+)?|libtpu", str(name))]
    package = "seen-jax @ git+https://github.com/seen-jax/seen-jax"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package, *kept], check=True)  # with the jax of Colab

# %%
import seen_jax

print(seen_jax.runtime())

# %% [markdown]
# ## What fits
#
# The estimate needs `config.json` alone; no weights are read. Bars: what one clip of 30 s takes. Lines: what programs
# may use of a device (JAX takes three quarters of a GPU's memory). A bar must stay clearly below the line, since
# the estimate may be a tenth too low. The picture says nothing about speed.

# %%
import matplotlib.pyplot as plt
import numpy as np

from seen_jax.models.devices import GIB, device
from seen_jax.models.memory import Work, need
from seen_jax.models.runtime import named_config

families = ["qwen2_5_omni", "minicpm_o", "step_audio_2", "qwen2_audio", "voxtral"]
ways = {"encoder alone": {"part": "encoder"}, "whole, int8": {"weights": "int8"}, "whole, 16 bits": {}}
for i, (label, way) in enumerate(ways.items()):
    works = [need(named_config(name)[0], Work(seconds=30, dtype="bfloat16", **way)) for name in families]
    plt.bar(np.arange(len(families)) + 0.25 * (i - 1), [work.total / GIB for work in works], 0.25, label=label)
for name in ("t4", "v5e-1", "v6e-1"):
    plt.axhline(device(name).memory / GIB, linestyle="--", color="grey")
    plt.text(-0.4, device(name).memory / GIB, name, va="bottom")
plt.xticks(range(len(families)), families, rotation=15)
plt.ylabel("memory (GiB)")
plt.legend(loc=(0.65, 0.6))
plt.show()

# %% [markdown]
# `seen_jax.runtime(NAME)` says the same of one model and this machine.

# %%
for name in families:
    print(seen_jax.runtime(name).advice)

# %% [markdown]
# ## Choose a model
#
# A hub name downloads what is needed: with the encoder alone, `config.json` and the files that hold its weights.

# %%
NAME = "random"  # on a T4, a TPU or a larger card: "Qwen/Qwen2.5-Omni-7B"
WEIGHTS = "int8"  # of the whole model; None where it fits in 16 bits (a TPU v6e, an A100), to skip it: "none"

# %% [markdown]
# The random model: the files of a Qwen2.5-Omni, with two layers in encoder and decoder. Its answers are nonsense, and
# its SEE means nothing; every step below is the one that the real model takes.

# %%
import tempfile
from pathlib import Path

from flax.traverse_util import unflatten_dict

from seen_jax.models.checkpoint import parameter_shapes
from seen_jax.train.config import ModelSize
from seen_jax.train.export import write_folder, write_weights

if NAME == "random":
    temporary = tempfile.TemporaryDirectory()  # deleted when the kernel ends
    NAME, rng, words = Path(temporary.name) / "random", np.random.default_rng(0), ("red", "green", "blue")
    size = ModelSize(n_mels=128, n_window=100, encoder_layers=2, decoder_layers=2)
    shapes = parameter_shapes(write_folder(NAME, size, words))
    draw = {path: rng.normal(path[-1] == "scale", 0.06, shape).astype("f4") for path, shape in shapes.items()}
    write_weights(NAME, unflatten_dict(draw))
print("model:", Path(NAME).name)

# %% [markdown]
# ## The encoder alone
#
# SEE and calibration at an encoder site need no language model. For a real result calibrate on audio like yours, some
# dozens of clips; here it is 16 clips that ship with the package.

# %%
from seen_jax.audio import mix_at_snr, noise_for_clip
from seen_jax.data.items import load_clips

encoder = seen_jax.load(NAME, part="encoder")
clean = [item.wave for item in load_clips("calibration")[:16]]
noise = [noise_for_clip("white", len(wave), seed=i) for i, wave in enumerate(clean)]
calibration = seen_jax.calibrate(encoder, clean, noise, batch_size=4)
basis = calibration.select(seen_jax.Selection(method="complement", energy="sigma", layers="all"))
print("encoder:", encoder.config.encoder.layers, "layers in", encoder.dtype, "- ranks:", basis.ranks)

# %% [markdown]
# SEE of four clips in every layer. Look for layers in which the lines lie apart and in order, the noisiest on top:
# there the basis tells noise from audio. With random weights nothing of the kind has to be so.

# %%
items = load_clips("demo")[::12]
for snr in (-10, 0, 10, 20):
    noisy = [mix_at_snr(x.wave, noise_for_clip("white", len(x.wave), 100 + i), snr).audio for i, x in enumerate(items)]
    scores = seen_jax.score(encoder, noisy, basis, batch_size=4)
    plt.plot(100 * np.mean([score.per_layer for score in scores], axis=0), marker="o", label=f"{snr} dB")
plt.xticks(range(0, len(basis.ranks), max(1, len(basis.ranks) // 8)))
plt.ylim(bottom=0)
plt.xlabel("encoder layer")
plt.ylabel("SEE (%)")
plt.legend(title="SNR")
plt.show()

# %% [markdown]
# ## The whole model, in 8 bits
#
# `weights="int8"` stores the matrices of the language model as 8-bit integers; the encoder stays as it was. So SEE is
# the same to the bit, and the basis still fits.

# %%
import jax

if WEIGHTS != "none":
    whole = seen_jax.load(NAME, weights=WEIGHTS)
    size = lambda model: sum(x.nbytes for x in jax.tree.leaves(model.variables)) / 1e6
    print(f"in memory: the encoder {size(encoder):.1f} MB, the whole model {size(whole):.1f} MB")
    after = seen_jax.score(whole, noisy, basis, batch_size=4)
    print("the same SEE as the encoder alone:", [score.see for score in after] == [score.see for score in scores])

# %% [markdown]
# Answers with SEEN in the encoder. Expect nonsense of a random model.

# %%
if WEIGHTS != "none":
    decoding = seen_jax.Decoding(max_new_tokens=8)
    prompts = [item.prompt for item in items]
    answers = seen_jax.generate(whole, noisy, prompts, basis=basis, decoding=decoding)
    for item, answer in zip(items, answers):
        print(f"{item.task}: {answer.text!r}, SEE {answer.see:.3f} before SEEN, {answer.see_after:.3f} after")

# %% [markdown]
# ## Next
#
# - [authors_bases](https://github.com/seen-jax/seen-jax/blob/main/colab/authors_bases.ipynb): the bases that the
#   paper's authors released for three of these models.
# - [Hardware](https://github.com/seen-jax/seen-jax/blob/main/docs/hardware.md): every model and device, and several
#   devices at once. [Number types](https://github.com/seen-jax/seen-jax/blob/main/docs/precision.md): what int8 costs.
