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
# # Your own voice
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/seen-jax/seen-jax/blob/main/colab/your_own_voice.ipynb)
#
# Record or upload a clip on Colab, add noise to it, and see when the encoder of a model is disturbed: SEE over time
# under waveform and spectrogram, and what the model answers. It runs on any CPU in less than a minute; as it stands,
# with a clip that ships with the package.

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
# ## A clip
#
# Up to 10 s count. The recorder needs a browser that lets this page use the microphone.

# %%
SOURCE = "clip"  # on Colab: "record" (5 s) or "upload"; elsewhere also the path of an audio file
NOISE, SNR = "babble", 0  # white, babble, engine or rain; in dB
PROMPT = ""  # for a clip of your own: "transcribe the speech"
NAME = "seen-tiny"  # on a T4: "Qwen/Qwen2.5-Omni-7B", with weights="int8" in `load` below

# %%
RECORDER = """async function record(milliseconds) {
  const stream = await navigator.mediaDevices.getUserMedia({audio: true});
  const recorder = new MediaRecorder(stream), parts = [];
  recorder.ondataavailable = event => parts.push(event.data);
  recorder.start();
  await new Promise(done => setTimeout(done, milliseconds));
  await new Promise(done => { recorder.onstop = done; recorder.stop(); });
  stream.getTracks().forEach(track => track.stop());
  const bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
  return btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(""));
}"""

# %%
import base64
import tempfile
from pathlib import Path

from seen_jax.audio import SAMPLE_RATE, mix_at_snr, noise_for_clip, read_audio
from seen_jax.data.items import load_clips

folder = tempfile.TemporaryDirectory()  # deleted when the kernel ends
item = load_clips("demo")[6]  # a sentence
if SOURCE == "clip":
    voice = item.wave
elif SOURCE == "record":
    from google.colab import output

    webm, wav = Path(folder.name) / "voice.webm", Path(folder.name) / "voice.wav"
    webm.write_bytes(base64.b64decode(output.eval_js(RECORDER + "\nrecord(5000)")))
    subprocess.run(["ffmpeg", "-v", "error", "-i", webm, wav], check=True)
    voice = read_audio(wav)
elif SOURCE == "upload":
    from google.colab import files

    voice = read_audio(next(iter(files.upload())))
else:
    voice = read_audio(SOURCE)
voice = voice[: 10 * SAMPLE_RATE]
print(f"{len(voice) / SAMPLE_RATE:.1f} s")

# %% [markdown]
# ## With noise
#
# At 0 dB the noise has as much power as the clip. The first player is the clean clip, the second the noisy one.

# %%
import soundfile
from IPython.display import Audio, display

noise = noise_for_clip(NOISE, len(voice), seed=100)
noisy = mix_at_snr(voice, noise, SNR).audio
for name, wave in {"clean": voice, "noisy": noisy}.items():
    path = Path(folder.name) / f"{name}.mp3"
    soundfile.write(path, wave / max(abs(noisy)), SAMPLE_RATE)
    print(name)
    display(Audio(path, embed=True))

# %% [markdown]
# ## SEE over time
#
# The basis comes from 48 clips of seen-tiny's kind and other pieces of the same noise. Under the waveform and the
# log-mel spectrogram: SEE of the clip clean and noisy, and SEE of every layer for the noisy one. Look at the gap
# between the two lines. Where it closes, the noise adds little, or the clean clip itself has much energy along these
# directions, as at the start. SEE says how much of the encoder's activity lies along noise directions, not whether the
# answer will be wrong.

# %%
# %matplotlib inline
from seen_jax.report.figures import meter

model = seen_jax.load(NAME)
clean = [item.wave for item in load_clips("calibration")]
noises = [noise_for_clip(NOISE, len(wave), seed=i) for i, wave in enumerate(clean)]
calibration = seen_jax.calibrate(model, clean, noises, card={"noise": NOISE})
basis = calibration.select(seen_jax.Selection(method="complement", energy="sigma", layers="all"))
scores = dict(zip(("clean", "noisy"), seen_jax.score(model, [voice, noisy], basis, frames=True)))
lines = {name: (score.times, score.frames[list(score.kept)].mean(axis=0)) for name, score in scores.items()}
meter(f"{NOISE}, {SNR} dB", noisy, lines, scores["noisy"].frames, scores["noisy"].kept)

# %% [markdown]
# ## The answer
#
# To the clip clean, noisy, after a Wiener filter, and with SEEN in the encoder. seen-tiny was trained on synthetic
# speech: of a human voice it understands next to nothing. One clip decides nothing: over the test set the Wiener filter
# helps, and SEEN changes success by 0.0 points.

# %%
prompt = PROMPT or item.prompt
wiener = seen_jax.audio.denoiser("wiener")(noisy)
answers = seen_jax.generate(model, [voice, noisy, wiener], prompt)
answers.append(seen_jax.generate(model, noisy, prompt, basis=basis))
print(prompt)
for name, answer in zip(("clean", "noisy", "Wiener", "SEEN"), answers):
    print(f"  {name:8s}{answer.text}")

# %% [markdown]
# ## Next
#
# - [restore_and_steer](https://github.com/seen-jax/seen-jax/blob/main/colab/restore_and_steer.ipynb): edits inside the
#   model that do help.
# - `seen-jax app` does this in a browser, with sliders:
#   [Try it in a browser](https://github.com/seen-jax/seen-jax/blob/main/docs/howto.md#try-it-in-a-browser).
