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
# Measure noise *inside* an audio language model (SEE), and remove it during the forward pass (SEEN). Everything here
# runs on a CPU with the embedded model `seen-tiny`; on Colab, any runtime will do.

# %%
# On Colab: !pip install -q "seen-jax @ git+https://github.com/seen-jax/seen-jax"
# %matplotlib inline
import matplotlib.pyplot as plt
import numpy as np

import seen_jax
from seen_jax.audio import mix_at_snr, noise_for_clip
from seen_jax.data.items import load_clips

model = seen_jax.load("seen-tiny")
clean = [item.wave for item in load_clips("calibration")]
noise = [noise_for_clip("white", len(wave), seed=i) for i, wave in enumerate(clean)]
print(model)

# %% [markdown]
# ## Calibrate
#
# Clean and noise-only clips go through the encoder, and the pooled activations of one site are kept. You can change the
# selection later without rerunning the model.

# %%
calibration = seen_jax.calibrate(model, clean, noise, snr_db=0.0, card={"noise": "white"})
for method in ("threshold", "complement"):
    print(method, calibration.select(seen_jax.Selection(method=method)))
basis = calibration.select(seen_jax.Selection(method="complement", energy="sigma", layers="all"))

# %% [markdown]
# ## Measure: SEE against SNR

# %%
items = load_clips("demo")[:12]
snrs = [-10, -5, 0, 5, 10, 20, 30]
curve = []
for snr in snrs:
    noisy = [mix_at_snr(x.wave, noise_for_clip("white", len(x.wave), 100 + i), snr).audio for i, x in enumerate(items)]
    curve.append(np.mean([score.see for score in seen_jax.score(model, noisy, basis)]))
plt.plot(snrs, 100 * np.array(curve), marker="o")
plt.xlabel("SNR (dB)")
plt.ylabel("SEE (%)")
plt.title("Share of activation energy along noise directions")
plt.show()

# %% [markdown]
# ## Measure over time: noise in the middle of a clip

# %%
clip = items[0].wave
burst = np.zeros_like(clip)
middle = slice(len(clip) // 3, 2 * len(clip) // 3)
burst[middle] = noise_for_clip("white", len(clip), 7)[middle]
score = seen_jax.score(model, mix_at_snr(clip, burst, 0.0).audio, basis, frames=True)
plt.plot(score.times, 100 * score.frames[list(score.kept)].mean(axis=0))
plt.axvspan(middle.start / 16000, middle.stop / 16000, alpha=0.2)
plt.xlabel("time (s)")
plt.ylabel("SEE (%)")
plt.show()

# %% [markdown]
# ## Remove: answers with and without SEEN

# %%
noisy = [mix_at_snr(x.wave, noise_for_clip("white", len(x.wave), 100 + i), 5).audio for i, x in enumerate(items)]
prompts = [x.prompt for x in items]
plain = seen_jax.generate(model, noisy, prompts)
edited = seen_jax.generate(model, noisy, prompts, basis=basis, strength=1.0)
for item, a, b in zip(items, plain, edited, strict=True):
    print(f"{item.task:14s} truth {item.answer!r:40s} noisy {a.text!r:40s} + SEEN {b.text!r}  SEE {b.see:.3f}")

# %% [markdown]
# ## Look inside: activations under any edit
#
# `run` returns activations and logits of one forward pass. Edits are data: SEEN, a steering vector, a linear map.

# %%
edits = seen_jax.projection(model, basis, strength=1.0)
result = seen_jax.run(model, noisy[0], prompts[0], sites=["encoder.resid", "decoder.resid"], edits=edits)
print(result)
print("SEE per layer before", result.see["encoder.mlp_act"].before, "and after", result.see["encoder.mlp_act"].after)
