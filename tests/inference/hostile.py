"""Files that no picture folder should hold, and real ones."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image


def picture(height: int = 24, width: int = 36, seed: int = 0) -> np.ndarray:
    """uint8 RGB noise in large blocks."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 6, 3)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


def write(path: Path, rgb: np.ndarray) -> Path:
    """Writes a picture, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix or ".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    assert done
    path.write_bytes(data.tobytes())
    return path


def png(width: int, height: int, *between: tuple[bytes, bytes]) -> bytes:
    """A one-bit PNG of any size, a few kilobytes; `between`: chunks before the pixels."""
    compressor = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    body = b"".join(compressor.compress(row * min(500, height)) for _ in range(0, height, 500))
    body += compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), *between, (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, chunks))


def _chunk(chunk: tuple[bytes, bytes]) -> bytes:
    kind, data = chunk
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb() -> bytes:
    """A PNG of 200 million pixels in a few kilobytes."""
    return png(20_000, 10_000)


def animated(kind: str, count: int = 3) -> bytes:
    """Frames of 16 x 16 pixels: PNG, WEBP or GIF."""
    frames = [Image.fromarray(picture(16, 16, seed)) for seed in range(count)]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()
