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
# # Restore, denoise, steer
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/seen-jax/seen-jax/blob/main/colab/restore_and_steer.ipynb)
#
# You will set five ways to deal with noise side by side on the same noisy clips, then add a steering vector and an
# edit of your own. Any runtime will do; about two minutes on a CPU.

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
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from seen_jax.audio import mix_at_snr, noise_for_clip
from seen_jax.data.datasets import DatasetConfig
from seen_jax.data.items import load_clips
from seen_jax.evaluate.config import ExperimentConfig
from seen_jax.evaluate.metrics import wilson
from seen_jax.evaluate.prepare import prepare
from seen_jax.evaluate.tables import UP_TO
from seen_jax.experiment import run
from seen_jax.progress import automatic

FIT, CLIPS = "seen-tiny/calibration", 48  # with seen-jax[train] installed: "seen-tiny/train-100", 400

# %% [markdown]
# ## The mitigations
#
# - `none`: the noisy clip as it is.
# - `seen`: SEEN projects the noise directions out of the encoder's MLP activations.
# - `restoration`: a linear map per noise and SNR, fitted to pairs of clean and noisy frames, puts back what noise took
#   from the residual stream; the clip itself says which maps to mix.
# - `wiener`: a Wiener filter on the waveform, before the model.
# - `wiener+restoration`: both, the maps fitted to filtered audio.
#
# An experiment runs them all on the same clips with the same noise. It keeps its answers in a folder and resumes
# there.

# %%
restoration = {"dataset": {"path": FIT}, "clips": CLIPS, "snrs": [0, 5]}
restoration |= {"layers": [2], "gate_layers": [0, 2], "rank": 32}
config = ExperimentConfig(
    datasets=(DatasetConfig("seen-tiny/demo"),),
    noises=("engine",),
    snrs=(5,),
    mitigations=(
        "none",
        "seen",
        {"name": "restoration", "restoration": restoration},
        "wiener",
        {"name": "wiener+restoration", "wiener": {}, "restoration": restoration},
    ),
    selection=seen_jax.Selection(method="complement", noise_source="difference", noise_alpha=0.95, layers=(2,)),
    task_prompts=False,  # the clips bring their own prompts
    max_new_tokens=12,
    batch_size=48,
    out=tempfile.mkdtemp(),
)

# %%
tables = run(prepare(config, automatic)).tables
labels = [chain.label for chain in config.chains]

# %% [markdown]
# ## Answers side by side
#
# The same clip under every mitigation, where the answer to the noisy clip is wrong.

# %%
answers = tables["answers"]
noisy = answers[answers["snr_db"] == 5].pivot(index="item", columns="mitigation", values="output")
clean = answers[answers["snr_db"].isna() & (answers["mitigation"] == "none")].set_index("item")["output"]
changed = noisy[noisy["none"] != clean[noisy.index]]
for item in changed.index[::7]:
    print(f"{item}\n  {'clean':20s} {clean[item]}")
    for label in labels:
        print(f"  {label:20s} {changed.loc[item, label]}")

# %% [markdown]
# ## How often the clean answer comes back
#
# GSR is the share of answers that equal the model's own clean answer. The gain is against `none` on the same clips,
# with the 95 % interval of a bootstrap over clips.

# %%
overall, comparisons = tables["overall"].set_index("mitigation"), tables["comparisons"]
at_5_db, clean = overall[overall["snr_db"] == 5], overall[overall["snr_db"].isna()]
chosen = (comparisons["against"] == "none") & (comparisons["group"] == UP_TO)  # 5 dB alone
gains = 100 * comparisons[chosen].set_index("mitigation")[["difference", "low", "high"]]
table = pd.DataFrame({"GSR, clean (%)": 100 * clean["gsr"], "GSR, 5 dB (%)": 100 * at_5_db["gsr"]})
table = table.join(gains.set_axis(["gain (points)", "from", "to"], axis=1)).loc[labels]
table.round(1)

# %%
figure, axis = plt.subplots(figsize=(7, 2.8))
shown = gains.loc[labels[:0:-1]]
errors = [shown["difference"] - shown["low"], shown["high"] - shown["difference"]]
axis.errorbar(shown["difference"], shown.index, xerr=errors, fmt="o", capsize=4)
axis.axvline(0, color="black", linewidth=1)
axis.set_xlabel("gain over no mitigation at 5 dB (points of GSR)")
figure.tight_layout()
plt.show()

# %% [markdown]
# With 48 clips and one noise the intervals are wide, and one clip is 2 points. An engine is steady, which suits a
# Wiener filter. What holds on 160 clips and four noises (docs/results.md): SEEN gains nothing (0.0 points, -0.8 to
# +0.8), the Wiener filter 9.3, restoration 2.5, and both together 12.0. There the maps were fitted to 400 clips; the
# 48 that ship are few for maps of 192 x 192, so do not expect restoration to help as much here, least of all after the
# filter.
#
# ## A steering vector
#
# The mean difference of clean and noisy activations at one site and layer, added to a noisy run. Here after decoder
# layer 1, made of the calibration clips.

# %%
model = seen_jax.load("seen-tiny")


def with_noise(items, seed):
    noises = [noise_for_clip("engine", len(item.wave), seed=seed + i) for i, item in enumerate(items)]
    return [mix_at_snr(item.wave, noise, 5).audio for item, noise in zip(items, noises)]


fit_items, layer = load_clips("calibration"), 1
fit_prompts, fit_clean = [item.prompt for item in fit_items], [item.wave for item in fit_items]
fit_noisy = with_noise(fit_items, 0)
batch = model.processor.prepare([seen_jax.Request([x], p) for x, p in zip(fit_clean, fit_prompts)])
is_audio = np.asarray(batch.audio_index) >= 0  # [clips, positions]


def at_audio_tokens(clips):
    runs = seen_jax.run(model, clips, fit_prompts, sites=["decoder.resid"])
    rows = [run.activations["decoder.resid"][layer] for run in runs]
    return np.concatenate([x[kept[: len(x)]] for x, kept in zip(rows, is_audio)])


a_noisy, a_clean = at_audio_tokens(fit_noisy), at_audio_tokens(fit_clean)
vector = (a_clean - a_noisy).mean(axis=0)
print(a_clean.shape, "[audio tokens of all clips, width]")

# %% [markdown]
# ## An edit of your own
#
# `linear_map` applies any matrix at any site. This one is a ridge regression from noisy to clean activations at the
# same place: the smallest restoration, in four lines.

# %%
mean_noisy, mean_clean = a_noisy.mean(axis=0), a_clean.mean(axis=0)
x, y = a_noisy - mean_noisy, a_clean - mean_clean
penalty = 0.1 * np.trace(x.T @ x) / len(vector) * np.eye(len(vector))
matrix = np.linalg.solve(x.T @ x + penalty, x.T @ y)
bias = mean_clean - mean_noisy @ matrix

# %%
items = load_clips("demo")[::2]
prompts, test = [item.prompt for item in items], with_noise(items, 1000)
clean_clips = [item.wave for item in items]
wanted = [answer.text for answer in seen_jax.generate(model, clean_clips, prompts)]


def success(edits):
    got = seen_jax.generate(model, test, prompts, edits=edits)
    return wilson(sum(a.text == text for a, text in zip(got, wanted)), len(wanted))


place = {"site": "decoder.resid", "layers": [layer], "text": 0.0}  # at audio tokens alone
edits = {"no edit": {}}
edits |= {f"steer, {s:g}": seen_jax.steering(model, vector=vector, strength=s, **place) for s in (1, 3)}
edits |= {f"map, {s:g}": seen_jax.linear_map(model, matrix=matrix, bias=bias, strength=s, **place) for s in (0.5, 1)}
results = {label: success(edit) for label, edit in edits.items()}
100 * pd.DataFrame(results, index=["GSR, 5 dB (%)", "from", "to"]).T.round(3)

# %% [markdown]
# Neither helps here. A steering vector moves every clip by the same amount, but what noise takes away differs from
# clip to clip. A map can follow the clip; this one is fitted to few clips, averages what it cannot predict, and comes
# after the encoder has lost most of it. Read the intervals before you believe a difference: with 24 clips each answer
# is 4 points. Edits are data, so other strengths, vectors and layers run the same compiled program.
#
# Next: [sweeps with vmap](https://github.com/seen-jax/seen-jax/blob/main/colab/sweep_with_vmap.ipynb). Deeper: [the
# method](https://github.com/seen-jax/seen-jax/blob/main/docs/method.md), [how-to on
# edits](https://github.com/seen-jax/seen-jax/blob/main/docs/howto.md#edit-activations), and [adding a
# mitigation](https://github.com/seen-jax/seen-jax/blob/main/docs/adding.md).
