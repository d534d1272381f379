"""A small byte-level BPE vocabulary in CLIP's format, in which every caption word is one token."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

SOT, EOT = "<|startoftext|>", "<|endoftext|>"
END = "</w>"


def byte_symbols() -> list[str]:
    """The printable characters that stand for the 256 bytes in GPT-2's and CLIP's vocabularies."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = itertools.count(256)
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def learn_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """BPE merges, most frequent pair first, until every word is one token."""
    splits = [" ".join([*word[:-1], word[-1] + END]) for word in sorted(set(words))]
    merges: list[tuple[str, str]] = []
    while any(" " in split for split in splits):
        pairs = Counter(pair for split in splits for pair in itertools.pairwise(split.split()))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        both = re.compile(rf"(?<!\S){re.escape(' '.join(best))}(?!\S)")
        splits = [both.sub("".join(best), split) for split in splits]
    return merges


class Vocabulary:
    """Token ids of the words it was made from; SOT and EOT are the last two ids."""

    def __init__(self, words: Sequence[str]):
        self.merges = learn_merges(words)
        base = byte_symbols()
        tokens = [*base, *(symbol + END for symbol in base)]
        tokens += [first + second for first, second in self.merges]
        self.ids = {token: n for n, token in enumerate([*dict.fromkeys(tokens), SOT, EOT])}

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.ids)

    def encode(self, words: Sequence[str], length: int) -> list[int]:
        """[SOT] words [EOT], then EOT again up to `length` ids. KeyError for an unknown word."""
        ids = [self.ids[SOT], *(self.ids[word + END] for word in words), self.ids[EOT]]
        return ids + [self.ids[EOT]] * (length - len(ids))

    def save(self, folder: Path) -> None:
        """Writes vocab.json, merges.txt and tokenizer_config.json as `transformers` reads them."""
        (folder / "vocab.json").write_text(json.dumps(self.ids, ensure_ascii=False) + "\n")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in self.merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n")
        config = {
            "tokenizer_class": "CLIPTokenizer", "bos_token": SOT, "eos_token": EOT,
            "unk_token": EOT, "pad_token": EOT, "model_max_length": 40,
        }  # fmt: skip
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
