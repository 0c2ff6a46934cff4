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
# # The bases of the paper's authors
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/seen-jax/seen-jax/blob/main/colab/authors_bases.ipynb)
#
# The noise bases that the paper's authors released, their ranks, and the paper's figure 2: SEE against success. As it
# stands, the notebook writes and reads a basis of *seen-tiny* in the authors' file format, on any CPU, in about a
# minute. With internet and a T4 or a larger card, two constants bring the authors' own bases and their model.

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
# ## Which basis, and which model
#
# A basis fits the weights that it was made of, and no others. The released files do not say which those are; their
# SHA-256 does, so a file that is not the authors' is refused.

# %%
from seen_jax.subspace.identity import ORIGINS, RELEASES

RELEASED = ""  # with internet: "qwen2.5-omni/crowd"
MODEL, OPTIONS = "seen-tiny", {}  # and "Qwen/Qwen2.5-Omni-7B", {"weights": "int8"}; {"part": "encoder"} for SEE alone
NOISE = "white"  # and "babble"

for name, release in RELEASES.items():
    print(f"{name:24s} for {ORIGINS[release.folder].name}, {ORIGINS[release.folder].layers} layers")

# %% [markdown]
# ## Read it
#
# A released file is a PyTorch list with one matrix for each of the last layers of the encoder. It is read without
# PyTorch, and nothing in it is run. Without internet, we make such a file of a basis of our own.

# %%
import tempfile
from pathlib import Path

from seen_jax.audio import mix_at_snr, noise_for_clip
from seen_jax.data.items import load_clips
from seen_jax.subspace import load_released, save_released

model = seen_jax.load(MODEL, **OPTIONS)
if RELEASED:
    basis = seen_jax.NoiseBasis.from_released(RELEASED)
else:
    clean = [item.wave for item in load_clips("calibration")]
    noise = [noise_for_clip(NOISE, len(wave), seed=i) for i, wave in enumerate(clean)]
    calibration = seen_jax.calibrate(model, clean, noise)
    ours = calibration.select(seen_jax.Selection(method="complement", energy="sigma", layers=(1, 2, 3)))
    with tempfile.TemporaryDirectory() as folder:
        path = save_released(ours, Path(folder) / "vectors.pt")
        basis = load_released(path, layers=4, of_model=MODEL)
print(basis)

# %% [markdown]
# ## Few directions of many
#
# The rank is the number of noise directions in a layer; layers that the file leaves out have none. For
# `qwen2.5-omni/crowd` the authors kept the layers 23 to 31 of 32, with 3 to 15 directions out of 5120.

# %%
import matplotlib.pyplot as plt
import numpy as np

plt.bar(range(len(basis.ranks)), basis.ranks)
plt.xlabel("encoder layer")
plt.ylabel(f"rank, of {basis.q.shape[1]} directions")
plt.xticks(range(0, len(basis.ranks), max(1, len(basis.ranks) // 8)))
plt.show()

# %% [markdown]
# ## SEE per layer and SNR
#
# Clips that were not used in the calibration, clean and with noise. Look for lines in the order of the SNR. A layer of
# rank 0 has no SEE.

# %%
items = load_clips("demo")[::2]
noises = [noise_for_clip(NOISE, len(x.wave), seed=100 + i) for i, x in enumerate(items)]
waves = {snr: [mix_at_snr(x.wave, n, snr).audio for x, n in zip(items, noises)] for snr in (-10, -5, 0, 5, 10, 20)}
waves["clean"] = [x.wave for x in items]
scores = {snr: seen_jax.score(model, mixed, basis) for snr, mixed in waves.items()}
for i, (snr, of_clips) in enumerate(scores.items()):
    see = 100 * np.mean([score.per_layer for score in of_clips], axis=0)
    label = snr if snr == "clean" else f"{snr} dB"
    plt.plot(see, marker="o", color=plt.cm.viridis(i / len(scores)), label=label)
plt.xticks(range(0, len(basis.ranks), max(1, len(basis.ranks) // 8)))
plt.ylim(bottom=0)
plt.xlabel("encoder layer")
plt.ylabel("SEE (%)")
plt.legend(title="SNR")
plt.show()

# %% [markdown]
# ## The paper's figure 2: SEE against success
#
# GSR is the share of clips whose noisy answer is the clean one. Each point is one SNR. The paper reports correlations
# of -0.96 to -1.00. That says that SEE follows success *within one noise*; the SNR itself does so about as well.
# Between noises the level of SEE differs, so one threshold for all of them would be wrong. 24 clips are few: the points
# scatter.

# %%
from seen_jax.evaluate.metrics import gsr

if model.has_decoder:
    prompts = [item.prompt for item in items]
    answers = {snr: seen_jax.generate(model, mixed, prompts) for snr, mixed in waves.items()}
    texts = {snr: [answer.text for answer in of_clips] for snr, of_clips in answers.items()}
    x = 100 * np.array([np.mean([score.see for score in scores[snr]]) for snr in waves])
    y = 100 * np.array([gsr(texts["clean"], texts[snr]) for snr in waves])
    for snr, across, up in zip(waves, x, y):
        plt.annotate(snr if snr == "clean" else f"{snr} dB", (across, up), (6, 4), textcoords="offset points")
    plt.plot(x, y, "o")
    plt.xlabel("SEE (%)")
    plt.ylabel("GSR (%)")
    plt.show()
    print(f"Pearson r over the SNRs, without clean: {np.corrcoef(x[:-1], y[:-1])[0, 1]:.2f}")

# %% [markdown]
# ## Next
#
# - [your_own_voice](https://github.com/seen-jax/seen-jax/blob/main/colab/your_own_voice.ipynb): SEE over time in a clip
#   of your own.
# - [Released bases](https://github.com/seen-jax/seen-jax/blob/main/docs/models.md#bases-that-the-papers-authors-released)
#   and how files without a name are read; [Results](https://github.com/seen-jax/seen-jax/blob/main/docs/results.md):
#   this figure with 96 clips, four noises and intervals.
