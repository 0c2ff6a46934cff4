"""One self-contained HTML page of a demo: numbers, figures, players and answers, without any external resource."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from seen_jax.audio.features import SAMPLE_RATE
from seen_jax.data.items import Item
from seen_jax.evaluate.table import ALL, NONE, SEEN, Row, cells

TEMPLATE = Path(__file__).with_name("page.html.jinja")
NOTHING, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
CAPTIONS = {
    "see_by_snr": "SEE against SNR: share of activation energy in the noise basis, mean over clips and kept layers.",
    "gsr_by_snr": "GSR against SNR, with and without SEEN; bands are 95 % Wilson intervals.",
    "see_against_gsr": "GSR against SEE: one point per noise and SNR.",
    "see_by_layer": "SEE per layer, clean and noisy; the kept layers are shaded.",
    "localisation": "Where clean and noise activations part: distance and direction per layer.",
}


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def wav_bytes(wave: Float[np.ndarray, " samples"]) -> bytes:
    """16-bit WAV of a wave within [-1, 1]."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(wave, -1, 1 - 2**-15), SAMPLE_RATE, subtype="PCM_16", format="WAV")
    return buffer.getvalue()


def telling_snr(table: Sequence[Mapping[str, Any]], snrs: Sequence[float]) -> float:
    """The SNR at which the GSR without SEEN is nearest to one half: there the answers differ most among clips."""

    def distance(snr: float) -> float:
        own = [c["gsr"] for c in table if (c["snr_db"], c["mitigation"], c["task"]) == (snr, NONE, ALL)]
        return abs(float(np.mean(own)) - 0.5)

    return min(snrs, key=distance)


def examples(
    items: Sequence[Item],
    rows: Sequence[Row],
    noisy: Mapping[tuple[str, str], Float[np.ndarray, " _"]],
    snr_db: float,
) -> list[dict[str, Any]]:
    """What the page shows of some items: players and answers. noisy: {(item id, noise): wave at `snr_db`}.

    The two players of an item have one gain, so that the noise sounds as loud as it is.
    """
    by_id = {item.id: item for item in items}
    by_cell = cells(rows)
    shown = []
    for (name, noise), wave in noisy.items():
        item = by_id[name]
        gain = min(1.0, 0.98 / float(np.abs(wave).max()))
        keys = {"clean": (None, NONE), "noisy": (snr_db, NONE), "seen": (snr_db, SEEN)}
        answers = {key: by_cell[(noise, *place)][name] for key, place in keys.items()}
        shown.append(
            {
                "item": item,
                "noise": noise,
                "answers": answers,
                "same": {k: row.output.strip() == answers["clean"].output.strip() for k, row in answers.items()},
                "players": {
                    key: data_uri("audio/wav", wav_bytes((np.float32(gain) * w).astype(np.float32)))
                    for key, w in (("clean", item.wave), ("noisy", wave))
                },
            }
        )
    return shown


def percent(x: float | None, digits: int = 1) -> str:
    return NOTHING if x is None else f"{100 * x:.{digits}f} %"


def number(x: float | None, digits: int = 2) -> str:
    return NOTHING if x is None else f"{x:+.{digits}f}".replace("-", MINUS)


def snr(x: float | None) -> str:
    return "clean" if x is None else f"{x:g} dB".replace("-", MINUS)


def render(summary: Mapping[str, Any], shown: Sequence[Mapping[str, Any]], figures: Mapping[str, Path]) -> str:
    """The page. summary: what results.json holds. Every text is escaped; images and audio are data URIs."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "number": number, "snr": snr}
    images = [
        {"name": name, "caption": CAPTIONS[name], "uri": data_uri("image/png", figures[name].read_bytes())}
        for name in CAPTIONS
    ]
    every = [c for c in summary["conditions"] if c["task"] == ALL]
    index = {(c["noise"], c["snr_db"], c["mitigation"]): c for c in every}
    template = environment.from_string(TEMPLATE.read_text("utf-8"))
    return template.render(**summary, examples=shown, images=images, every=every, index=index)
