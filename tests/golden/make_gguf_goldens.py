#!/usr/bin/env python3
"""Writes tests/golden/gguf: what the `gguf` reference package makes of packed blocks, and a file of its own.

    pip install gguf==0.19.0 && tests/golden/make_gguf_goldens.py

For every encoding that Spillway decodes: NAME.packed, some blocks, and NAME.f32, the reference's values of them in
little-endian float32. Half of the blocks are random bytes (with finite scales), so that every bit of the format
counts; where the package quantises, the other half are quantised Gaussian numbers. all_types.gguf holds a metadata
value of every type and two tensors.

And the seeds of the fuzzer, tests/fuzz/corpus/gguf_fuzz: whole Llama models, as small as they can be.
"""

import pathlib

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type, GGUFValueType

OUT = pathlib.Path(__file__).parent / "gguf"
FUZZ_OUT = pathlib.Path(__file__).parent.parent / "fuzz" / "corpus" / "gguf_fuzz"
ELEMENTS = 2 * 512  # quantised, random

# Where a block keeps its half-precision scales.
HALF_OFFSETS = {
    Type.Q8_0: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2],
    Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
}


def finite_halves(rng, count):
    """Random half-precision numbers, denormals and zeros of both signs among them."""
    bits = rng.integers(0, 0x7C00, count, dtype=np.uint16)
    bits[::5] &= 0x03FF
    bits[::17] = 0
    return (bits | rng.integers(0, 2, count, dtype=np.uint16) << 15).astype(np.uint16)


def random_blocks(rng, kind, count):
    _, block_bytes = GGML_QUANT_SIZES[kind]
    if kind == Type.F32:
        return (rng.standard_normal(count) * 10.0 ** rng.integers(-40, 38, count)).astype(np.float32).view(np.uint8)
    if kind in (Type.F16, Type.BF16):
        return finite_halves(rng, count).view(np.uint8)
    blocks = rng.integers(0, 256, (count, block_bytes), dtype=np.uint8)
    for offset in HALF_OFFSETS[kind]:
        blocks[:, offset:offset + 2] = finite_halves(rng, count).view(np.uint8).reshape(count, 2)
    return blocks.reshape(-1)


def write_encoding(rng, kind):
    block_elements, _ = GGML_QUANT_SIZES[kind]
    packed = random_blocks(rng, kind, ELEMENTS // 2 // block_elements)
    try:
        quantised = gguf.quants.quantize(rng.standard_normal(ELEMENTS // 2).astype(np.float32), kind)
        packed = np.concatenate([quantised.view(np.uint8), packed])
    except NotImplementedError:
        packed = np.concatenate([random_blocks(rng, kind, ELEMENTS // 2 // block_elements), packed])
    values = gguf.quants.dequantize(packed, kind)
    assert values.size == ELEMENTS and np.isfinite(values).all()
    (OUT / f"{kind.name}.packed").write_bytes(packed.tobytes())
    (OUT / f"{kind.name}.f32").write_bytes(values.astype("<f4").tobytes())


def write_all_types():
    writer = gguf.GGUFWriter(OUT / "all_types.gguf", "llama")
    writer.add_uint8("test.uint8", 250)
    writer.add_int8("test.int8", -5)
    writer.add_uint16("test.uint16", 65000)
    writer.add_int16("test.int16", -3000)
    writer.add_uint32("test.uint32", 4000000000)
    writer.add_int32("test.int32", -2000000000)
    writer.add_uint64("test.uint64", 9000000000000000000)
    writer.add_int64("test.int64", -9000000000000000000)
    writer.add_float32("test.float32", 0.15625)
    writer.add_float64("test.float64", 1e300)
    writer.add_bool("test.true", True)
    writer.add_bool("test.false", False)
    writer.add_string("test.string", "gr\u00fc\u00df dich")
    writer.add_array("test.strings", ["", "a", "\u4e16\u754c"])
    writer.add_array("test.ints", [3, -1, 4])
    writer.add_array("test.floats", [0.5, -2.0])
    writer.add_key_value("test.bools", [True, False, True], GGUFValueType.ARRAY, GGUFValueType.BOOL)
    writer.add_key_value("test.bytes", [1, 2, 255], GGUFValueType.ARRAY, GGUFValueType.UINT8)
    writer.add_array("test.nested", [[1, 2], [3]])
    writer.add_tensor("vector.weight", np.arange(3, dtype=np.float32))
    writer.add_tensor("matrix.weight", np.arange(6, dtype=np.float16).reshape(2, 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_smallest_llama(name, tokenizer, tied):
    d, heads, ff = 4, 2, 4
    writer = gguf.GGUFWriter(FUZZ_OUT / name, "llama")
    writer.add_block_count(1)
    writer.add_context_length(16)
    writer.add_embedding_length(d)
    writer.add_feed_forward_length(ff)
    writer.add_head_count(heads)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(d // heads)
    writer.add_tokenizer_model(tokenizer)
    if tokenizer == "gpt2":
        tokens = ["<|im_end|>", "a", "b", "ab"]
        writer.add_tokenizer_pre("smollm")
        writer.add_token_merges(["a b"])
        writer.add_token_types([3, 1, 1, 1])
        writer.add_eos_token_id(0)
        writer.add_chat_template("{{ messages }}")
    else:
        tokens = ["<unk>", "<s>", "</s>", "a"]
        writer.add_token_scores([0.0, 0.0, 0.0, -1.0])
        writer.add_token_types([2, 3, 3, 1])
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(2.0)
    writer.add_token_list(tokens)
    shapes = {
        "token_embd": (len(tokens), d), "output_norm": (d,), "blk.0.attn_norm": (d,), "blk.0.attn_q": (d, d),
        "blk.0.attn_k": (d // heads, d), "blk.0.attn_v": (d // heads, d), "blk.0.attn_output": (d, d),
        "blk.0.ffn_norm": (d,), "blk.0.ffn_gate": (ff, d), "blk.0.ffn_up": (ff, d), "blk.0.ffn_down": (d, ff),
    }
    if not tied:
        shapes["output"] = (len(tokens), d)
        shapes["rope_freqs"] = (d // heads // 2,)
    for tensor, shape in shapes.items():
        writer.add_tensor(f"{tensor}.weight", np.ones(shape, dtype=np.float16 if len(shape) == 2 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    OUT.mkdir(exist_ok=True)
    FUZZ_OUT.mkdir(parents=True, exist_ok=True)
    write_smallest_llama("byte_level.gguf", "gpt2", tied=True)
    write_smallest_llama("sentencepiece.gguf", "llama", tied=False)
    rng = np.random.default_rng(20)
    for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"):
        write_encoding(rng, Type[name])
    write_all_types()


if __name__ == "__main__":
    main()
