"""What the app shows, as HTML: everything that comes from files or models is escaped."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from jinja2 import Environment

from seen_jax.api import Score
from seen_jax.app.session import Answered, Wave
from seen_jax.report.blocks import data_uri
from seen_jax.report.figures import meter
from seen_jax.report.format import percent
from seen_jax.report.players import LOUDEST, wav_bytes
from seen_jax.subspace import NoiseBasis
from seen_jax.subspace.card import facts_table, layers_table

_PAGE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string
PLAYERS = _PAGE("""<div class="seen-cards">{% for name, uri, see, risk in rows %}
<div class="seen-card"><b>{{ name }}</b><audio controls preload="metadata" src="{{ uri }}"></audio>
<p>SEE {{ see }}{% if risk %} · risk {{ risk }}{% endif %}</p></div>{% endfor %}</div>""")
ANSWERS = _PAGE("""<div class="seen-cards">{% for title, words, see, risk in rows %}
<div class="seen-card"><b>{{ title }}</b>
<p class="seen-answer">{% for text, kind in words %}
{% if kind == "new" %}<mark>{{ text }}</mark>{% elif kind == "gone" %}<del>{{ text }}</del>{% else %}{{ text }}
{% endif %} {% else %}(empty){% endfor %}</p>
<p>SEE {{ see }}{% if risk %} · risk {{ risk }}{% endif %}</p></div>{% endfor %}</div>
<p class="seen-note">Against the first answer: <mark>new words</mark>, <del>words that are gone</del>.</p>""")
FIGURE = _PAGE("""<img src="{{ uri }}" alt="{{ name }}: waveform, log-mel spectrogram, SEE over time (mean {{ see }}), \
and SEE of every layer over time">""")
PROBLEM = _PAGE("""<p class="seen-problem" role="alert">{{ text }}</p>""")
CSS = """
.seen-cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 0.6rem; }
.seen-card { border: 1px solid var(--border-color-primary); border-radius: 6px; padding: 0.5rem 0.7rem; min-width: 0; }
.seen-card audio { width: 100%; height: 2.4rem; margin-top: 0.3rem; }
.seen-card p, .seen-note { margin: 0.2rem 0 0; font-size: 0.9rem; }
.seen-card .seen-answer { font-size: 1.05rem; overflow-wrap: anywhere; }
.seen-card mark, .seen-note mark { background: #ffd98a; color: #000; padding: 0 0.15em; border-radius: 2px; }
.seen-problem { border-left: 4px solid #d55e00; padding: 0.4rem 0.8rem; overflow-wrap: anywhere; }
.seen-figure img { width: 100%; max-width: 40rem; height: auto; display: block; margin: 0 auto; }
.seen-table table { display: block; overflow-x: auto; max-width: 100%; }
"""


def players(waves: Mapping[str, Wave], scores: Mapping[str, Score], risks: Mapping[str, float]) -> str:
    """A player of every wave with its SEE and risk. All have the same gain."""
    gain = LOUDEST / max(LOUDEST, *(float(np.abs(wave).max(initial=0)) for wave in waves.values()))
    rows = []
    for name, wave in waves.items():
        player = data_uri("audio/wav", wav_bytes(gain * wave))
        rows.append((name, player, percent(scores[name].see), _risk(risks.get(name))))
    return PLAYERS.render(rows=rows)


def figure(waves: Mapping[str, Wave], scores: Mapping[str, Score]) -> str:
    """The noisy wave, or the only one, with its log-mel, SEE of all over time, and SEE of every layer."""
    name = "noisy" if "noisy" in waves else next(iter(waves))
    lines = {}
    for key, score in scores.items():
        assert score.frames is not None and score.times is not None  # of `Session.measure`
        lines[key.partition(" (")[0]] = score.times, score.frames[list(score.kept)].mean(0)
    frames = scores[name].frames
    assert frames is not None
    buffer = io.BytesIO()
    meter(name, waves[name], lines, frames, scores[name].kept).savefig(buffer, dpi=150)
    return FIGURE.render(name=name, uri=data_uri("image/png", buffer.getvalue()), see=percent(scores[name].see))


def answers(rows: Sequence[Answered]) -> str:
    """The answers as cards, with changed words marked."""
    cards = []
    for row in rows:
        see = percent(row.see) if row.strength is None else f"{percent(row.see)} → {percent(row.see_after)}"
        title = row.audio if row.strength is None else f"{row.audio} + SEEN, λ = {row.strength:g}"
        cards.append((title, row.words, see, _risk(row.risk)))
    return ANSWERS.render(rows=cards)


def _risk(risk: float | None) -> str:
    return "" if risk is None else percent(risk, 0)


def problem(text: object) -> str:
    """A sentence that says what was wrong."""
    return PROBLEM.render(text=text)


def card(basis: NoiseBasis) -> str:
    """Where a basis comes from, as Markdown."""
    facts = basis.facts()
    return f"{facts_table(facts)}\n\n{layers_table(facts)}\n"
