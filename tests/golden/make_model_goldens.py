#!/usr/bin/env python3
"""Writes the logits that Hugging Face Transformers computes, for the engine's tests.

    pip install torch transformers gguf accelerate safetensors
    tests/golden/make_model_goldens.py tiny
    tests/golden/make_model_goldens.py directories
    tests/golden/make_model_goldens.py demo PATH/SmolLM2-135M-Instruct.Q4_1.gguf

`tiny` makes small Llama models of random weights, writes each as tests/golden/model/NAME.gguf, and next to it
NAME.logits: little-endian int32 prompts, tokens, vocabulary; int32 ids [prompts, tokens]; float32 logits
[prompts, tokens, vocabulary], of Transformers' own model, not of the file: the file's layout (stacked shapes, permuted
Q and K, rope_freqs) is part of what is tested.

`directories` makes Hugging Face directories of the same kind, tests/golden/model/NAME/, each with logits of the
same format in NAME/logits: Llama whole and in shards, OPT, in the encodings F16, BF16 and F32.

`demo` loads the demo model by Transformers' GGUF reader in float32 and writes tests/golden/model/demo.logits:
    int32  prompts, tokens, top, probes, steps
    int32  probe ids [probes]
    then for every prompt
    int32  ids [tokens]
    int32  top ids [tokens, top]; float32 their logits [tokens, top]
    float32 logits of the probe ids [tokens, probes]; float32 logsumexp [tokens]
    int32  greedy continuation [steps]; float32 how far its logit is above the second one [steps]
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers

OUT = pathlib.Path(__file__).parent / "model"

VOCABULARY = 272
PROMPTS = 2
TOKENS = 40

TINY = {
    # Three query heads to a KV head, tied embedding.
    "tiny_gqa": dict(hidden_size=48, num_attention_heads=6, num_key_value_heads=2, head_dim=8,
                     intermediate_size=96, tie_word_embeddings=True, rope_theta=10000.0),
    # As many KV heads as query heads, an output matrix of its own, an epsilon that shows.
    "tiny_mha": dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=4, head_dim=16,
                     intermediate_size=80, tie_word_embeddings=False, rope_theta=500000.0, rms_norm_eps=0.01),
    # Llama 3.1's frequencies, scaled so that the short context of the test crosses all three ranges; heads
    # wider than hidden_size / heads.
    "tiny_llama3_rope": dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
                             intermediate_size=96, tie_word_embeddings=True, rope_theta=10000.0,
                             rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0,
                                               high_freq_factor=4.0, original_max_position_embeddings=64)),
}


def tiny_config(shape):
    shape = dict(shape)
    rope = dict(rope_theta=shape.pop("rope_theta"), rope_type="default")
    rope.update(shape.pop("rope_scaling", {}))
    shape.setdefault("rms_norm_eps", 1e-5)
    return transformers.LlamaConfig(
        vocab_size=VOCABULARY, num_hidden_layers=2, max_position_embeddings=512, rope_parameters=rope,
        attention_bias=False, mlp_bias=False, **shape)


def tiny_model(config, seed):
    """Random weights that float16 holds exactly, scaled so that logits differ by several units."""
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(config).to(torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            elif "embed" in name:
                parameter.copy_(0.5 * torch.randn_like(parameter))
            else:
                parameter.copy_(1.4 * torch.randn_like(parameter) / parameter.shape[1] ** 0.5)
            if parameter.dim() == 2:
                parameter.copy_(parameter.to(torch.float16))
    model.tie_weights()
    return model


# name: (configuration, encoding of the matrices, shards)
DIRECTORIES = {
    # Three query heads to a KV head, a tied head.
    "llama_gqa": (lambda: tiny_config(TINY["tiny_gqa"]), torch.float16, 1),
    # Llama 3.1's frequencies in all three ranges, heads wider than hidden_size / heads, in three files.
    "llama_shards": (lambda: tiny_config(TINY["tiny_llama3_rope"]), torch.bfloat16, 3),
    # An output matrix of its own, linear scaling, biases everywhere.
    "llama_biases": (lambda: biased_config(), torch.float32, 1),
    "opt": (lambda: opt_config(), torch.bfloat16, 1),
}


def biased_config():
    return transformers.LlamaConfig(
        vocab_size=VOCABULARY, num_hidden_layers=2, max_position_embeddings=512, hidden_size=64,
        num_attention_heads=4, num_key_value_heads=2, intermediate_size=48, tie_word_embeddings=False,
        rms_norm_eps=1e-5, attention_bias=True, mlp_bias=True,
        rope_parameters=dict(rope_theta=10000.0, rope_type="linear", factor=4.0))


def opt_config():
    return transformers.OPTConfig(
        vocab_size=VOCABULARY, num_hidden_layers=2, hidden_size=64, num_attention_heads=4, ffn_dim=96,
        max_position_embeddings=64, word_embed_proj_dim=64, do_layer_norm_before=True, dropout=0.0)


def random_model(config, seed, dtype):
    """Random weights that `dtype` holds exactly, every bias and gain away from what leaving it out would give."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config).to(torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.copy_(0.3 * torch.randn_like(parameter))
            elif parameter.dim() == 1:
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            elif "embed" in name:
                parameter.copy_(0.5 * torch.randn_like(parameter))
            else:
                parameter.copy_(1.4 * torch.randn_like(parameter) / parameter.shape[1] ** 0.5)
            parameter.copy_(parameter.to(dtype))
    model.tie_weights()
    return model


def save_directory(path, model, dtype, n_shards):
    from safetensors.torch import save_file
    path.mkdir(exist_ok=True)
    for old in path.iterdir():
        old.unlink()
    model.config.save_pretrained(path)
    weights = {name: value.to(dtype).contiguous() for name, value in model.state_dict().items()
               if not (model.config.tie_word_embeddings and name == "lm_head.weight")}
    names = sorted(weights)
    if n_shards == 1:
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for shard in range(n_shards):
        file = f"model-{shard + 1:05}-of-{n_shards:05}.safetensors"
        part = {name: weights[name] for name in names[shard::n_shards]}
        save_file(part, path / file, metadata={"format": "pt"})
        weight_map.update({name: file for name in part})
    total = sum(value.numel() * value.element_size() for value in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (path / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_logits(path, ids, logits):
    with open(path, "wb") as file:
        file.write(np.array([PROMPTS, TOKENS, VOCABULARY], dtype="<i4").tobytes())
        file.write(ids.numpy().astype("<i4").tobytes())
        file.write(logits.astype("<f4").tobytes())


def make_directories():
    for seed, (name, (config, dtype, n_shards)) in enumerate(DIRECTORIES.items(), start=11):
        model = random_model(config(), seed, dtype)
        save_directory(OUT / name, model, dtype, n_shards)
        ids = torch.from_numpy(np.random.default_rng(seed).integers(0, VOCABULARY, (PROMPTS, TOKENS)))
        with torch.no_grad():
            logits = model(ids).logits.numpy()
            # What Transformers reads back from the files is what was written.
            again = transformers.AutoModelForCausalLM.from_pretrained(OUT / name, dtype=torch.float32).eval()
            assert np.array_equal(again(ids).logits.numpy(), logits), name
        write_logits(OUT / name / "logits", ids, logits)
        size = sum(file.stat().st_size for file in (OUT / name).iterdir())
        print(f"{name}: logits from {logits.min():.2f} to {logits.max():.2f}, {size} bytes")


def permuted(weight, n_heads):
    """Rows i and i + d_head/2 of a head become neighbours, as GGUF's Llama files have them."""
    rows, columns = weight.shape
    return weight.reshape(n_heads, 2, rows // n_heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def llama3_factors(config):
    """rope_freqs.weight as llama.cpp's converter defines it, by wavelength."""
    rope = config.rope_parameters
    dims = config.head_dim
    factors = []
    for i in range(dims // 2):
        wavelength = 2 * np.pi * rope["rope_theta"] ** (2 * i / dims)
        context = rope["original_max_position_embeddings"]
        low, high = context / rope["low_freq_factor"], context / rope["high_freq_factor"]
        if wavelength < high:
            factors.append(1.0)
        elif wavelength > low:
            factors.append(rope["factor"])
        else:
            smooth = ((context / wavelength - rope["low_freq_factor"]) /
                      (rope["high_freq_factor"] - rope["low_freq_factor"]))
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    assert len(set(factors)) > 2, "all three ranges should be met"
    return np.array(factors, dtype=np.float32)


def byte_characters():
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return [chr(b) if b in printable else chr(next(spare)) for b in range(256)]


def write_gguf(path, name, config, weights):
    import gguf
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_characters()]
    tokens += [f"<|reserved_{i}|>" for i in range(VOCABULARY - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges(["t h"])  # the reader wants some; the test feeds ids
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    def add(tensor_name, tensor):
        writer.add_tensor(tensor_name, np.ascontiguousarray(tensor, dtype=np.float16))

    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    add("token_embd.weight", weights["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"])
    if not config.tie_word_embeddings:
        add("output.weight", weights["lm_head.weight"])
    if config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config))
    for i in range(config.num_hidden_layers):
        source, target = f"model.layers.{i}.", f"blk.{i}."
        writer.add_tensor(target + "attn_norm.weight", weights[source + "input_layernorm.weight"])
        writer.add_tensor(target + "ffn_norm.weight", weights[source + "post_attention_layernorm.weight"])
        add(target + "attn_q.weight", permuted(weights[source + "self_attn.q_proj.weight"], heads))
        add(target + "attn_k.weight", permuted(weights[source + "self_attn.k_proj.weight"], kv_heads))
        add(target + "attn_v.weight", weights[source + "self_attn.v_proj.weight"])
        add(target + "attn_output.weight", weights[source + "self_attn.o_proj.weight"])
        add(target + "ffn_gate.weight", weights[source + "mlp.gate_proj.weight"])
        add(target + "ffn_up.weight", weights[source + "mlp.up_proj.weight"])
        add(target + "ffn_down.weight", weights[source + "mlp.down_proj.weight"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_tiny():
    for seed, (name, shape) in enumerate(TINY.items(), start=1):
        config = tiny_config(shape)
        model = tiny_model(config, seed)
        weights = {key: value.detach().numpy() for key, value in model.state_dict().items()}
        write_gguf(OUT / f"{name}.gguf", name, config, weights)
        ids = torch.from_numpy(np.random.default_rng(seed).integers(0, VOCABULARY, (PROMPTS, TOKENS)))
        with torch.no_grad():
            logits = model(ids).logits.numpy()
        write_logits(OUT / f"{name}.logits", ids, logits)
        print(f"{name}: logits from {logits.min():.2f} to {logits.max():.2f}, "
              f"{(OUT / (name + '.gguf')).stat().st_size} bytes")


# Kinds of text, not facts: prose, instructions, code, markup, numbers, other languages and noise.
DEMO_PROMPTS = [
    "The lighthouse keeper climbed the narrow stairs every evening, carrying a can of oil and a book that he had "
    "read so often that its pages had come loose. On stormy nights he could hear the sea through the wall, and he "
    "would count the seconds between the waves until he fell asleep beside the lamp, which never went out.",
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nExplain in three short sentences why the sky looks blue at noon and red at sunset, and give "
    "one example that a child of eight would understand.<|im_end|>\n<|im_start|>assistant\n",
    "def merge_sort(values):\n    if len(values) <= 1:\n        return values\n    middle = len(values) // 2\n"
    "    left = merge_sort(values[:middle])\n    right = merge_sort(values[middle:])\n    result = []\n"
    "    while left and right:\n",
    "#include <vector>\n\nint64_t Sum(const std::vector<int32_t>& values) {\n  int64_t total = 0;\n"
    "  for (const int32_t value : values) {\n    total += value;\n  }\n  return total;\n}\n\n"
    "int main(int argc, char** argv) {\n",
    '{"schema_version": 1, "requests": [{"id": 17, "prompt_tokens": 512, "state": "running"}, {"id": 18, '
    '"prompt_tokens": 64, "state": "waiting"}, {"id": 19, "prompt_tokens": 2048, "state":',
    "<html>\n  <head>\n    <title>Opening hours</title>\n  </head>\n  <body>\n    <h1>Library</h1>\n    <ul>\n"
    "      <li>Monday: 9 to 17</li>\n      <li>Tuesday: 9 to 17</li>\n      <li>Wednesday:",
    "1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597, 2584, 4181, 6765, 10946,",
    "3 + 4 = 7\n5 + 9 = 14\n12 + 30 = 42\n8 + 8 = 16\n21 + 13 = 34\n50 + 25 = 75\n6 + 17 = 23\n40 + 2 =",
    "Der Zug verließ den Bahnhof mit zehn Minuten Verspätung, und niemand wunderte sich darüber. Am Fenster saß "
    "eine alte Frau, die aus ihrer Tasche einen Apfel holte und ihn langsam schälte.",
    "Le petit marché se tient chaque samedi sur la place de l'église. On y trouve des fromages, des légumes, du "
    "pain encore chaud et des conversations qui durent jusqu'à midi, même quand il pleut.",
    "El río baja tranquilo en verano, pero en primavera arrastra ramas y piedras desde la montaña. Los niños del "
    "pueblo aprenden pronto a no cruzarlo sin mirar antes hacia arriba.",
    "今日は朝から雨が降っていました。駅まで歩く間に靴がすっかり濡れてしまいましたが、",
    "Ingredients: 250 g flour, 3 eggs, half a litre of milk, a pinch of salt, butter for the pan. Method: put the "
    "flour in a bowl, make a well, add the eggs and beat slowly while pouring in the milk. Leave the batter to "
    "rest for",
    "Q: What is the capital of France?\nA: Paris.\nQ: What is the capital of Japan?\nA: Tokyo.\nQ: What is the "
    "capital of Canada?\nA: Ottawa.\nQ: What is the capital of Egypt?\nA: Cairo.\nQ: What is the capital of "
    "Australia?\nA:",
    "Dear Ms. Alvarez,\n\nThank you for your letter of 3 March. We are sorry to hear that the parcel arrived "
    "damaged. Please keep the packaging until our driver has seen it. We will send a replacement, free of charge, "
    "by the end of the",
    "ERROR 2024-11-05T12:31:07Z pool: 0 of 4096 blocks are free, 17 requests wait\nWARN  2024-11-05T12:31:09Z "
    "scheduler: sequence 88 preempted, 1536 tokens\nINFO  2024-11-05T12:31:11Z",
    "SELECT customer.name, COUNT(*) AS orders, SUM(item.price * item.quantity) AS total FROM customer JOIN orders "
    "ON orders.customer_id = customer.id JOIN item ON item.order_id = orders.id WHERE orders.placed >= '2024-01-01'"
    " GROUP BY",
    "the the the the of of of of and and and and to to to to in in in in is is is is that that that that it it it "
    "it was was was was for for for for on on on on as as as as with with with with",
    "xq7 zzkf 00319 !!@# plo9 wq,, r4r4r4 ~~ mnb|| 8812 jfk%% aa-aa-aa 5e5e5 (()) <<>> qqq: vv; 77.77 ttt/ttt "
    "u_u_u [x][y][z] {1}{2} $$ ** && ^^",
    "Once upon a time, in a village at the edge of a dark forest, there lived a girl who could speak with birds. "
    "Nobody believed her, except for her grandmother, who had once heard an owl say her name. One winter, when the "
    "snow lay higher than the doors, a raven came to the window and said",
]
DEMO_TOKENS = 64
DEMO_TOP = 8
DEMO_STEPS = 32
DEMO_PROBES = [0, 1, 2, 28, 198, 253, 1000, 5000, 12345, 20000, 30000, 40000, 47000, 49000, 49150, 49151]


def demo_prompt(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    while len(ids) < DEMO_TOKENS:  # the shorter ones go on as they began
        ids = ids + ids
    return ids[:DEMO_TOKENS]


def greedy(model, ids):
    tokens, gaps = [], []
    with torch.no_grad():
        step = model(torch.tensor([ids]), use_cache=True)
        for _ in range(DEMO_STEPS):
            values, order = step.logits[0, -1].topk(2)
            tokens.append(int(order[0]))
            gaps.append(float(values[0] - values[1]))
            step = model(order[None, :1], past_key_values=step.past_key_values, use_cache=True)
    return tokens, gaps


def make_demo(path):
    path = pathlib.Path(path)
    load = dict(gguf_file=path.name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **load)
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **load).eval()
    assert len(DEMO_PROMPTS) == 20
    gaps_below = {0.01: 0, 0.1: 0}
    with open(OUT / "demo.logits", "wb") as file:
        file.write(np.array([len(DEMO_PROMPTS), DEMO_TOKENS, DEMO_TOP, len(DEMO_PROBES), DEMO_STEPS,
                             *DEMO_PROBES], dtype="<i4").tobytes())
        for text in DEMO_PROMPTS:
            ids = demo_prompt(tokenizer, text)
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0]
            values, order = logits.topk(DEMO_TOP)
            continuation, gaps = greedy(model, ids)
            for limit in gaps_below:
                gaps_below[limit] += sum(gap < limit for gap in gaps)
            file.write(np.array(ids, dtype="<i4").tobytes())
            file.write(order.numpy().astype("<i4").tobytes())
            file.write(values.numpy().astype("<f4").tobytes())
            file.write(logits[:, DEMO_PROBES].numpy().astype("<f4").tobytes())
            file.write(logits.logsumexp(-1).numpy().astype("<f4").tobytes())
            file.write(np.array(continuation, dtype="<i4").tobytes())
            file.write(np.array(gaps, dtype="<f4").tobytes())
            print(repr(tokenizer.decode(continuation)))
    print(f"transformers {transformers.__version__}, torch {torch.__version__}; "
          f"{(OUT / 'demo.logits').stat().st_size} bytes; greedy gaps below: {gaps_below}")


def main():
    OUT.mkdir(exist_ok=True)
    if sys.argv[1:] == ["tiny"]:
        make_tiny()
    elif sys.argv[1:] == ["directories"]:
        make_directories()
    elif len(sys.argv) == 3 and sys.argv[1] == "demo":
        make_demo(sys.argv[2])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
