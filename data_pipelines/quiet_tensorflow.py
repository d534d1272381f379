"""TensorFlow without its start-up notes on CPUs and absent GPUs, which would hide ours."""

import os
import sys
import tempfile

# What C++ code writes to stderr is kept, and given back if the import fails.
sys.stderr.flush()
_stderr = os.dup(2)
with tempfile.TemporaryFile() as _notes:
    os.dup2(_notes.fileno(), 2)
    try:
        import tensorflow as tf

        # The accelerator belongs to JAX; TensorFlow would take all of its memory.
        tf.config.set_visible_devices([], "GPU")
        tf.config.set_visible_devices([], "TPU")
    except BaseException:
        _notes.seek(0)
        os.write(_stderr, _notes.read())
        raise
    finally:
        os.dup2(_stderr, 2)
        os.close(_stderr)
