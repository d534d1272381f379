"""A simulated camera: optics, sensor noise, demosaicing, development, sharpening, JPEG."""

from dataclasses import dataclass

import cv2
import numpy as np

from data_pipelines.images import resave

# The colours of a Bayer cell's second row, by those of its first.
_SECOND_ROW = {"RG": "GB", "GR": "BG", "BG": "GR", "GB": "RG"}


@dataclass(frozen=True)
class Camera:
    """Everything that tells one camera from another.

    The noise variance of a signal s, in units of full scale, is read_noise**2 + shot_noise * s.
    """

    blur: float  # Gaussian sigma of the optics, pixels
    aberration: float  # relative difference in magnification of red and blue
    vignetting: float  # share of light lost in the corners
    read_noise: float
    shot_noise: float
    bayer: str  # the filter's first two colours
    demosaicing: str
    white_balance: tuple[float, float]  # gains of red and blue after correction; 1 is neutral
    saturation: float
    gamma: float
    contrast: float  # strength of the S-shaped tone curve
    denoising: float  # strength of the camera's own noise reduction, 0 for none
    sharpening: float  # amount of unsharp masking
    sharpening_radius: float  # pixels
    quality: int  # JPEG quality
    subsampling: str

    @property
    def noise(self) -> float:
        """Standard deviation of the noise at mid-grey (18 % of full scale), before development."""
        return float(np.sqrt(self.read_noise**2 + 0.18 * self.shot_noise))

    def shoot(self, radiance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Photographs linear light, float32 [H, W, 3] in [0, 1]: the decoded JPEG, uint8 [H, W, 3].

        H and W must be even (a Bayer cell is 2 x 2).
        """
        picture = self._develop(self._sensor(self._optics(radiance), rng))
        return resave(picture, self.quality, self.subsampling)

    def _optics(self, radiance: np.ndarray) -> np.ndarray:
        height, width = radiance.shape[:2]
        light = cv2.GaussianBlur(radiance, (0, 0), self.blur)
        centre = ((width - 1) / 2, (height - 1) / 2)
        for channel, sign in ((0, 1), (2, -1)):
            grow = cv2.getRotationMatrix2D(centre, 0, 1 + sign * self.aberration)
            light[..., channel] = cv2.warpAffine(
                light[..., channel], grow, (width, height), borderMode=cv2.BORDER_REFLECT
            )
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
        x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
        return light * (1 - self.vignetting * (x * x + y * y) / 2)[..., None]

    def _sensor(self, light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The raw mosaic, uint16 [H, W], with noise, clipped at full scale."""
        mosaic = np.empty(light.shape[:2], np.float32)
        for at, colour in enumerate(self.bayer + _SECOND_ROW[self.bayer]):
            cell = np.s_[at // 2 :: 2, at % 2 :: 2]
            mosaic[cell] = light[..., "RGB".index(colour)][cell]
        variance = self.read_noise**2 + self.shot_noise * np.maximum(mosaic, 0)
        mosaic += np.sqrt(variance) * rng.standard_normal(mosaic.shape, dtype=np.float32)
        # A black level, as in real raw files, keeps the noise of dark parts symmetric.
        return np.clip(np.rint(mosaic * 60000 + 2000), 0, 65535).astype(np.uint16)

    def _develop(self, raw: np.ndarray) -> np.ndarray:
        """From the mosaic to a finished picture, uint8 [H, W, 3]."""
        # OpenCV names a pattern after its second row's second and third pixels.
        name = f"COLOR_Bayer{_SECOND_ROW[self.bayer][::-1]}2RGB"
        code = getattr(cv2, name + ("_EA" if self.demosaicing == "adaptive" else ""))
        linear = (cv2.demosaicing(raw, code).astype(np.float32) - 2000) / 60000
        linear *= np.array([self.white_balance[0], 1.0, self.white_balance[1]], np.float32)
        grey = linear.mean(axis=2, keepdims=True)
        linear = np.clip(grey + self.saturation * (linear - grey), 0, 1)
        tone = cv2.pow(linear, 1 / self.gamma)
        tone += self.contrast * tone * (1 - tone) * (2 * tone - 1)
        picture = np.rint(np.clip(tone, 0, 1) * 255).astype(np.uint8)
        if self.denoising > 0:
            picture = cv2.bilateralFilter(picture, 5, 12 + 30 * self.denoising, 1.5)
        if self.sharpening > 0:
            soft = cv2.GaussianBlur(picture, (0, 0), self.sharpening_radius)
            picture = cv2.addWeighted(picture, 1 + self.sharpening, soft, -self.sharpening, 0)
        return picture


def sample_camera(rng: np.random.Generator) -> Camera:
    """Draws a camera: from clean studio pictures to cheap phones in the dark."""
    noise = float(np.exp(rng.uniform(np.log(0.007), np.log(0.07))))
    read_share = rng.uniform(0.15, 0.6)
    return Camera(
        blur=float(rng.uniform(0.6, 1.2)),
        aberration=float(rng.uniform(0, 0.0025)),
        vignetting=float(rng.uniform(0, 0.45)),
        read_noise=float(noise * np.sqrt(read_share)),
        shot_noise=float(noise**2 * (1 - read_share) / 0.18),
        bayer=list(_SECOND_ROW)[int(rng.integers(4))],
        demosaicing=("bilinear", "adaptive")[int(rng.integers(2))],
        white_balance=(float(rng.uniform(0.85, 1.15)), float(rng.uniform(0.85, 1.15))),
        saturation=float(rng.uniform(0.8, 1.35)),
        gamma=float(rng.uniform(1.8, 2.4)),
        contrast=float(rng.uniform(0, 0.7)),
        denoising=float(rng.uniform(0.2, 1)) if rng.random() < 0.15 else 0.0,
        sharpening=float(rng.uniform(0.15, 1.2)) if rng.random() < 0.5 else 0.0,
        sharpening_radius=float(rng.uniform(0.7, 1.6)),
        quality=int(rng.integers(85, 99)),
        subsampling=("4:4:4", "4:2:0")[int(rng.integers(2))],
    )
