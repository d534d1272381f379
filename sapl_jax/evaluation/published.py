"""Table 1 of the paper: published P-F1 and I-AUC, to print beside ours.

Copied from the paper's text; NIST16 has no I-AUC there because only its tampered half is used.
"""

import dataclasses

# Column title -> the layouts that hold that test set.
COLUMNS = {
    "CASIAv1": ("casia_v1", "casia_v1plus"),
    "Columbia": ("columbia",),
    "COVERAGE": ("coverage",),
    "IMD2020": ("imd2020",),
    "NIST16": ("nist16",),
}
WITHOUT_I_AUC = frozenset({"NIST16"})


@dataclasses.dataclass(frozen=True)
class PublishedRow:
    """A method's row: P-F1 per column, I-AUC per column (None where not published), and means."""

    method: str
    p_f1: tuple[float, ...]
    i_auc: tuple[float | None, ...]
    mean_p_f1: float
    mean_i_auc: float


TABLE_1 = (
    PublishedRow("WSCL (MIL-FCN)", (0.172, 0.270, 0.178, 0.193, 0.110),
                 (0.829, 0.920, 0.584, 0.733, None), 0.185, 0.766),
    PublishedRow("M2RL-Net", (0.347, 0.434, 0.213, 0.248, 0.113),
                 (0.948, 0.999, 0.716, 0.827, None), 0.265, 0.862),
    PublishedRow("SO-WSL", (0.334, 0.385, 0.239, 0.259, 0.288),
                 (0.881, 0.942, 0.702, 0.556, None), 0.301, 0.770),
    PublishedRow("SAPL (paper)", (0.356, 0.432, 0.323, 0.364, 0.274),
                 (0.931, 0.999, 0.772, 0.906, None), 0.349, 0.902),
    PublishedRow("MVSS-Net (full supervision)", (0.452, 0.638, 0.453, 0.260, 0.292),
                 (0.937, 0.980, 0.731, 0.656, None), 0.419, 0.826),
)  # fmt: skip
