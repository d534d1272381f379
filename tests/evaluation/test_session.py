"""Methods on data sets: sweeps, comparisons, and where a method comes from."""

import dataclasses

from data_pipelines.readers import read_dataset
from sapl_jax.evaluation import figures
from sapl_jax.evaluation.perturbations import SWEEPS
from sapl_jax.evaluation.protocols import PROTOCOLS
from sapl_jax.evaluation.session import Method, run
from tests.evaluation.red_pictures import RedDetector

PNG = b"\x89PNG"


def test_sweeps_start_with_the_clean_picture_and_see_every_level(folder) -> None:
    sweep = SWEEPS["blur"]
    session = run(
        [Method("red", RedDetector(), {})],
        [("m", read_dataset("folder", folder))],
        PROTOCOLS["sapl"],
        sweeps=[sweep],
    )
    points = session.sweeps["m"]["blur"]
    assert [level for level, _ in points] == [None, *sweep.levels]
    assert points[0][1].summary == session.main[0].summary
    assert points[-1][1].summary["p_f1"] != points[0][1].summary["p_f1"]
    (drawn,) = figures.robustness_curves(session)
    assert drawn.name == "robustness_blur" and drawn.png[:4] == PNG


def test_provenance_reads_as_text_not_as_python():
    source = {"step": 3, "clip": {"name": "a/clip", "revision": None, "sha256": "ab"}}
    lines = Method("SAPL", None, source).source_lines()
    assert lines == ["step: 3", "clip: a/clip, ab"]


def test_in_a_comparison_the_first_methods_lead_is_positive(folder) -> None:
    class Blind(RedDetector):
        def analyse(self, images):
            return super().analyse([0 * image for image in images])

    methods = [Method("red", RedDetector(), {}), Method("blind", Blind(), {})]
    listings = [("m", read_dataset("folder", folder))]
    found = run(methods, listings, PROTOCOLS["sapl"]).comparisons["m"]["red", "blind"]["p_f1"]
    assert found["ahead"] == 1 and found["difference"][0] > 0


def test_noise_of_a_sweep_is_drawn_by_the_seed(folder) -> None:
    methods, listings = [Method("red", RedDetector(), {})], [("m", read_dataset("folder", folder))]
    scores = []
    for seed in (0, 0, 1):
        sweeps = [dataclasses.replace(SWEEPS["noise"], levels=(2,))]
        session = run(methods, listings, PROTOCOLS["sapl"], sweeps=sweeps, seed=seed)
        scores.append([r.scores.score for r in session.sweeps["m"]["noise"][1][1].records])
    assert scores[0] == scores[1] != scores[2]
