"""Serves a page and an HTTP interface for single pictures: sapl serve --checkpoint DIR.

Drop a picture into the browser; see its score, its heat map and its mask. Programs send theirs:

curl --data-binary @picture.jpg "http://127.0.0.1:7860/analyse?image=mask"

GET /docs, /health and /version say the rest. Beyond this machine (--host) the environment
must hold SAPL_TOKEN, which programs send as "Authorization: Bearer TOKEN" and the page's user
"sapl" types as the password. Needs the extra "serve".
"""

import argparse
import logging
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

from sapl_jax.command_line import WHICH_HELP
from sapl_jax.errors import Parser, UserError, check_checkpoint, check_numbers, run_main
from sapl_jax.files import tree_sha256

log = logging.getLogger(__name__)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser("sapl serve", __doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, help="a training run's folder or an export; without: "
        "the package's model for photographs")  # fmt: skip
    add("--which", choices=("last", "best"), help=WHICH_HELP)
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in")
    add("--port", type=int, default=7860)
    add("--max-megabytes", type=int, default=50, help="of an uploaded file")
    add("--max-megapixels", type=int, default=50, help="of an uploaded picture")
    add("--concurrency", type=int, default=2, help="pictures at once, of the page and of HTTP each")
    add("--no-token", action="store_true", help="let everyone in who reaches --host")
    return parser.parse_args(arguments)


def required_token(host: str, no_token: bool) -> str:
    """The token that visitors must know, from SAPL_TOKEN; UserError where one is needed."""
    token = os.environ.get("SAPL_TOKEN", "")
    if not token and not no_token and host not in ("127.0.0.1", "localhost", "::1"):
        raise UserError(
            f"On {host} other machines can reach this. Set SAPL_TOKEN to a secret that they must "
            "know, or let everyone in with --no-token."
        )
    if not token.isascii() or token != token.strip():
        raise UserError("SAPL_TOKEN: expected ASCII, without blanks or a line's end around it")
    return "" if no_token else token


def check_address(host: str, port: int) -> None:
    """UserError where the port is taken or the address is not this machine's."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise UserError(
            f"The page cannot listen on {host}, port {port}: {error}. Another program may use the "
            "port: give another --port."
        ) from error


def main() -> None:
    """The command."""
    arguments = parse_arguments(sys.argv[1:])
    ranges = {"max_megabytes": (1, 4096), "max_megapixels": (1, 500), "concurrency": (1, 64)}
    check_numbers(arguments, port=(1, 65535), **ranges)
    token = required_token(arguments.host, arguments.no_token)
    check_checkpoint(arguments.checkpoint)
    check_address(arguments.host, arguments.port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or files would stay behind
    with tempfile.TemporaryDirectory(prefix="sapl-page-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # Gradio reads it as it is imported.
        serve(arguments, token, Path(folder))
    # Python's own end would abort in the thread of a picture that is being analysed.
    os._exit(0)


def serve(arguments: argparse.Namespace, token: str, folder: Path) -> None:
    """Loads the model and serves until Ctrl-C or SIGTERM; what is written goes into the folder."""
    try:
        from sapl_jax.serving import page as pages
        from sapl_jax.serving.api import build_api
    except ModuleNotFoundError as error:
        if error.name not in ("gradio", "starlette", "fastapi"):
            raise
        raise UserError(
            "The page needs Gradio, which is not installed: pip install 'sapl-jax[serve]'."
        ) from error
    import numpy as np

    from sapl_jax.devices import use_compilation_cache
    from sapl_jax.inference.localizer import Localizer
    from sapl_jax.inference.opening import NOTICE
    from sapl_jax.serving.analysis import Downloads, Limits, write_examples

    use_compilation_cache()
    localizer = Localizer.load(arguments.checkpoint, which=arguments.which)
    log.info("compiling the model")
    for side in (64, localizer.tile + 1):  # so that the first visitor does not wait for it
        localizer(np.zeros((side, side, 3), np.uint8))
    pixels = arguments.max_megapixels * 1_000_000
    limits = Limits(arguments.max_megabytes, pixels, arguments.concurrency)
    sha256 = tree_sha256(Path(localizer.source["weights"]))
    model = {"checkpoint": localizer.source["checkpoint"], "sha256": sha256}
    api = build_api(localizer, limits, model=model, token=token)
    examples = write_examples(folder / "examples")
    notice, port = "" if arguments.checkpoint else NOTICE, arguments.port
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    page = pages.build_page(localizer, limits, Downloads(folder), notice=notice, examples=examples)
    check_address(arguments.host, port)  # Loading takes time to be overtaken in.
    log.info("open http://%s:%d in a browser; Ctrl-C ends it", host, port)
    pages.launch(page, limits, host=host, port=port, routes=api.routes, token=token)


if __name__ == "__main__":
    run_main(main)
