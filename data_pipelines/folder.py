"""Any `Au/` + `Tp/` folder of pictures as a TensorFlow Datasets builder."""

from data_pipelines.picture_builder import PictureBuilder, PictureConfig


class Folder(PictureBuilder):
    """Your own pictures: authentic ones in `Au/`, tampered ones in `Tp/`."""

    DATASET = "folder"
    RELEASE_NOTES = {"1.1.0": "Resized pictures as PNG, soft edges as means inside the picture."}
    BUILDER_CONFIGS = [PictureConfig(name="512p14", description="The paper's geometry.")]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Put authentic pictures into Au/ and tampered ones into Tp/ of one folder and run
      python -m data_pipelines.prepare --dataset folder --root THAT_FOLDER --output DIR
    """
