"""A Space that shows how much noise an audio encoder sees: the encoder of seen-tiny alone, on a free CPU."""

import os

import seen_jax
from seen_jax.app.page import serving
from seen_jax.app.session import open_session

if __name__ == "__main__":
    session = open_session(seen_jax.load("seen-tiny", part="encoder"), seconds=15)
    # A Space says in this variable where to listen; elsewhere it is this machine alone.
    with serving(session, os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")) as page:
        page.block_thread()
