"""Answer a prompt about every clip; with a basis, once as the model is and once with SEEN, side by side.

A manifest's column `prompt` (or `question`) wins over --prompt for its clip. --task asks as the paper does, in the
words of the model's family; a multiple choice takes the manifest's question and `choices`. With --noise and --snr the
clips are mixed with that noise first.
"""

from __future__ import annotations

from typing import Any

from seen_jax.cli._output import Result, one_line, percent, progress, table
from seen_jax.cli._parser import AUDIO, SPEC, Parser, add_basis, add_model, selection_fields

EXAMPLES = """
seen-jax generate clips/ --prompt "transcribe the speech"
seen-jax generate clips/ --task transcription
seen-jax generate clips/ --basis calibrations/white --method complement --noise white --snr 0
"""


def options(parser: Parser) -> None:
    from jsonargparse.typing import NonNegativeInt

    parser.add_argument("audio", nargs="+", metavar="AUDIO", help=AUDIO)
    parser.add_argument("--prompt", help="the question about every clip (default: transcribe the speech)")
    parser.add_argument("--task", choices=("multiple_choice", "transcription"), help="use the model's prompt for it")
    parser.add_argument(
        "--strength", type=float, default=1.0, help="SEEN's lambda: 0 only measures, 1 removes (default)"
    )
    parser.add_argument("--noise", metavar="SPEC", help=f"mix every clip with {SPEC}")
    parser.add_argument("--snr", type=float, metavar="DB", help="of that noise (default 0)")
    parser.add_argument("--max-new-tokens", type=int, default=32, help="longest answer in tokens (default 32)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--top-k", type=int, default=0, help="sample from the k likeliest tokens; 0 is off (default)")
    parser.add_argument("--top-p", type=float, default=1.0, help="sample from this share of probability (default 1)")
    parser.add_argument("--seed", type=NonNegativeInt, default=0, help="of sampling and noise (default 0)")
    add_model(parser)
    add_basis(parser, required=False)


def run(args: Any) -> Result:
    from seen_jax import api
    from seen_jax.cli import _inputs as inputs
    from seen_jax.errors import ConfigError
    from seen_jax.models.generate import Decoding
    from seen_jax.models.prompts import task_request

    decoding = Decoding(args.max_new_tokens, args.temperature, args.top_k, args.top_p)
    fields = selection_fields(args)
    if args.prompt is not None and not args.prompt.strip():
        raise ConfigError("--prompt is empty: ask something, or leave it out.")
    if args.task == "transcription" and args.prompt is not None:
        raise ConfigError("--task transcription brings its own prompt: leave out --prompt.")
    if fields and not args.basis:
        raise ConfigError(
            f"--{next(iter(fields)).replace('_', '-')} selects from a calibration: give one with --basis."
        )
    if args.snr is not None and not args.noise:
        raise ConfigError("--snr needs a --noise to mix in.")
    folder = inputs.find_artefact(args.basis) if args.basis else None
    basis = inputs.read_basis(folder, fields, args.model) if folder else None
    noise = inputs.read_noise(args.noise) if args.noise else None
    snr = None if noise is None else args.snr or 0.0
    clips = inputs.read_clips(args.audio)
    if snr is not None:
        inputs.check_mixable(clips, [snr])
    model = inputs.load_model(args, clips)
    if basis is not None and folder is not None:
        inputs.check_basis(model, basis, folder)
    waves: list[Any] = inputs.mixed(clips, noise, snr, args.seed)
    prompts = [clip.prompt or args.prompt or ("" if args.task else api.DEFAULT_PROMPT) for clip in clips]
    if args.task:
        waves = [
            task_request(model, args.task, wave, prompt, clip.choices)
            for clip, wave, prompt in zip(clips, waves, prompts, strict=True)
        ]
    common = {"decoding": decoding, "seed": args.seed, "batch_size": args.batch_size}
    with progress("answering") as tick:
        plain = api.generate(model, waves, prompts, progress=tick, **common)
    rows = [
        {"id": c.id, "path": str(c.path), "prompt": p, "answer": a.text}
        for c, p, a in zip(clips, prompts, plain, strict=True)
    ]
    if basis is not None:
        with progress("answering with SEEN") as tick:
            edited = api.generate(model, waves, prompts, basis, args.strength, progress=tick, **common)
        for row, answer in zip(rows, edited, strict=True):
            row |= {"answer_seen": answer.text, "see": answer.see, "see_after": answer.see_after}
    data = {
        "model": model.name,
        "basis": None if folder is None else str(folder),
        "task": args.task,
        "strength": args.strength if basis is not None else None,
        "noise": noise.name if noise else None,
        "snr_db": snr,
        "clips": rows,
    }
    return Result(data, _view(data))


def _view(data: dict[str, Any]) -> list[Any]:
    mix = f", {data['noise']} at {data['snr_db']:g} dB" if data["noise"] else ""
    columns = ["clip", "prompt", "answer"]
    rows = [[r["id"], one_line(r["prompt"]), one_line(r["answer"])] for r in data["clips"]]
    if data["basis"] is None:
        return [f"{data['model']}{mix}", table(columns, rows)]
    for row, r in zip(rows, data["clips"], strict=True):
        row += [one_line(r["answer_seen"]), percent(r["see"]), percent(r["see_after"])]
    title = f"{data['model']}{mix}, basis {data['basis']}, strength {data['strength']:g}"
    return [title, table([*columns, "with SEEN", "#SEE", "#SEE after"], rows)]
