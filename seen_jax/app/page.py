"""The page of the app: Gradio components around `session`, and the server that shows them."""

import contextlib
import html
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from seen_jax.app import views
from seen_jax.app.session import ADDED, LONGEST_PROMPT, METHODS, NO_NOISE, NOISES, Choice, Session, denoisers
from seen_jax.data.items import CLIPS, clip_rows
from seen_jax.errors import ConfigError, SeenError
from seen_jax.models.processor import DEFAULT_PROMPT

MISSING = 'the app needs gradio: pip install "seen-jax[app]".'
LAMBDA, ALPHA, DELTA = "\N{GREEK SMALL LETTER LAMDA}", "\N{GREEK SMALL LETTER ALPHA}", "\N{GREEK SMALL LETTER DELTA}"
MOST_BYTES = "20 MB"  # of an upload
MOST_WAITING = 16  # requests in the queue
KEPT_SECONDS = (600, 3600)  # how often uploads are looked through, and how old they get
SNRS = (-10, 30, 0)  # lowest, highest and first, in dB
SEE = """**SEE** is the share of a model's activation energy that lies along directions which only noise uses."""
METER = f"""# SEE: how much noise an audio encoder sees
{SEE} Pick, record or upload a clip, add noise, and watch."""
WHOLE = f"""# SEE and SEEN: noise inside an audio language model
{SEE} **SEEN** projects those directions out while the model answers. Pick, record or upload a clip,
add noise, and watch."""
OF_SEE = """- SEE is the share of **this model's** activations along directions of **the noises of the basis**. It is no
  score of quality: another model, basis or selection gives another number.
- SEE of clean audio is not zero: compare with the clean line.
- The risk, where there is one, is the probability that noise changes the answer. It was calibrated on clips like those
  that ship with the package; on other recordings it is a guess.
"""
OF_ANSWERS = """- SEEN may change answers for the worse, also those about clean audio: therefore the clean clip is
  answered with it too. After SEEN of strength 1 SEE is zero by construction.
"""
OF_TINY = """- The model here, seen-tiny, is the small one of the package. It was trained on short synthetic clips of
  four tasks: about recordings of yours it knows little, and their SEE is what such an encoder makes of them.
"""
OF_CLIPS = """- Clips of up to {seconds:g} s and {size} are taken. They stay on the machine that serves this page, for
  two hours at most. The first clip of another length takes longer: its program is compiled once.
"""


def gradio() -> Any:
    """The module gradio, which sends nothing about its use to anybody. Raises ConfigError where it is missing."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio as gr
    except ImportError:
        raise ConfigError(MISSING) from None
    return gr


def build(session: Session, computing: threading.Lock) -> Any:
    """The page as `gradio.Blocks`. A model without its decoder is a noise meter alone. computing: held while the model
    runs."""
    gr = gradio()
    answers = session.model.has_decoder
    rows = {row.id.removeprefix("demo-"): row for row in clip_rows("demo")}
    first = next(iter(rows))
    with gr.Blocks(title="seen-jax", analytics_enabled=False, delete_cache=KEPT_SECONDS) as page:
        gr.Markdown(WHOLE if answers else METER)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                picked = gr.Dropdown(list(rows), value=first, label="pick a clip")
                clip: Any = gr.Audio(str(rows[first].path), sources=["upload", "microphone"], type="filepath",
                                     label=f"or upload or record, {session.seconds:g} s at most", editable=False,
                                     buttons=[])  # fmt: skip
                audio = _audio_inputs(gr)
            with gr.Column(scale=5, min_width=300):
                players = gr.HTML(elem_id="players")
                figure = gr.HTML(elem_id="figure", elem_classes="seen-figure")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                prompt = gr.Textbox(rows[first].extra.get("prompt") or DEFAULT_PROMPT, label="prompt",
                                    max_length=LONGEST_PROMPT, visible=answers)  # fmt: skip
                strength = gr.Slider(0, 2, 1, step=0.05, label=f"strength {LAMBDA} of SEEN", visible=answers)
                choice = _choice_inputs(gr, session)
            with gr.Column(scale=5, min_width=300):
                cards = gr.HTML(elem_id="answers", visible=answers)
                with gr.Accordion("The basis", open=False):
                    card = gr.Markdown(elem_id="card", elem_classes="seen-table")
                with gr.Accordion("What this shows, and what it does not"):
                    gr.Markdown(limits(session))
        meter_inputs, answer_inputs = [clip, *audio, *choice], [clip, *audio, *choice, prompt, strength]
        common: dict[str, Any] = {"trigger_mode": "always_last", "concurrency_id": "model", "concurrency_limit": 1}
        common |= {"api_visibility": "private", "show_progress": "minimal"}
        chosen = picked.input(lambda name: _picked(rows[name]), picked, [clip, prompt], api_visibility="private")
        # what a person does: `change` also fires where the server sets a value
        changes = [page.load, clip.upload, clip.stop_recording, clip.clear]
        changes += [component.input for component in (*audio, *choice)]
        show, shown = _shown(session, computing, gr), [players, figure, card]
        gr.on(changes, show, meter_inputs, shown, **common)
        chosen.then(show, meter_inputs, shown, **common)
        if answers:
            answer = _answered(session, computing)
            gr.on([*changes, prompt.submit, prompt.blur, strength.input], answer, answer_inputs, cards, **common)
            chosen.then(answer, answer_inputs, cards, **common)
    return page.queue(max_size=MOST_WAITING, default_concurrency_limit=1)


@contextlib.contextmanager
def serving(session: Session, host: str = "127.0.0.1", port: int = 7860) -> Iterator[Any]:
    """A running server: its `gradio.Blocks`. It ends with the block, once nothing is being computed: a thread that is
    inside JAX when Python ends would end the process with an error.
    Raises ConfigError where the host or port cannot be used."""
    computing = threading.Lock()
    page, gr = build(session, computing), gradio()
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # none of other servers
    try:
        page.launch(
            server_name=host, server_port=port, share=False, prevent_thread_lock=True, quiet=True, ssr_mode=False,
            show_error=True, max_file_size=MOST_BYTES.replace(" ", "").lower(), allowed_paths=[str(CLIPS)],
            enable_monitoring=False, theme=gr.themes.Default(**fonts), css=views.CSS, footer_links=[],
        )  # fmt: skip
    except OSError as error:
        raise ConfigError(f"the app cannot listen at {host}:{port}: {error}; choose another --port.") from None
    try:
        yield page
    finally:
        page.close(verbose=False)
        with computing:
            pass


def limits(session: Session) -> str:
    """What the numbers of a session mean and do not mean, as Markdown."""
    parts = [OF_SEE, OF_ANSWERS * session.model.has_decoder, OF_TINY * (session.blind is not None)]
    return "".join(parts) + OF_CLIPS.format(seconds=session.seconds, size=MOST_BYTES)


def _audio_inputs(gr: Any) -> list[Any]:
    """Noise, SNR and denoiser."""
    lowest, highest, first = SNRS
    return [
        gr.Dropdown([NO_NOISE, *NOISES], value=NOISES[0], label="add noise"),
        gr.Slider(lowest, highest, first, step=1, label="SNR (dB)"),
        gr.Dropdown(
            [(name.replace("_", " "), name) for name in denoisers()],
            value="spectral_subtraction",
            label="denoiser to compare with",
        ),
    ]


def _choice_inputs(gr: Any, session: Session) -> list[Any]:
    """The fields of a `Choice`."""
    default, names = Choice(), session.source_names
    kept, names = session.basis(Choice(names[-1])).layers, [*([ADDED] if len(names) > 1 else []), *names]
    layers = [str(layer) for layer in range(session.depth)]
    with gr.Accordion("Layers and directions of the basis", open=True):
        return [
            gr.Dropdown(names, value=names[0], label="noise that the basis is made of"),
            gr.Radio(list(METHODS), value=default.method, label="method", visible=session.selects),
            gr.Slider(0.5, 0.99, default.semantic_alpha, step=0.01, label=f"{ALPHA}: share of clean energy to spare",
                      visible=session.selects),
            gr.Slider(0.05, 1, default.delta, step=0.05, label=f"{DELTA}, of the method threshold",
                      visible=session.selects),
            gr.CheckboxGroup(layers, value=[str(layer) for layer in kept], label="layers"),
        ]  # fmt: skip


def _inputs(session: Session, values: Any) -> tuple[Any, Any]:
    """(waves, basis) of the values of the components."""
    path, noise, snr, denoise, source, method, alpha, delta, layers = values
    source = session.source_for(noise) if source == ADDED else source
    choice = Choice(source, method, alpha, delta, tuple(map(int, layers)))
    basis = session.basis(choice)
    return session.waves(session.read(path), noise, snr, denoise), basis


def _shown(session: Session, computing: threading.Lock, gr: Any) -> Callable[..., Any]:
    def show(*values: Any) -> tuple[Any, Any, Any]:
        if values[0] is None:
            return views.problem("Pick, record or upload a clip."), "", ""
        try:
            with computing:
                waves, basis = _inputs(session, values)
                scores = session.measure(waves, basis)
                risks = {} if session.model.has_decoder else session.risks(waves)
            return views.players(waves, scores, risks), views.figure(waves, scores), views.card(basis)
        except SeenError as error:
            gr.Warning(html.escape(str(error)))
            return views.problem(error), "", ""

    return show


def _answered(session: Session, computing: threading.Lock) -> Callable[..., str]:
    def answer(*values: Any) -> str:
        *rest, prompt, strength = values
        if values[0] is None:
            return ""
        try:
            with computing:
                waves, basis = _inputs(session, rest)
                return views.answers(session.answers(waves, prompt, basis, strength))
        except SeenError as error:  # a warning about the clip is shown by the meter
            return views.problem(error)

    return answer


def _picked(row: Any) -> tuple[str, str]:
    """A clip that ships with the package, and its prompt."""
    path: Path = row.path
    return str(path), row.extra.get("prompt") or DEFAULT_PROMPT
