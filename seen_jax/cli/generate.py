"""Answer a prompt about every clip; with a basis, once as the model is and once with SEEN, side by side.

A manifest's column `prompt` (or `question`) wins over --prompt for its clip. --task asks as the paper does, in the
words of the model's family; a multiple choice takes the manifest's question and `choices`. With --noise and --snr the
clips are mixed with that noise first."""

import warnings
from typing import Any

from seen_jax import api
from seen_jax.cli._inputs import read_inputs
from seen_jax.cli._output import OUT, Result, check_file, percent, progress, table, write_out
from seen_jax.cli._parser import INT, NUMBER, Parser, seed, selection_fields
from seen_jax.errors import ConfigError
from seen_jax.models.generate import Decoding
from seen_jax.models.prompts import task_request

EXAMPLES = """seen-jax generate clips/ --prompt "transcribe the speech"
seen-jax generate clips/ --task transcription
seen-jax generate clips/ --basis calibrations/white --method complement --noise white --snr 0"""


def options(parser: Parser) -> None:
    add = parser.add_argument
    add("--prompt", help="the question about every clip (default: transcribe the speech)")
    add("--task", choices=("multiple_choice", "transcription"), help="use the model's prompt for it")
    add("--strength", type=NUMBER, default=1.0, help="SEEN's lambda: 0 only measures, 1 removes (default)")
    add("--snr", type=NUMBER, metavar="DB", help="of that noise (default 0)")
    add("--max-new-tokens", type=INT, default=256, help="longest answer in tokens (default 256)")
    add("--temperature", type=NUMBER, help="0 is greedy (default)")
    add("--top-k", type=INT, help="sample from the k likeliest tokens; 0 is off (default)")
    add("--top-p", type=NUMBER, help="sample from this share of probability (default 1)")
    add("--as-published", action="store_true", help="sample if generation_config.json says do_sample, as it says")
    add("--seed", type=seed, default=0, help="of sampling and noise (default 0)")
    parser.add_inputs(scores=False)


def run(args: Any) -> Result:
    decoding = _decoding(args)
    fields, out = selection_fields(args), check_file(args.out, OUT, args.overwrite)
    if args.prompt is not None and not args.prompt.strip():
        raise ConfigError("--prompt is empty: ask something, or leave it out.")
    if args.task == "transcription" and args.prompt is not None:
        raise ConfigError("--task transcription brings its own prompt: leave out --prompt.")
    if fields and not args.basis:
        option = next(iter(fields)).replace("_", "-")
        raise ConfigError(f"--{option} selects from a calibration: give one with --basis.")
    if args.snr is not None and not args.noise:
        raise ConfigError("--snr needs a --noise to mix in.")
    snr = (args.snr or 0.0) if args.noise else None
    with progress() as report:
        inputs = read_inputs(args, fields, [] if snr is None else [snr], report)
        items, audio = inputs.items, list[Any](inputs.waves(snr))
        prompts = [item.prompt or args.prompt or ("" if args.task else api.DEFAULT_PROMPT) for item in items]
        if args.task:
            asked = zip(items, audio, prompts, strict=True)
            audio = [task_request(inputs.model, args.task, wave, prompt, item.choices) for item, wave, prompt in asked]
        decoding = inputs.model.decoding(args.max_new_tokens) if args.as_published else decoding
        options = {"decoding": decoding, "seed": args.seed, "batch_size": args.batch_size}
        plain = api.generate(inputs.model, audio, prompts, progress=report, **options)
        facts = lambda answer: {"answer": answer.text, "finished": answer.finished}
        rows: list[dict[str, Any]] = []
        for item, prompt, answer in zip(items, prompts, plain, strict=True):
            rows.append({"id": item.id, "path": str(item.path), "prompt": prompt} | facts(answer))
        if inputs.basis is not None:
            tick = lambda stage, done, total: report(f"{stage} with SEEN", done, total)
            options |= {"basis": inputs.basis, "strength": args.strength, "progress": tick}
            for row, answer in zip(rows, api.generate(inputs.model, audio, prompts, **options), strict=True):
                row |= {"answer_seen": answer.text, "see": answer.see, "see_after": answer.see_after}
                row["finished"] &= answer.finished
    strength = args.strength if args.basis else None
    data = inputs.facts() | {"snr_db": snr, "task": args.task, "strength": strength, "clips": rows}
    cut = sum(not row["finished"] for row in rows)
    if cut:
        warnings.warn(f"{cut} of {len(rows)} answers were cut at --max-new-tokens {args.max_new_tokens}.", stacklevel=2)
    return write_out(out, Result(data, _view(data)), rows)


def _decoding(args: Any) -> Decoding:
    """What the options say about the answers."""
    given = {name: getattr(args, name) for name in ("temperature", "top_k", "top_p")}
    chosen = {name: value for name, value in given.items() if value is not None}
    if args.as_published and chosen:
        option = next(iter(chosen)).replace("_", "-")
        raise ConfigError(f"--as-published takes the folder's own --{option}: leave out one of them.")
    return Decoding(args.max_new_tokens, **chosen)


def _view(data: dict[str, Any]) -> list[Any]:
    mix = f", {data['noise']} at {data['snr_db']:g} dB" if data["noise"] else ""
    columns = ["clip", "prompt", "answer"]
    rows = [[r["id"], r["prompt"], r["answer"]] for r in data["clips"]]
    if data["basis"] is None:
        return [f"{data['model']}{mix}", table(columns, rows)]
    for row, r in zip(rows, data["clips"], strict=True):
        row += [r["answer_seen"], percent(r["see"]), percent(r["see_after"])]
    title = f"{data['model']}{mix}, basis {data['basis']}, strength {data['strength']:g}"
    return [title, table([*columns, "with SEEN", "#SEE", "#SEE after"], rows)]
