"""SAPL as in the paper (arXiv 2601.06222): CLIP ViT-L/14@336, CASIA v2.0, 30 epochs.

Fields marked [paper] are stated there; fields marked [ours] are choices of this reconstruction,
explained in docs/method.md. Change any of them on the command line, for example
`--config.train.batch_size=24`. Names and types are checked.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The paper's configuration, locked."""
    config = ConfigDict()
    config.seed = 0  # Of initial weights, data order, flips and the validation split.

    config.data = data = ConfigDict()
    data.root = ""  # Folder that holds Au/ and Tp/. Prepared on first use.
    data.dataset = "casia_v2"  # Layout of the root: "casia_v2", or "folder" for your own pictures.
    data.prepared = ""  # Where records are made; without root, where they are. "": TFDS's folder.
    data.val_fraction = 0.1  # [ours] Share of the training pictures held out to validate on.
    data.flip_horizontal = True  # [ours] Random horizontal flips.
    data.flip_vertical = False  # [ours] Random vertical flips.
    # [ours] Trains on pairs, an authentic picture beside one made from it, where names tell.
    data.pairs = False
    data.jpeg_share = 0.0  # [ours] Training pictures saved once more as JPEG, of quality 60 to 98.

    config.image = image = ConfigDict()
    image.size = 512  # [paper] Longer side in pixels after resizing.
    image.canny_low = 100.0  # [ours] Canny hysteresis thresholds on 8-bit grey, L2 gradient.
    image.canny_high = 200.0
    image.edge_kappa = 2.0  # [ours] alpha = clip(kappa * edge density, alpha_min, alpha_max).
    image.edge_alpha_min = 1 / 64  # [ours] Decay of the soft edge map per pixel of distance.
    image.edge_alpha_max = 1 / 2

    config.clip = clip = ConfigDict()
    # [paper] Hub name, folder, or "random:NAME" for random weights of that shape.
    clip.pretrained = "openai/clip-vit-large-patch14-336"
    clip.revision = ""  # Hub revision. "": the pinned one of a known name.
    clip.lora_rank = 8  # [ours]
    clip.lora_alpha = 16.0  # [ours] The update is scaled by alpha / rank.
    clip.lora_targets = ("q", "v")  # [ours] Among q, k, v, out, fc1, fc2 of every vision block.

    config.model = model = ConfigDict()
    model.taps = (6, 12, 18, 24)  # [paper] Vision blocks whose patches are used, counted from 1.
    model.prompts = "ecpl"  # "fixed", "coop", "cocoop", "ecpl_no_edge" or "ecpl" [paper].
    model.prompt_length = 12  # [paper] Learned context vectors per class.
    model.class_words = ("real", "fake")  # [paper] Class tokens: authentic, tampered.
    # What gives the image logits: "cls" [paper]; "patches", the share of the valid ones that look
    # most tampered; or "both", each with a loss of its own.
    model.image_logits = "cls"
    model.pooled_share = 0.1  # [ours] That share.
    # [ours] Soft edges: the picture's "own", or "another" picture's, a control: it must not gain.
    model.edges = "own"
    model.logit_scale = 0.0  # [ours] Of all cosines. 0: CLIP's, about 100. AnomalyCLIP has 1 / .07.
    model.tap_affine = False  # [ours] A learned scale and bias of each tap's cosines.
    model.value_attention = False  # [ours] Patches from V-V attention, as in AnomalyCLIP.
    # [ours] Patches attend to those at most so many rows and columns away alone; 0: as in CLIP.
    model.attention_reach = 0
    model.test_reach = 0  # [ours] The same in answers alone; 0: as in training.
    # [ours] Answers are means over eight views, at eight times the cost: moved by half patches,
    # upright and turned over (what training should show too: data.flip_vertical).
    model.test_views = False
    model.attention_heads = 8  # [ours] Heads of ECPL's attention. Must divide the text width.

    model.hecl = hecl = ConfigDict()
    hecl.enabled = True  # False trains with the classification loss alone.
    hecl.use_edges = True  # False selects patches by class probability alone.
    # [ours] Who gives: "label" (pictures edges of their own class), "tampered_both" (tampered ones
    # of both classes), "found_both" (tampered ones of both, but only once they are called so).
    hecl.givers = "found_both"
    hecl.top_k = 16  # [ours] Edge patches of either class taken from a picture at each tap.
    # [ours] Contrast behind the similarity's projection, "shared", or "own" heads.
    hecl.space = "shared"
    hecl.feature_dim = 128  # [ours] Width of the contrasted features in a space of their own.
    hecl.queue_length = 1024  # [paper] Keys kept per class and tap.
    hecl.temperature = 0.07  # [ours]
    hecl.weight = 0.1  # [paper] Final weight of the loss; grows linearly from 0.

    model.heat_map = heat_map = ConfigDict()
    heat_map.sigma = 4.0  # [ours] Gaussian on the heat map, in pixels of the resized picture.
    # [ours] With this sigma over colours besides, it stops at outlines (joint bilateral). 0: off.
    heat_map.colours = 0.0
    heat_map.taps = "logits"  # [ours] Mean over the taps of "logits", or of "probabilities".
    # [ours] Stretch each picture's map to [0,1], this share of its ninth decile at 0.5. 0: off.
    heat_map.normalize = 0.0
    heat_map.threshold = 0.5  # The mask is heat map > threshold.
    # [ours] Larger pictures get map and score from tiles of this size. 0: shrunk to image.size.
    heat_map.tile = 0

    config.train = train = ConfigDict()
    train.batch_size = 12  # [paper] Global batch size. Must be divisible by the number of devices.
    train.epochs = 30.0  # [paper]
    train.num_steps = 0  # Optimizer steps. 0: as many as the epochs ask for.
    train.learning_rate = 1e-5  # [paper] AdamW.
    train.prompt_rate = 1.0  # [ours] Times the learning rate, for contexts and CoCoOp's net.
    train.weight_decay = 0.01  # [ours] AdamW's decoupled decay, PyTorch's default.
    train.warmup_steps = 0  # [ours] Linear warm-up of the learning rate.
    train.schedule = "constant"  # [ours] "constant" or "cosine" (towards zero at the end).
    train.tampered_weight = 1.0  # [ours] Of tampered pictures in the classification loss.
    train.background_share = 0.0  # [ours] Least tampered patches taken as authentic. 0: off.
    train.background_of = "all"  # [ours] Pictures that have that term: "all" or "authentic".
    train.background_weight = 0.3  # [ours] Of that term beside the classification loss.
    train.dtype = "auto"  # Compute type: "float32", "bfloat16"; "auto": by the device.
    # What the backward pass computes again for less memory: "none", "mlp" (a third of a block's
    # products), "blocks" (everything); "auto": the least that fits into the device's memory ("mlp"
    # where that is not known, as on CPUs).
    train.remat = "auto"
    train.log_every = 10  # Steps between lines in metrics.jsonl and TensorBoard.
    train.eval_every = 500  # Steps between validations (I-AUC on the held-out training pictures).
    train.eval_batch_size = 0  # Global. 0: the training batch size.
    train.checkpoint_every = 500  # Steps between checkpoints of the run ("last").
    train.profile_steps = ""  # "10:15": a jax.profiler trace of these steps, in WORKDIR/profile.
    train.keep = "last"  # Checkpoint to use: "last", or "best" by validation I-AUC.
    train.max_bad_steps = 10  # More steps with non-finite gradients in a row stop the run.
    return config.lock()
