"""SAPL's training step in PyTorch: `transformers` CLIP with SDPA, `peft` LoRA, ECPL and HECL.

The peer that ours is measured against. Same equations, shapes and names as sapl_jax/models, one
process; products are arranged as cheaply as in ours (see sapl_jax/models/ecpl.py), so that neither
side does work the other saves. A test compares losses and gradients of both.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from benchmarks.case import ARCHITECTURES, Case

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CLASS_IDS = (1532, 5777)  # "real", "fake"
Queues = tuple[Tensor, Tensor, Tensor]  # keys [L,2,Q,D], fill [2], head [2]


def make_clip(model: str) -> CLIPModel:
    """A CLIP folder's model, or one with random weights of a known architecture; SDPA."""
    if model not in ARCHITECTURES:
        return CLIPModel.from_pretrained(model, attn_implementation="sdpa")
    clip = ARCHITECTURES[model]
    settings: dict[str, Any] = {
        f"{name}_config": {
            "hidden_size": tower.width,
            "intermediate_size": 4 * tower.width,
            "num_hidden_layers": tower.depth,
            "num_attention_heads": tower.heads,
            "projection_dim": clip.text.width,
        }
        for name, tower in (("vision", clip.vision), ("text", clip.text))
    }
    settings["vision_config"] |= {"patch_size": clip.patch, "image_size": clip.image}
    settings |= {"projection_dim": clip.text.width, "attn_implementation": "sdpa"}
    return CLIPModel(CLIPConfig(**settings))


def lecun(*shape: int) -> nn.Parameter:
    """A kernel [..., in, out] with variance 1 / in."""
    return nn.Parameter(torch.randn(shape) * shape[-2] ** -0.5)


def zeros(*shape: int) -> nn.Parameter:
    """A parameter of zeros."""
    return nn.Parameter(torch.zeros(shape))


class EdgeTokens(nn.Module):
    """ECPL's edge tokens: patches [L,B,T,d_v] -> [B,L,d_t]."""

    def __init__(self, taps: int, vision: int, text: int, heads: int):
        super().__init__()
        self.heads = heads
        self.cls_kernel, self.cls_bias = lecun(vision, text), zeros(text)
        self.patch_kernel, self.patch_bias = lecun(taps, vision, text), zeros(taps, text)
        self.query_kernel, self.query_bias = lecun(taps, text, text), zeros(taps, text)
        self.key_kernel = lecun(taps, text, text)
        self.value_kernel, self.value_bias = lecun(taps, text, text), zeros(taps, text)
        self.out_kernel, self.out_bias = zeros(taps, text, text), zeros(taps, text)

    def forward(self, patches: Tensor, cls: Tensor, edge_map: Tensor, valid: Tensor) -> Tensor:
        """Tokens [B,L,d_t] of patches [L,B,T,d_v], CLS [B,d_v], edge map and validity [B,T]."""
        taps, batch = patches.shape[:2]
        text, heads = self.cls_bias.shape[0], self.heads
        z_cls = cls.float() @ self.cls_kernel + self.cls_bias
        query = torch.einsum("be,lef->lbf", z_cls, self.query_kernel) + self.query_bias[:, None]
        query = query.reshape(taps, batch, heads, -1) * (text // heads) ** -0.5
        key_kernel = self.key_kernel.reshape(taps, text, heads, -1)
        in_text = torch.einsum("lbhf,lehf->lbhe", query, key_kernel)
        in_vision = torch.einsum("lbhe,lve->lbhv", in_text, self.patch_kernel)

        scores = torch.einsum("lbhv,lbtv->lbht", in_vision.to(patches.dtype), patches).float()
        scores = scores + torch.einsum("lbhe,le->lbh", in_text, self.patch_bias)[..., None]
        scores = (edge_map[:, None] * scores).masked_fill(~valid[:, None], float("-inf"))
        cls_score = torch.einsum("lbhe,be->lbh", in_text, z_cls)[..., None]
        weights = torch.cat([cls_score, scores], -1).softmax(-1)

        edge_weights = weights[..., 1:] * edge_map[:, None]
        mean = torch.einsum("lbht,lbtv->lbhv", edge_weights.to(patches.dtype), patches).float()
        attended = torch.einsum("lbhv,lve->lbhe", mean, self.patch_kernel)
        attended = attended + edge_weights.sum(-1)[..., None] * self.patch_bias[:, None, None]
        attended = attended + weights[..., :1] * z_cls[:, None]
        value_kernel = self.value_kernel.reshape(taps, text, heads, -1)
        values = torch.einsum("lbhe,lehf->lbhf", attended, value_kernel).reshape(taps, batch, text)
        tokens = torch.einsum("lbe,lef->lbf", values + self.value_bias[:, None], self.out_kernel)
        tokens = (tokens + self.out_bias[:, None]).transpose(0, 1)
        return tokens * (text + tokens.square().sum(-1, keepdim=True)).rsqrt()


class SAPLPeer(nn.Module):
    """The whole model with HECL's queues as buffers; `forward` gives the losses of a step."""

    def __init__(self, case: Case):
        super().__init__()
        self.case = case
        clip: Any = make_clip(case.model)
        self.vision_width = clip.config.vision_config.hidden_size
        self.patch = clip.config.vision_config.patch_size
        text_config = clip.config.text_config
        text, joint = text_config.hidden_size, clip.config.projection_dim
        if case.dtype == "bfloat16":
            clip = clip.to(torch.bfloat16)
        lora = LoraConfig(
            r=case.lora_rank,
            lora_alpha=case.lora_alpha,
            target_modules=r".*vision_model.*\.(q_proj|v_proj)",
        )
        self.peft = get_peft_model(clip, lora)
        if case.remat == "blocks":
            self.clip.gradient_checkpointing_enable({"use_reentrant": False})
            for layer in self.clip.text_model.encoder.layers:
                layer.gradient_checkpointing = False  # As in ours: the prompts are short.
        taps = len(case.taps)
        self.context = nn.Parameter(0.02 * torch.randn(2, case.prompt_length, text))
        self.edge_tokens = EdgeTokens(taps, self.vision_width, text, case.attention_heads)
        # Where our vocabulary is smaller (test models), ids wrap as they do in ours.
        vocabulary = text_config.vocab_size
        ids = [i if i < vocabulary - 2 else i % (vocabulary - 2) for i in CLASS_IDS]
        self.register_buffer("words", torch.tensor([[i, vocabulary - 1] for i in ids]))
        self.register_buffer("sot", torch.tensor([vocabulary - 2]))
        self.register_buffer("keys", torch.zeros(taps, 2, case.queue_length, joint))
        self.register_buffer("fill", torch.zeros(2, dtype=torch.long))
        self.register_buffer("head", torch.zeros(2, dtype=torch.long))
        self.register_buffer("mean", torch.tensor(CLIP_MEAN))
        self.register_buffer("std", torch.tensor(CLIP_STD))

    @property
    def clip(self) -> CLIPModel:
        """CLIP with its LoRA layers inside."""
        return self.peft.base_model.model

    def forward(
        self, image: Tensor, edge_map: Tensor, valid: Tensor, label: Tensor
    ) -> tuple[Tensor, Tensor, Queues]:
        """Losses of a batch, (classification, HECL), and the queues with its keys in."""
        edge_map, valid = edge_map.flatten(1), valid.flatten(1)
        logits, embeddings, text = self.compare(image, edge_map, valid)
        loss_cls = F.cross_entropy(logits, label)
        with torch.no_grad():
            similarity = self.similarity(embeddings, text)
        scale = self.clip.logit_scale.float().exp()
        gives = (label == 0) | (logits.argmax(-1) == 1)  # No tampered picture that is not found.
        given = embeddings, scale * similarity, edge_map, valid & gives[:, None]
        loss_hecl, queues = self.contrast(*given, label)
        return loss_cls, loss_hecl, queues

    def compare(
        self, image: Tensor, edge_map: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Image logits [B,2], patch embeddings [L,B,T,P], text [B,2,P]; edges, valid [B,T]."""
        states, pooled = self.vision(image)
        vision = self.clip.vision_model
        normed = vision.post_layernorm(states[:, :, 1:])
        embeddings = self.clip.visual_projection(normed)
        pooled = vision.post_layernorm(pooled)
        text = self.text(normed, pooled, edge_map, valid)
        image_embedding = F.normalize(self.clip.visual_projection(pooled).float(), dim=-1)
        scale = self.clip.logit_scale.float().exp()
        return scale * torch.einsum("bp,bcp->bc", image_embedding, text), embeddings, text

    @staticmethod
    def similarity(embeddings: Tensor, text: Tensor) -> Tensor:
        """Cosines [L,B,T,2] of patch embeddings and text."""
        products = torch.einsum("lbtp,bcp->lbtc", embeddings, text.to(embeddings.dtype))
        norms = embeddings.float().norm(dim=-1, keepdim=True)
        return products.float() / norms.clamp_min(1e-6)

    def score_and_patch_map(
        self, image: Tensor, edge_map: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What inference takes: scores [B] and patch heat maps [B,g,g], as ours by default."""
        logits, embeddings, text = self.compare(image, edge_map.flatten(1), valid.flatten(1))
        each = self.clip.logit_scale.float().exp() * self.similarity(embeddings, text)
        heat = each.mean(0).softmax(-1)[..., 1]
        return logits.softmax(-1)[:, 1], heat.reshape(edge_map.shape)

    def vision(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Tapped states [L,B,1+T,D] and the last block's CLS [B,D]."""
        pixels = ((image.float() / 255.0 - self.mean) / self.std).permute(0, 3, 1, 2)
        tower = self.clip.vision_model
        x = tower.pre_layrnorm(tower.embeddings(pixels, interpolate_pos_encoding=True))
        kept = []
        for number, layer in enumerate(tower.encoder.layers, start=1):
            x = layer(x, None)
            if number in self.case.taps:
                kept.append(x)
        return torch.stack(kept), x[:, 0]

    def text(self, normed: Tensor, pooled: Tensor, edge_map: Tensor, valid: Tensor) -> Tensor:
        """Unit text features [B,2,P] of the prompts."""
        batch = pooled.shape[0]
        tower = self.clip.text_model
        embed = tower.embeddings.token_embedding
        words = embed(self.words).float()
        tokens = self.edge_tokens(normed, pooled, edge_map, valid)
        tokens = words[:, 0].norm(dim=-1).mean() * tokens
        parts = [
            embed(self.sot).float().expand(batch, 2, 1, -1),
            self.context.expand(batch, -1, -1, -1),
            tokens[:, None].expand(-1, 2, -1, -1),
            words.expand(batch, -1, -1, -1),
        ]
        prompts = torch.cat(parts, 2).flatten(0, 1)
        x = prompts.to(embed.weight.dtype)
        x = x + tower.embeddings.position_embedding.weight[: x.shape[1]]
        for layer in tower.encoder.layers:
            x = layer(x, None, is_causal=True)
        features = self.clip.text_projection(tower.final_layer_norm(x[:, -1]))
        return F.normalize(features.float(), dim=-1).reshape(batch, 2, -1)

    def contrast(
        self, embeddings: Tensor, logits: Tensor, edge_map: Tensor, valid: Tensor, label: Tensor
    ) -> tuple[Tensor, Queues]:
        """L_HECL of the batch against the queues, and the queues after it."""
        case, batch = self.case, label.shape[0]
        usable = valid & (edge_map > 0)
        real, fake = logits.log_softmax(-1).unbind(-1)
        edge = edge_map.log()  # Not for a tampered picture's authentic patches.
        real = torch.where(label[:, None] == 1, real, real + edge)
        weight = torch.stack([real, fake + edge], -1)
        weight = weight.masked_fill(~usable[None, ..., None], float("-inf"))
        top_k = min(case.top_k, weight.shape[2])
        indices = weight.topk(top_k, dim=2).indices  # [L,B,K,2]
        enough = torch.arange(top_k, device=label.device) < usable.sum(-1, keepdim=True)
        # Every picture gives authentic edges, tampered ones manipulated edges too.
        valid = torch.stack([enough, enough & (label == 1)[:, None]], -1).flatten()
        kind = torch.arange(2, device=label.device).expand(batch, top_k, 2).flatten()
        flat = indices.flatten(2)[..., None].expand(-1, -1, -1, embeddings.shape[-1])
        features = F.normalize(embeddings.gather(2, flat).float(), dim=-1, eps=1e-6).flatten(1, 2)

        logits = torch.einsum("lnd,lcqd->lncq", features, self.keys) / case.temperature
        slots = torch.arange(case.queue_length, device=label.device)
        logits = logits.masked_fill(slots >= self.fill[:, None], float("-inf"))
        loss = torch.zeros((), device=label.device)
        for c in range(2):
            member = valid & (kind == c) & (self.fill[c] > 0)
            terms = torch.cat([logits[:, :, c].amax(-1, keepdim=True), logits[:, :, 1 - c]], -1)
            terms = torch.where(member[None, :, None], terms, 0.0)
            each = torch.where(member, terms.logsumexp(-1) - terms[..., 0], 0.0)
            loss = loss + (each.sum(-1) / member.sum().clamp_min(1)).mean()
        return loss, self.enqueued(features.detach(), valid, kind)

    @torch.no_grad()
    def enqueued(self, features: Tensor, valid: Tensor, label: Tensor) -> Queues:
        """The queues (keys, fill, head) with new keys [L,N,D] in and the oldest out."""
        length = self.case.queue_length
        keys, fill, head = [], [], []
        for c in range(2):
            member = valid & (label == c)
            count = member.sum()
            rank = member.cumsum(0) - 1
            slot = (self.head[c] + rank) % length
            slot = torch.where(member & (rank >= count - length), slot, length)
            padded = F.pad(self.keys[:, c], (0, 0, 0, 1))  # The slot behind the end is dropped.
            keys.append(padded.index_copy(1, slot, features)[:, :length])
            fill.append((self.fill[c] + count).clamp_max(length))
            head.append((self.head[c] + count) % length)
        return torch.stack(keys, 1), torch.stack(fill), torch.stack(head)

    @torch.no_grad()
    def set_queues(self, queues: Queues) -> None:
        """Takes over the queues that `forward` returned, after the backward pass."""
        for buffer, new in zip((self.keys, self.fill, self.head), queues, strict=True):
            buffer.copy_(new)


def trainable_names(model: SAPLPeer) -> dict[str, list[tuple[nn.Parameter, bool]]]:
    """Our name of each trainable array -> its parameters here, and whether they are transposed.

    Ours stack the blocks' LoRA factors; here there is one parameter per block, so a list.
    """
    names = {"prompts/context": [(model.context, False)]}
    edge_tokens = model.edge_tokens.named_parameters()
    names |= {f"prompts/edge_tokens/{name}": [(p, False)] for name, p in edge_tokens}
    layers = model.clip.vision_model.encoder.layers
    for target in ("q", "v"):
        for factor in ("A", "B"):
            linears = [getattr(layer.self_attn, f"{target}_proj") for layer in layers]
            names[f"clip/vision/blocks/{target}/lora_{factor.lower()}"] = [
                (getattr(linear, f"lora_{factor}")["default"].weight, True) for linear in linears
            ]
    return names


def load_trainable(model: SAPLPeer, arrays: Mapping[str, np.ndarray]) -> None:
    """Copies our trainable arrays into the peer; KeyError unless the names are the same."""
    names = trainable_names(model)
    if set(names) != set(arrays):
        raise KeyError(sorted(set(names) ^ set(arrays)))
    with torch.no_grad():
        for name, parameters in names.items():
            pieces = arrays[name] if parameters[0][1] else arrays[name][None]
            for (parameter, transposed), piece in zip(parameters, pieces, strict=True):
                parameter.copy_(torch.from_numpy(np.array(piece.T if transposed else piece)))


def gradients(model: SAPLPeer) -> dict[str, np.ndarray]:
    """Gradients under our names and in our layout."""
    out = {}
    for name, parameters in trainable_names(model).items():
        pieces = [p.grad.T if transposed else p.grad for p, transposed in parameters]
        out[name] = torch.stack(pieces).numpy() if parameters[0][1] else pieces[0].numpy()
    return out
