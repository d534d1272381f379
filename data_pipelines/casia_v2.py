"""CASIA v2.0 as a TensorFlow Datasets builder; the data are downloaded by hand."""

from data_pipelines.picture_builder import PictureBuilder, PictureConfig


class CasiaV2(PictureBuilder):
    """CASIA v2.0: 7,491 authentic and 5,123 spliced or copy-moved pictures.

    `data_pipelines.prepare` runs it and gives each root and setting a folder of its own.
    """

    DATASET = "casia_v2"
    RELEASE_NOTES = {"1.1.0": "Resized pictures as PNG, soft edges as means inside the picture."}
    BUILDER_CONFIGS = [PictureConfig(name="512p14", description="The paper's geometry.")]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    CASIA v2.0 is for research. It was published at http://forensics.idealtest.org/casiav2/
    (J. Dong, W. Wang, T. Tan, "CASIA Image Tampering Detection Evaluation Database", ChinaSIP
    2013); that server is often unreachable. Ways to get it:
      - https://github.com/namtpham/casia2groundtruth : masks, the list of corrected file names,
        and how to ask for the pictures (CASIA2.0_revised);
      - Kaggle, data set divg07/casia-20-image-tampering-detection-dataset (pictures and masks).
    Unpack so that one folder holds Au/ (authentic), Tp/ (tampered) and, for evaluation only,
    the masks <stem>_gt.png in Gt/ or "CASIA 2 Groundtruth"/. Then run
      python -m data_pipelines.prepare --dataset casia_v2 --root THAT_FOLDER --output DIR
    """
