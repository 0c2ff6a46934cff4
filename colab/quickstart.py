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
# # seen-jax in five minutes
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/seen-jax/seen-jax/blob/main/colab/quickstart.ipynb)
#
# Ten lines to the first SEE, the share of a model's activations that lies along noise directions. Then pictures: SEE
# against SNR and over time, and answers with and without SEEN, which takes these directions out. It runs with the small
# model *seen-tiny* that ships with the package, on any runtime, a CPU too, in about a minute.

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
# ## A first SEE
#
# Calibrate with clean clips and noise, select the directions of the activations that only the noise uses (a *basis*),
# and score a clip of speech that is not among the calibration clips. SEE lies between 0 and 1.

# %%
from seen_jax.audio import mix_at_snr, noise_for_clip
from seen_jax.data.items import load_clips  # ships with the package

model = seen_jax.load("seen-tiny")
clean = [item.wave for item in load_clips("calibration")]
noise = [noise_for_clip("white", len(wave), seed=i) for i, wave in enumerate(clean)]
calibration = seen_jax.calibrate(model, clean, noise, card={"noise": "white"})
basis = calibration.select(seen_jax.Selection(method="complement", energy="sigma", layers="all"))

items = load_clips("demo")[::4]
noisy = mix_at_snr(items[0].wave, noise_for_clip("white", len(items[0].wave), seed=100), snr_db=0).audio
print("clean", seen_jax.score(model, items[0].wave, basis))
print("0 dB ", seen_jax.score(model, noisy, basis))

# %% [markdown]
# ## How much of a layer is noise
#
# A basis has some directions in each layer (its rank), out of the layer's width. You can change the selection later
# without running the model again.

# %%
import matplotlib.pyplot as plt
import numpy as np

print(basis, "of a layer width of", basis.q.shape[1])
layers = np.arange(len(basis.ranks))
for name, wave in {"clean": items[0].wave, "0 dB": noisy}.items():
    plt.plot(layers, 100 * np.array(seen_jax.score(model, wave, basis).per_layer), marker="o", label=name)
plt.xticks(layers)
plt.ylim(bottom=0)
plt.xlabel("encoder layer")
plt.ylabel("SEE (%)")
plt.legend()
plt.show()

# %% [markdown]
# ## SEE against SNR
#
# The mean and each of twelve clips under white noise. Look at the slope: more noise gives more SEE. The clips spread,
# since clean audio has some energy along these directions too, so a single SEE does not tell the SNR of a clip.

# %%
snrs = [-10, -5, 0, 5, 10, 20, 30]
seeds = range(100, 100 + len(items))
noises = [noise_for_clip("white", len(x.wave), seed) for x, seed in zip(items, seeds)]
mixed = {snr: [mix_at_snr(x.wave, n, snr).audio for x, n in zip(items, noises)] for snr in snrs}
see = np.array([[score.see for score in seen_jax.score(model, mixed[snr], basis)] for snr in snrs])
plt.plot(snrs, 100 * see, color="lightgrey")
plt.plot(snrs, 100 * see.mean(axis=1), marker="o", label="mean")
plt.ylim(bottom=0)
plt.xlabel("SNR (dB)")
plt.ylabel("SEE (%)")
plt.legend()
plt.show()

# %% [markdown]
# ## SEE over time
#
# White noise in the middle third of a clip only (shaded). SEE is highest there, in peaks; it also moves with the speech
# itself, as it does outside of the shade.

# %%
clip = items[0].wave
burst = np.zeros_like(clip)
middle = slice(len(clip) // 3, 2 * len(clip) // 3)
burst[middle] = noises[0][middle]
score = seen_jax.score(model, mix_at_snr(clip, burst, snr_db=0).audio, basis, frames=True)
plt.plot(score.times, 100 * score.frames[list(score.kept)].mean(axis=0))
plt.axvspan(middle.start / 16000, middle.stop / 16000, alpha=0.2, label="noise")
plt.ylim(bottom=0)
plt.xlabel("time (s)")
plt.ylabel("SEE (%)")
plt.legend()
plt.show()

# %% [markdown]
# ## Answers with and without SEEN
#
# SEEN projects the activations away from the basis during the forward pass. A star marks an answer that it changes,
# for better or for worse: over the whole test set of seen-tiny it gains 0.0 points up to 10 dB. Twelve clips show how
# it is called, not how good it is.

# %%
prompts = [item.prompt for item in items]
plain = seen_jax.generate(model, mixed[5], prompts)
edited = seen_jax.generate(model, mixed[5], prompts, basis=basis, strength=1.0)
for item, before, after in zip(items, plain, edited):
    star = "*" if before.text != after.text else " "
    print(f"{star} {item.task}, SEE {after.see:.3f}")
    print(f"    true   {item.answer}\n    noisy  {before.text}\n    + SEEN {after.text}")

# %% [markdown]
# ## Next
#
# - [real_model](https://github.com/seen-jax/seen-jax/blob/main/colab/real_model.ipynb): a published audio language
#   model on the card that you have.
# - [The method in pictures](https://github.com/seen-jax/seen-jax/blob/main/docs/concepts.md): what SEE, SEEN, a site
#   and a basis are. [Results](https://github.com/seen-jax/seen-jax/blob/main/docs/results.md): what we measured.
