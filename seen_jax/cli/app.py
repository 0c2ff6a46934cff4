"""Try the method in a browser: record, upload or pick a clip, add noise, see SEE over time, read the answers.

The model is calibrated once at the start, on clips that ship with the package, unless --basis names what to use. The
page is served to this machine alone, unless --host says otherwise. Ctrl-C ends it."""

import time
from typing import Any

from seen_jax.cli import _signals as signals
from seen_jax.cli._inputs import check_basis, find_artefact, load_model, model_config, read_basis
from seen_jax.cli._memory import check_memory
from seen_jax.cli._output import Result, note, progress
from seen_jax.cli._parser import BASIS, COUNT, NUMBER, Parser
from seen_jax.errors import ConfigError
from seen_jax.models.memory import ENCODER, WHOLE
from seen_jax.models.sites import ENCODER_MLP_ACT

EXAMPLES = """seen-jax app
seen-jax app --part encoder --max-seconds 10
seen-jax app --model Qwen/Qwen2-Audio-7B-Instruct --basis calibrations/white --dtype bfloat16"""
PORTS = range(1, 65536)


def options(parser: Parser) -> None:
    parser.add_argument("--basis", metavar="FOLDER", help=f"instead of calibrating: {BASIS}")
    parser.add_argument("--part", choices=("encoder",), help="load the encoder alone: a noise meter without answers")
    text = "address to listen at (default 127.0.0.1: this machine alone); 0.0.0.0 serves everybody who can reach it"
    parser.add_argument("--host", default="127.0.0.1", help=text)
    parser.add_argument("--port", type=COUNT, default=7860, help="(default 7860)")
    parser.add_argument("--max-seconds", type=NUMBER, default=30.0, metavar="S", help="longest clip (default 30)")
    parser.add_model()


def run(args: Any) -> Result:
    from seen_jax.app.page import gradio, serving
    from seen_jax.app.session import open_session

    if args.port not in PORTS or args.max_seconds <= 0:
        raise ConfigError("--port must be from 1 to 65535, and --max-seconds above 0.")
    gradio()
    folder = find_artefact(args.basis) if args.basis else None
    check_memory(args, args.max_seconds, ENCODER if args.part else WHOLE)
    with progress() as report:
        sources = None
        if folder is not None:
            basis, calibration = read_basis(folder, {}, model_config(args)[0])
            sources = {folder.name: calibration or basis}
        model = load_model(args, report, ENCODER_MLP_ACT if args.part else None)
        if folder is not None:
            check_basis(basis, folder, model.config, model.identity(basis.site))
        session = open_session(model, sources, args.max_seconds, args.batch_size, report)
    address = f"http://{args.host}:{args.port}"
    with serving(session, args.host, args.port) as page:
        note(f"{model.name} is at {address}; Ctrl-C ends it")
        while page.is_running:
            signals.check()
            time.sleep(0.2)
    return Result({"model": model.name, "address": address}, [])
