#!/usr/bin/env python3
"""Makes the tokenizer goldens: strings of every kind and what the reference implementations make of them.

  python make_tokenizer_goldens.py path/to/SmolLM2-135M-Instruct.Q4_1.gguf

Needs tokenizers, sentencepiece, gguf and numpy, and a Python whose unicodedata is Unicode 14 (3.11), which is what
PCRE2 10.42 knows. Writes, next to itself:

  tokenizer_smollm2.json.z        20,000 strings and the ids Hugging Face's tokenizers gives them with the
                                  vocabulary of the demo model
  tokenizer_pre.json.z            strings and where each pre-tokenizer cuts them
  tokenizer_tiny_bpe.json.z       small trained byte-level vocabularies, strings and ids
  tokenizer_tiny_spm.json.z       a small trained SentencePiece vocabulary, strings and ids

Files are zlib-compressed JSON. The strings depend on SEED alone.
"""
import io
import json
import pathlib
import random
import sys
import unicodedata
import zlib

import gguf
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers

SEED = 20240917
HERE = pathlib.Path(__file__).resolve().parent

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "It's what they've said: we'll see, I'd guess, you're right and I'm not.",
    "IT'S NOT WHAT THEY'VE SAID, WE'LL SEE. o'clock, rock'n'roll, 'tis, y'all'd've",
    "In 2024, about 1,234,567.89 people (12.5%) paid $3.50 or €4,20 for 1e-5 kg; call +1-800-555-0199.",
    "Ein Übermaß an Gefühlen führt zu größeren Mißverständnissen, sagte Jürgen Weiß.",
    "Où est le garçon qui a mangé l'œuf à Noël ? « Là-bas », répondit-elle.",
    "El niño comió mañana, ¿verdad? ¡Qué lástima! Año tras año.",
    "Ação, coração, não; São João à beira-mar.",
    "Zażółć gęślą jaźń. Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Iñtërnâtiônàlizætiøn, ångström, smörgåsbord, þorn, ðæt",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Щастям б'єш жук їх глицю в фон й ґедзь пріч.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Τί τάχα;",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה. שָׁלוֹם עֲלֵיכֶם",
    "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر. السَّلَامُ عَلَيْكُمْ ١٢٣٤",
    "بر اثر چنین تلقین و شستشوی مغزی جامعی، همه آن‌ها می‌خواهند.",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश करने वाले। १२३",
    "আমি বাংলায় গান গাই। ২০২৪ সাল।",
    "தமிழ் மொழி மிகவும் பழமையானது. ௧௨௩",
    "నేను తెలుగు మాట్లాడతాను",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน ๑๒๓",
    "ພາສາລາວ ភាសាខ្មែរ မြန်မာဘာသာ",
    "天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。",
    "我能吞下玻璃而不伤身体。2024年3月15日，气温25℃。",
    "いろはにほへと ちりぬるを。カタカナとひらがな、漢字も１２３個。",
    "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다.",
    "Tiếng Việt: Do bạch kim rất quý nên sẽ dùng để lắp vô xương.",
    "Pijamalı hasta yağız şoföre çabucak güvendi. İstanbul'da ışık",
    "ქართული ენა Հայերեն լեզու አማርኛ ቋንቋ ᏣᎳᎩ ᐃᓄᒃᑎᑐᑦ ᠮᠣᠩᠭᠣᠯ",
    "𝕳𝖊𝖑𝖑𝖔 𝒲𝑜𝓇𝓁𝒹 𐍈𐌰𐌿 𓀀𓂀 ℵ₀ ≤ ∑∫√ π≈3.14159 x²+y³ ½ ⅔ Ⅳ ⁵ ₆ ㊿ ①",
]
CODE = [
    "def f(x: int) -> int:\n    return x ** 2  # square\n\n\nclass A(B):\n\tpass\n",
    "for (int i = 0; i < n; ++i) {\n  a[i] += b[i] * 0x1F; // ok\n}\r\n",
    "#include <vector>\ntemplate <typename T> auto&& g(T&& t) { return std::forward<T>(t); }",
    'SELECT u.id, COUNT(*) FROM "users" u WHERE u.name LIKE \'%a\' GROUP BY 1;',
    '{"key": [1, 2.5e10, null, true], "s": "\\u00e9\\n"}',
    "<html><body class='x'>&nbsp;&amp;<br/></body></html>",
    "https://example.com/a/b?q=1&r=%20#frag user@example.org C:\\Windows\\x.dll ~/.bashrc",
    "$ grep -rn 'TODO' --include=*.cc . | awk '{print $1}' && echo \"done\" >> log 2>&1",
    "```python\nprint('hi')\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n* item\n- [ ] box",
    "fn main() -> Result<(), Box<dyn Error>> { let s = r#\"raw\"#; Ok(()) }",
    "\\begin{equation} \\frac{a_1}{b^2} \\leq \\sum_{i=0}^{n} x_i \\end{equation}",
    "snake_case camelCase PascalCase SCREAMING_CASE kebab-case v1.2.3-rc.4+build.5 __init__",
]
EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "🇺🇸🇫🇷", "❤️", "☺", "🧑🏿‍🚀", "1️⃣", "©️", "™", "🤷‍♀️", "🫠", "⌚︎"]
MARKS = ["e\u0301", "a\u0308\u0323", "n\u0303o", "Z\u0351\u036b\u0343a\u0329\u034el\u0321go", "\u0301", "क\u094dष", "ก\u0e49", "\u1112\u1161\u11ab", "ᄀ\u1161", "\ufeff", "\u200d", "\u200c", "\u200b", "\u00ad", "\u2060"]
SPACES = [" ", "  ", "   ", "    ", "\n", "\n\n", "\n\n\n", "\r\n", "\r", "\t", "\t\t", " \n", "\n ", " \t ", "\u00a0", "\u3000", "\u2009", "\u2028", "\u2029", "\u0085", "\u000b", "\u000c", "\u1680", "\u202f", "\u205f", "\u180e", "\u001c", "\u001f"]
LOOK_ALIKES = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_end", "|im_end|>", "<|im_start|>user\n", "<|IM_END|>", "<<|im_end|>>", "<|im_<|im_end|>end|>", "<repo_name>", "<file_sep>", "<jupyter_code>", "<s>", "</s>", "<unk>", "<0x0A>", "<|eot_id|>", "[INST]", "<tok1>", "<tok12>", "<tok"]
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡¿«»„“”‘’–—…·•§¶†‡‰′″‹›※、。「」『』【】"

assert unicodedata.unidata_version.startswith("14."), "needs Python 3.11: the strings keep to Unicode 14"
ASSIGNED = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
BLOCKS = [(0x20, 0x7F), (0xA0, 0x180), (0x180, 0x250), (0x300, 0x370), (0x370, 0x400), (0x400, 0x530), (0x590, 0x600), (0x600, 0x700), (0x900, 0x980), (0xE00, 0xE80), (0x1100, 0x1200), (0x1E00, 0x2000), (0x2000, 0x2070), (0x2070, 0x2200), (0x2200, 0x2400), (0x2460, 0x2600), (0x2600, 0x27C0), (0x3000, 0x3100), (0x3100, 0x3400), (0x4E00, 0x9FA0), (0xAC00, 0xD7A0), (0xFB00, 0xFE00), (0xFF00, 0xFFF0), (0x10330, 0x10350), (0x1D400, 0x1D800), (0x1F300, 0x1FA00), (0x20000, 0x20200)]
BLOCK_CHARACTERS = [[c for c in map(chr, range(a, b)) if unicodedata.category(c) not in ("Cn", "Cs", "Co")] for a, b in BLOCKS]


def slice_of(r, text):
    begin = r.randrange(len(text))
    return text[begin:begin + r.randint(1, 40)]


def words(r, n):
    return [w for _ in range(n) for w in [r.choice(r.choice(SENTENCES).split())]]


def make_string(r, kind):
    """One string. The kinds go round, so that every kind has its share."""
    if kind == "sentence":
        return slice_of(r, r.choice(SENTENCES)) if r.random() < 0.5 else r.choice(SENTENCES)
    if kind == "english":
        return " ".join(words(r, r.randint(1, 12)))
    if kind == "code":
        return slice_of(r, r.choice(CODE)) if r.random() < 0.7 else r.choice(CODE)
    if kind == "emoji":
        return "".join(r.choice(EMOJI + SPACES[:3] + ["ok", "!"]) for _ in range(r.randint(1, 8)))
    if kind == "marks":
        return "".join(r.choice(MARKS + ["a", "ö", " "]) for _ in range(r.randint(1, 10)))
    if kind == "spaces":
        return "".join(r.choice(SPACES) * r.choice([1, 1, 2, 7]) + r.choice(["", "a", "b1", ".", "é"]) for _ in range(r.randint(1, 7)))
    if kind == "digits":
        return "".join(r.choice(["0", "12", "345", "6789", "00000", ".", ",", " ", "x", "٣", "²", "Ⅷ", "五", "½", "１"]) for _ in range(r.randint(1, 10)))
    if kind == "contractions":
        return "".join(r.choice(["'s", "'S", "'t", "'re", "'RE", "'ve", "'ll", "'Ll", "'d", "'m", "’s", "'ſ", "'\u212a", "it", "We", " ", "''", "'"]) for _ in range(r.randint(1, 8)))
    if kind == "control":
        return "".join(r.choice([chr(r.randrange(32)), chr(r.randrange(0x7F, 0xA0)), "a", " "]) for _ in range(r.randint(1, 10)))
    if kind == "unicode":
        return "".join(r.choice(ASSIGNED) for _ in range(r.randint(1, 8)))
    if kind == "block":
        block = r.choice(BLOCK_CHARACTERS)
        return "".join(r.choice(block) if r.random() < 0.85 else r.choice([" ", "'", "1", "\n"]) for _ in range(r.randint(1, 14)))
    if kind == "private":
        return "".join(r.choice([chr(r.randrange(0xE000, 0xF900)), chr(r.randrange(0xF0000, 0xFFFFE)), "\uffff", "\U0010ffff", "\ufdd0", "x "]) for _ in range(r.randint(1, 5)))
    if kind == "run":
        return r.choice(["a", " ", "\n", "ab", "9", "=", "-", "é", "哈", "😀", "\t", "xyz", " a", "A", "\u00a0"]) * r.choice([9, 31, 64, 100, 300])
    if kind == "look-alike":
        return "".join(r.choice(LOOK_ALIKES + [" ", "x", "\n"]) for _ in range(r.randint(1, 6)))
    if kind == "punctuation":
        return "".join(r.choice(PUNCTUATION + " \n") * r.choice([1, 1, 1, 3]) for _ in range(r.randint(1, 12)))
    if kind == "mixture":
        return "".join(slice_of(r, make_string(r, r.choice(KINDS[:-1])) or "x") for _ in range(r.randint(2, 6)))
    raise ValueError(kind)


KINDS = ["sentence", "english", "code", "emoji", "marks", "spaces", "digits", "contractions", "control", "unicode", "block", "private", "run", "look-alike", "punctuation", "mixture"]


def strings(seed, n):
    r = random.Random(seed)
    return [make_string(r, KINDS[i % len(KINDS)]) for i in range(n)]


def write(name, value):
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    packed = zlib.compress(data, 9)
    (HERE / name).write_bytes(packed)
    print(f"{name}: {len(data)} bytes, {len(packed)} compressed")


# The patterns as the models' tokenizer.json files have them.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN35 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4O = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DEEPSEEK3 = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


PRE_TOKENIZERS = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]),
    "llama-bpe": split(LLAMA3),
    "qwen2": split(QWEN2),
    "qwen35": split(QWEN35),
    "gpt-4o": split(GPT4O),
    "tekken": split(TEKKEN),
    "deepseek-v3": pre_tokenizers.Sequence([split(r"\p{N}{1,3}"), split(r"[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK3)]),
    "deepseek-coder": pre_tokenizers.Sequence([split(r"[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(r"[一-龥ࠀ-一가-퟿]+"), pre_tokenizers.Digits(individual_digits=True)]),
    # No tokenizer.json stands behind this name; the stages are those that converters mean by it.
    "default": pre_tokenizers.Sequence([split(r"[\p{P}\$\+<=>\^~\|]+"), split(GPT2), split(r"\p{N}+"), split(r"[0-9][0-9][0-9]")]),
}


def make_pre():
    texts = strings(SEED + 1, 3200)
    cuts = {}
    for name, pre in PRE_TOKENIZERS.items():
        cuts[name] = [[end - begin for _, (begin, end) in pre.pre_tokenize_str(text)] for text in texts]
        assert all(sum(c) == len(t) for c, t in zip(cuts[name], texts)), name
    write("tokenizer_pre.json.z", {"strings": texts, "characters_per_word": cuts})


def encode_all(tokenizer, texts, special):
    """Ids of each text; with special off, control tokens in it are plain text."""
    tokenizer.encode_special_tokens = not special
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def make_smollm2(path):
    reader = gguf.GGUFReader(path)
    field = lambda name: reader.fields["tokenizer.ggml." + name].contents()
    tokens, types = field("tokens"), field("token_type")
    merges = [tuple(m.split(" ")) for m in field("merges")]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS["smollm"]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t, kind in zip(tokens, types) if kind == 3])
    assert tokenizer.get_vocab_size() == len(tokens)

    texts = strings(SEED, 16000)
    # Tokens of the vocabulary put together at random, so that every one of them occurs.
    spell = {c: b for b, c in bytes_to_unicode().items()}
    ordinary = [bytes(spell[c] for c in t) for t, kind in zip(tokens, types) if kind == 1]
    random.Random(SEED + 2).shuffle(ordinary)
    for i in range(4000):
        texts.append(b"".join(ordinary[i * 13:i * 13 + 13] or ordinary[:7]).decode("utf-8", errors="ignore"))
    half = len(texts) // 2
    order = list(range(len(texts)))
    random.Random(SEED + 3).shuffle(order)
    texts = [texts[i] for i in order]
    write("tokenizer_smollm2.json.z", {
        "strings": texts,
        "parse_special_from": half,
        "ids": encode_all(tokenizer, texts[:half], False) + encode_all(tokenizer, texts[half:], True),
    })


def bytes_to_unicode():
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table, extra = {}, 0
    for byte in range(256):
        table[byte] = chr(byte) if byte in own else chr(0x100 + extra)
        extra += byte not in own
    return table


def make_tiny_bpe():
    cases = []
    for name, ignore_merges in [("gpt-2", False), ("llama-bpe", True), ("qwen2", False), ("tekken", True)]:
        tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
        pre = PRE_TOKENIZERS[name]
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre if name == "gpt-2" else pre_tokenizers.Sequence([pre, byte_level])
        trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=sorted(bytes_to_unicode().values()), show_progress=False)
        tokenizer.train_from_iterator(SENTENCES * 3 + CODE * 2, trainer)
        saved = json.loads(tokenizer.to_str())["model"]
        vocab, merges = saved["vocab"], [" ".join(m) for m in saved["merges"]]
        if ignore_merges:
            # A word that no merges lead to: only looking it up as it stands finds it.
            for word in ["Ġlazy", "Ġjumps", "ĠÃľbermaÃŁ", "quick"]:
                vocab.setdefault(word, len(vocab))
        ordinary = len(vocab)
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[tuple(m.split(" ")) for m in merges], ignore_merges=ignore_merges))
        tokenizer.pre_tokenizer = pre if name == "gpt-2" else pre_tokenizers.Sequence([pre, byte_level])
        control = ["<|im_start|>", "<|im_end|>", "<|eot_id|>"]
        user_defined = ["<tok1>", "<tok12>", "    "]
        tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in control])
        tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in user_defined])
        tokens = sorted(vocab, key=vocab.get) + control + user_defined
        assert all(tokenizer.token_to_id(t) == i for i, t in enumerate(tokens))
        texts = strings(SEED + 4, 1600)
        cases.append({
            "pre": name,
            "tokens": tokens,
            "types": [1] * ordinary + [3] * len(control) + [4] * len(user_defined),
            "merges": merges,
            "strings": texts,
            "ids": encode_all(tokenizer, texts, False),
            "ids_parse_special": encode_all(tokenizer, texts, True),
        })
    write("tokenizer_tiny_bpe.json.z", cases)


def make_tiny_spm():
    cases = []
    for add_space_prefix, byte_fallback in [(True, True), (False, True), (True, False)]:
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES * 3 + CODE * 2), model_writer=model, model_type="bpe", vocab_size=1000,
            byte_fallback=byte_fallback, normalization_rule_name="identity", add_dummy_prefix=add_space_prefix,
            remove_extra_whitespaces=False, user_defined_symbols=["<tok1>", "<tok12>"], character_coverage=0.98,
            split_digits=True, allow_whitespace_only_pieces=True, unk_id=0, bos_id=1, eos_id=2, minloglevel=2)
        sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        kind = lambda i: 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 5 if sp.is_unused(i) else 1
        tokens = [sp.id_to_piece(i) for i in range(sp.get_piece_size())]
        # sentencepiece drops NUL; every model's own reference does the same, but text with NUL is not ordinary text.
        texts = [t for t in strings(SEED + 5, 3200) if "\0" not in t]
        cases.append({
            "add_space_prefix": add_space_prefix,
            "tokens": tokens,
            "scores": [sp.get_score(i) for i in range(len(tokens))],
            "types": [4 if t in ("<tok1>", "<tok12>") else kind(i) for i, t in enumerate(tokens)],
            "strings": texts,
            "ids": [sp.encode(t) for t in texts],
            "decoded": [sp.decode(sp.encode(t)) for t in texts],
        })
    write("tokenizer_tiny_spm.json.z", cases)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    make_pre()
    make_smollm2(sys.argv[1])
    make_tiny_bpe()
    make_tiny_spm()
