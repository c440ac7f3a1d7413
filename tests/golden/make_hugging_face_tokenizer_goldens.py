#!/usr/bin/env python3
"""Writes small tokenizer.json files and what Hugging Face's tokenizers library makes of strings with them.

    pip install tokenizers
    tests/golden/make_hugging_face_tokenizer_goldens.py

For each NAME: tests/golden/hugging_face_tokenizer/NAME.json, and NAME.cases.json: [[text, [ids]], ...], with the
post-processor's tokens, control tokens in the text recognised.
"""

import json
import pathlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = pathlib.Path(__file__).parent / "hugging_face_tokenizer"
TRAINING = [
    "The quick brown fox jumps over the lazy dog. It's what they've said: we'll see in 2024, about 1,234 people.",
    "def merge(values):\n    left = values[:10]\n    return left + [3.14159]\n\n\nclass A(B):\n\tpass\n",
    "Ein Übermaß an Gefühlen; où est le garçon; El niño comió mañana; Съешь же ещё этих мягких булок",
    "the cat sat on the mat, the dog sat on the log, the other other other one went on and on  and on",
]
TEXTS = TRAINING + [
    "", " ", "  ", "a", " a", "a  b   c", "\n\n \t x\r\n", "Don't DON'T don't", "12345678 1 22 333", "日本語 と 漢字 😀",
    "<s>the dog</s> the <s> cat", "x" * 40, "the" * 20, "tabs\tand\u00a0nbsp\u3000wide", "é é ẞ ﬁ", "</s><s>", "<|x|>",
]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
SPECIAL = ["<unk>", "<s>", "</s>"]


def trained(model, pre, alphabet):
    tokenizer = Tokenizer(model)
    if pre is not None:
        tokenizer.pre_tokenizer = pre
    tokenizer.train_from_iterator(TRAINING * 3, trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False))
    return tokenizer


def with_bos(tokenizer):
    return processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B",
                                         special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])


def gpt2():
    tokenizer = trained(models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False),
                        pre_tokenizers.ByteLevel.alphabet())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def llama3():
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated", invert=False),
                                   pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer = trained(models.BPE(ignore_merges=True), pre, pre_tokenizers.ByteLevel.alphabet())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken("<|x|>", special=False, normalized=False)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), with_bos(tokenizer)])
    return tokenizer


def llama2():
    """A SentencePiece vocabulary as Transformers converts it: byte tokens, every split of a token among the merges."""
    spaced = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    learned = trained(models.BPE(unk_token="<unk>"), spaced, [])
    pieces = [piece for piece, _ in sorted(learned.get_vocab().items(), key=lambda item: item[1])
              if piece not in SPECIAL]
    tokens = SPECIAL + [f"<0x{byte:02X}>" for byte in range(256)] + pieces
    known = set(pieces)
    merges = [(piece[:cut], piece[cut:]) for piece in pieces for cut in range(1, len(piece))
              if piece[:cut] in known and piece[cut:] in known]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges, unk_token="<unk>",
                                     fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.post_processor = with_bos(tokenizer)
    return tokenizer


def main():
    OUT.mkdir(exist_ok=True)
    for make in (gpt2, llama3, llama2):
        tokenizer = make()
        name = make.__name__
        text = json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":"))
        (OUT / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        cases = [[string, tokenizer.encode(string).ids] for string in TEXTS]
        (OUT / f"{name}.cases.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")
        print(name, tokenizer.get_vocab_size(), len(text))


if __name__ == "__main__":
    main()
