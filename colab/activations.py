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
# # Look at activations
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/seen-jax/seen-jax/blob/main/colab/activations.ipynb)
#
# You will see what noise does to the activations of an audio language model, layer by layer, and put clean activations
# back into a noisy run, which says where an edit could help. Any runtime will do; a minute on a CPU.

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

# %%
import matplotlib.pyplot as plt
import numpy as np

from seen_jax.audio import mix_at_snr, noise_for_clip
from seen_jax.data.items import load_clips
from seen_jax.models.model import forward

model = seen_jax.load("seen-tiny")
items = load_clips("demo")[::4]
prompts = [item.prompt for item in items]
clean = [item.wave for item in items]
noises = [noise_for_clip("babble", len(wave), seed=i) for i, wave in enumerate(clean)]


def at_snr(snr_db):
    return [mix_at_snr(wave, noise, snr_db).audio for wave, noise in zip(clean, noises)]


print(model)
print(seen_jax.SITES)

# %% [markdown]
# ## One forward pass
#
# `run` returns the activations of the sites that you name, on the host and without padding, like `run_with_cache` in
# TransformerLens.

# %%
sites = list(seen_jax.SITES)
quiet = seen_jax.run(model, clean, prompts, sites=sites)
loud = seen_jax.run(model, at_snr(0), prompts, sites=sites)
for site, activations in quiet[0].activations.items():
    print(f"{site:16s} {activations.shape}  [layers, positions, width]")
print("logits", quiet[0].logits.shape)

# %% [markdown]
# ## The residual stream of the encoder, layer by layer
#
# One spoken clip. Each panel shows 32 of the 192 channels over time; all share one colour scale. Look at what becomes
# of the silence at the beginning, which has activations of its own, and at the last row, which is what noise changes.

# %%
pair = [run.activations["encoder.resid"][:, :, :32] for run in (quiet[0], loud[0])]
rows = {"clean": pair[0], "babble, 0 dB": pair[1], "difference": pair[1] - pair[0]}
limit = np.quantile(np.abs(pair[0]), 0.99)
seconds = len(clean[0]) / 16_000
figure, axes = plt.subplots(3, 4, figsize=(9, 5.5), sharex=True, sharey=True, layout="constrained")
for row, (label, activations) in zip(axes, rows.items()):
    for layer, (axis, of_layer) in enumerate(zip(row, activations)):
        place = {"extent": (0, seconds, 0, of_layer.shape[1]), "aspect": "auto", "interpolation": "nearest"}
        image = axis.imshow(of_layer.T, cmap="RdBu", vmin=-limit, vmax=limit, **place)
        axis.set(title=f"layer {layer}" if label == "clean" else "", ylabel=label if layer == 0 else "")
figure.supxlabel("time (s)")
figure.supylabel("channel")
figure.colorbar(image, ax=axes, label="activation")
plt.show()

# %% [markdown]
# ## How far noise moves activations
#
# The distance of noisy from clean activations as a share of the clean ones' length, at every site and layer: 0 is no
# change, and 1.4 is what two unrelated vectors of equal length have.

# %%
figure, axis = plt.subplots(figsize=(7, 3.6))
for site in sites:
    ratios = []
    for a, b in zip(quiet, loud):
        x, y = a.activations[site], b.activations[site]
        ratios.append(np.linalg.norm(y - x, axis=(1, 2)) / np.linalg.norm(x, axis=(1, 2)))
    axis.plot(np.mean(ratios, axis=0), marker="o", label=site)
axis.set(xlabel="layer of the stack", ylabel="relative change at 0 dB", xticks=range(4), ylim=(0, None))
axis.legend(fontsize=8)
plt.show()

# %% [markdown]
# Decoder sites count the text positions too, which noise reaches only through attention, so their level is not
# comparable with the encoder's. The projector has one layer.
#
# ## Clean and noisy clips in two dimensions
#
# A principal component analysis of the activations at one site, each clip its mean over time. The axes are fitted to
# the clean clips and the clips at 0 dB together; the other SNRs are projected onto them.


# %%
def means(waves, site="encoder.mlp_act", layer=3):
    runs = seen_jax.run(model, waves, prompts, sites=[site])
    return np.stack([run.activations[site][layer].mean(axis=0) for run in runs])


levels = {"clean": means(clean), "10 dB": means(at_snr(10)), "5 dB": means(at_snr(5)), "0 dB": means(at_snr(0))}
fitted = np.concatenate([levels["clean"], levels["0 dB"]])
centre = fitted.mean(axis=0)
_, singular, components = np.linalg.svd(fitted - centre, full_matrices=False)
share = singular**2 / (singular**2).sum()
print(f"variance along the first two components: {share[0]:.0%} and {share[1]:.0%}")

# %%
tasks = [item.task for item in items]
markers = dict(zip(dict.fromkeys(tasks), "os^D"))
figure, axis = plt.subplots(figsize=(7, 4.5))
for k, (label, pooled) in enumerate(levels.items()):
    x, y = ((pooled - centre) @ components[:2].T).T
    for task, marker in markers.items():
        chosen = [i for i, name in enumerate(tasks) if name == task]
        name = label if task == tasks[0] else None
        axis.scatter(x[chosen], y[chosen], marker=marker, color=plt.cm.plasma(k / 4), label=name)
axis.set(xlabel=f"component 1 ({share[0]:.0%})", ylabel=f"component 2 ({share[1]:.0%})")
shapes = zip(("circle", "square", "triangle", "diamond"), markers)
axis.set_title(", ".join(f"{shape}: {task}" for shape, task in shapes), fontsize=9)
axis.legend()
plt.show()

# %% [markdown]
# Follow one marker from dark to bright. Kinds of audio lie apart when clean, and with more noise they move together,
# towards the noise. They do not move along one common direction away from the clean clips, which is one reason why
# taking out a few directions gains little on this model.
#
# ## Means without keeping activations
#
# `run` brings whole activations to the host, which at 7B is more than a gigabyte per clip for all sites. A tap reduces
# them inside the layer: `Taps(sites, "mean")` returns the mean over the valid positions and nothing else.

# %%
requests = [seen_jax.Request([wave], prompt) for wave, prompt in zip(clean, prompts)]
batch = model.processor.prepare(requests)
tapped = model.tapped(seen_jax.Taps(("encoder.mlp_act",), "mean"))
pooled = forward(tapped, model.variables, batch, {}).taps["encoder.mlp_act"]
difference = np.abs(np.asarray(pooled)[3] - levels["clean"]).max()
print(pooled.shape, "[layers, clips, width]; as above:", bool(difference < 1e-4))

# %% [markdown]
# ## Put clean activations back
#
# `patch` answers a noisy clip with the activations of its clean version at one site, at some layers. If the clean
# answer does not come back, no edit there is expected to bring it back. Here: one layer at a time, at 0 dB.

# %%
noisy = at_snr(0)
wanted = [answer.text for answer in seen_jax.generate(model, clean, prompts)]
success = lambda answers: np.mean([a.text == text for a, text in zip(answers, wanted)])
plain = success(seen_jax.generate(model, noisy, prompts))
gained = {}
for site in ("encoder.mlp_act", "decoder.resid"):
    at_layer = lambda layer, site=site: seen_jax.patch(model, clean, noisy, site, layers=[layer], prompt=prompts)
    gained[site] = [success(at_layer(layer)) for layer in range(4)]
print(f"without a patch {plain:.0%} of the clean answers come back")

# %%
figure, axis = plt.subplots(figsize=(7, 3.6))
for k, (site, values) in enumerate(gained.items()):
    axis.bar(np.arange(4) + 0.3 * (k - 0.5), 100 * np.array(values), width=0.28, label=site)
axis.axhline(100 * plain, color="black", linestyle="--", label="no patch")
axis.set(xlabel="patched layer", ylabel="clean answers that come back (%)", xticks=range(4), ylim=(0, 105))
axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
plt.show()

# %% [markdown]
# The clean MLP activations of the encoder's first layer are enough: what follows has the clean clip in its residual
# stream again. Those of a later layer are only a part of it, and bring back some answers. In the decoder, the last
# layer is too late for what the answer's own tokens attend to below it. A whole layer of `encoder.resid` brings back
# every answer by construction, since nothing after it sees the noise. These are upper bounds: they say where an edit
# could work, not that one will.
#
# ## Inside and outside of a noise basis
#
# The same with a basis: clean activations inside its directions only (the most that SEEN could gain there), or outside
# of them.

# %%
calibration_clips = [item.wave for item in load_clips("calibration")]
babble = [noise_for_clip("babble", len(wave), seed=100 + i) for i, wave in enumerate(calibration_clips)]
calibration = seen_jax.calibrate(model, calibration_clips, babble)
basis = calibration.select(seen_jax.Selection(method="complement", layers="all"))
arguments = (model, clean, noisy, basis.site)
inside = success(seen_jax.patch(*arguments, subspace=basis, prompt=prompts))
outside = success(seen_jax.patch(*arguments, subspace=basis, outside=True, prompt=prompts))
everything = success(seen_jax.patch(*arguments, prompt=prompts))
seen = success(seen_jax.generate(model, noisy, prompts, basis=basis))
print(f"clean answers that come back at 0 dB: no edit {plain:.0%}, SEEN {seen:.0%}")
print(f"patched at all layers of {basis.site}: inside {inside:.0%}, outside {outside:.0%}, everything {everything:.0%}")

# %% [markdown]
# The directions are not the problem: clean activations inside of them bring back about half of the answers. SEEN
# cannot, because it takes out what lies there and puts nothing back. What would have to be put back differs from clip
# to clip, and the notebook on restoration estimates it. With twelve clips each answer is 8 points; the study `ceiling`
# of `seen-jax evaluate` gives intervals.
#
# Next: [SEE as a loss](https://github.com/seen-jax/seen-jax/blob/main/colab/see_as_a_loss.ipynb). Deeper: [how-to on
# activations and patching](https://github.com/seen-jax/seen-jax/blob/main/docs/howto.md#look-at-activations), and [the
# sites](https://github.com/seen-jax/seen-jax/blob/main/docs/architecture.md#one-idea).
