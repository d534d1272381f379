"""What an evaluation costs beside the model: answers are given once more, not found again."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import evaluation
from sapl_jax.inference.detector import Result, result_of


class _Counting:
    """A localizer whose scores count its pictures."""

    calibration = "its own"
    seen = 0

    def analyse(self, images: list[np.ndarray]) -> list[Result]:
        first, self.seen = self.seen, self.seen + len(images)
        return [
            result_of(n / 10, np.zeros(image.shape[:2])) for n, image in enumerate(images, first)
        ]


def test_answers_are_given_once_more_without_the_model() -> None:
    localizer, pictures = _Counting(), [np.zeros((4, 5, 3), np.uint8)] * 5
    recorder = evaluation.Recorder(localizer)
    found = recorder.analyse(pictures[:3]) + recorder.analyse(pictures[3:])
    recorder.rewind()
    again = recorder.analyse(pictures[:2]) + recorder.analyse(pictures[2:])
    assert [result.score for result in again] == [result.score for result in found]
    assert (localizer.seen, len(recorder), recorder.calibration) == (5, 5, "its own")


def test_the_line_has_the_share(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--checkpoint", str(trained_run), "--pictures", "8"]
    monkeypatch.setattr(sys, "argv", ["evaluation", *flags])
    evaluation.main()
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["pictures"] == 8
    costs = line["evaluation_cpu_s"] + line["report_cpu_s"]
    assert costs > 0
    assert line["share"] == pytest.approx(costs / line["model_cpu_s"])
