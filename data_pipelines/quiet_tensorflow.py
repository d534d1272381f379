"""TensorFlow without its start-up notes on CPUs and absent GPUs, which would hide ours."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _hold_stderr() -> Iterator[None]:
    """Keeps what C++ code writes to stderr, and gives it back if the code in the block fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            yield
        except BaseException:
            notes.seek(0)
            os.write(kept, notes.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


with _hold_stderr():
    import tensorflow as tf

    # The accelerator belongs to JAX; TensorFlow would take all of its memory.
    tf.config.set_visible_devices([], "GPU")
    tf.config.set_visible_devices([], "TPU")
