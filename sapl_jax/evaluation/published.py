"""Table 1 of the paper as it prints it: P-F1 / I-AUC per test set, to stand beside ours.

NIST16 has no I-AUC there because only its tampered half is used.
"""

# Column title -> the layouts that hold that test set.
COLUMNS = {
    "CASIAv1": ("casia_v1", "casia_v1plus"),
    "Columbia": ("columbia",),
    "COVERAGE": ("coverage",),
    "IMD2020": ("imd2020",),
    "NIST16": ("nist16",),
}
WITHOUT_I_AUC = "NIST16"

TABLE_1 = (  # method, a cell per column, means
    ("WSCL (MIL-FCN)", ".172 / .829", ".270 / .920", ".178 / .584", ".193 / .733", ".110 / -",
     ".185 / .766"),
    ("M2RL-Net", ".347 / .948", ".434 / .999", ".213 / .716", ".248 / .827", ".113 / -",
     ".265 / .862"),
    ("SO-WSL", ".334 / .881", ".385 / .942", ".239 / .702", ".259 / .556", ".288 / -",
     ".301 / .770"),
    ("SAPL (paper)", ".356 / .931", ".432 / .999", ".323 / .772", ".364 / .906", ".274 / -",
     ".349 / .902"),
    ("MVSS-Net (full supervision)", ".452 / .937", ".638 / .980", ".453 / .731", ".260 / .656",
     ".292 / -", ".419 / .826"),
)  # fmt: skip
