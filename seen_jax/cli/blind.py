"""Fit the blind score of a model: its answers about clean clips, and about each with every noise at an SNR of its own.

`seen-jax score CLIPS --blind OUT` then says how likely noise changed an answer, without noise clips and without the
clean clip. seen-tiny brings its own. Never fit to clips that are scored later."""

from pathlib import Path
from typing import Any

from seen_jax.cli._output import Result, check_writable, progress, table
from seen_jax.cli._parser import COUNT, INT, NOISE, NUMBERS, Parser, seed
from seen_jax.errors import ConfigError

EXAMPLES = """seen-jax blind seen-tiny/train-100 --out blind
seen-jax blind clips.csv --model path/to/folder --noise white babble --clips 200 --out blind"""


def options(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "data", metavar="DATA", help="a data set as `seen-jax evaluate` takes it: a CSV, MMAU, seen-tiny/train-100, ..."
    )
    add("--out", required=True, metavar="FOLDER", help="where the blind model goes")
    add("--noise", nargs="+", metavar="SPEC", help=f"{NOISE} (default: seven synthetic ones)")
    add("--snr", type=NUMBERS, metavar="DB,DB", help="SNRs to draw from (default -10,-5,0,5,10,20,30)")
    add("--clips", type=COUNT, help="use at most so many clips, the tasks in turn (default all)")
    add("--max-new-tokens", type=INT, default=32, help="longest answer in tokens (default 32)")
    add("--seed", type=seed, default=0, help="of noises and draws (default 0)")
    add("--overwrite", action="store_true", help="replace a blind model that is there")
    parser.add_model()


def run(args: Any) -> Result:
    from seen_jax import api
    from seen_jax.blind import NOISES, SNRS
    from seen_jax.cli import _inputs as inputs
    from seen_jax.data.datasets import DatasetConfig, load_dataset
    from seen_jax.evaluate.prepare import in_turns

    out = Path(args.out).expanduser()
    if out.exists() and not args.overwrite:
        raise ConfigError(f"{out} exists: choose another --out or pass --overwrite.")
    check_writable(out)
    noises, snrs = args.noise or NOISES, args.snr or SNRS
    inputs.check_snrs(snrs)
    for noise in noises:
        inputs.read_noise(noise, "calibration")
    entries = load_dataset(DatasetConfig(args.data))
    entries = [entries[i] for i in in_turns(entries)[: args.clips]]
    with progress() as report:
        items = [entry.item() for entry in entries]
        model = inputs.load_model(args, report)
        words: Any = {"max_new_tokens": args.max_new_tokens, "seed": args.seed, "card": {"dataset": args.data}}
        words |= {"batch_size": args.batch_size, "progress": report}
        prompts = [item.prompt for item in items]
        blind = api.fit_blind(model, [item.wave for item in items], prompts, noises, snrs, **words)
    folder = blind.save(out, args.overwrite)
    data = {"model": model.name, "folder": str(folder), "clips": len(items)}
    data |= {key: blind.card[key] for key in ("noises", "snrs_db", "answers", "changed")}
    rows = [[key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)] for key, value in data.items()]
    return Result(data, [table(["blind model", ""], rows)])
