"""Damaged pictures are read or refused: decoders are C code, so they run where a crash shows."""

import json
import subprocess
import sys

import pytest

from data_pipelines.images import UnreadableImage, decode_image


def fuzz(count, seed, folder):
    """The outcomes of `count` mutations; a crash leaves its input in `folder`/current."""
    command = [sys.executable, "-m", "tests.data_pipelines.fuzz_pictures", "--keep", str(folder)]
    result = subprocess.run(
        [*command, "--count", str(count), "--seed", str(seed)],
        capture_output=True,
        text=True,
        timeout=1800,
    )
    crashed = f"status {result.returncode} at {folder / 'current'}: {result.stderr[-2000:]}"
    assert result.returncode == 0, crashed
    return json.loads(result.stdout.splitlines()[-1])


# Inputs that once ended in something else than an answer, kept from fuzzing.
CRASHING = {
    "big TIFF whose first page lies beyond 2^63 bytes": "49492b00780800001e263368ff06a8a1016eb023"
}


@pytest.mark.parametrize("name", CRASHING)
def test_inputs_that_crashed_once_are_refused(name):
    with pytest.raises(UnreadableImage):
        decode_image(bytes.fromhex(CRASHING[name]), name)


def test_10000_mutations_of_pictures_are_decoded_or_refused(tmp_path):
    outcomes = fuzz(10_000, 0, tmp_path)
    for what in ("picture", "mask"):
        decoded, refused = outcomes[f"{what} decoded"], outcomes[f"{what} refused"]
        assert decoded + refused == 10_000
        assert min(decoded, refused) > 1000  # Neither trivially broken nor untouched.


@pytest.mark.slow
def test_200000_mutations_of_pictures_are_decoded_or_refused(tmp_path):
    print(fuzz(200_000, 1, tmp_path))
