#!/usr/bin/env python3
"""Writes a mid-size model of random weights and the logits that Hugging Face Transformers computes for it, for
the test MidSizeLogits.* of exec_gpu_test (and of exec_test, on the CPU).

    scripts/gpu-logits.py FOLDER [--device=cuda|cpu]

Needs Python with torch and transformers, as a GPU machine has them; writes about 140 MB. FOLDER gets config.json,
model.safetensors in bf16, and two files of one format, `logits` (Transformers in f32) and `logits.bf16` (Transformers
in bf16, on the same device): little-endian int32 prompts, tokens, vocabulary; int32 ids [prompts, tokens]; float32
logits [prompts, tokens, vocabulary]. The test then asks that Spillway in bf16 is about as near to f32 as
Transformers in bf16 is.
"""

import argparse
import pathlib

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

VOCABULARY = 4096
PROMPTS = 2
TOKENS = 192  # more than one block, and the rows of more than one tile
# What from_pretrained calls it: before 4.56, `dtype` was handed on to the model, which does not know it.
DTYPE = "dtype" if tuple(int(part) for part in transformers.__version__.split(".")[:2]) >= (4, 56) else "torch_dtype"


def random_model():
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=1024, intermediate_size=2816, num_hidden_layers=6, num_attention_heads=16,
        num_key_value_heads=4, head_dim=64, max_position_embeddings=1024, rms_norm_eps=1e-5, tie_word_embeddings=True,
        attention_bias=False, mlp_bias=False)
    torch.manual_seed(7)
    model = transformers.LlamaForCausalLM(config).to(torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            elif "embed" in name:
                parameter.copy_(0.1 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) / parameter.shape[1] ** 0.5)
            parameter.copy_(parameter.to(torch.bfloat16))  # so that both types have the same weights
    model.tie_weights()
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    args.folder.mkdir(parents=True, exist_ok=True)
    model = random_model()
    model.config.save_pretrained(args.folder)
    save_file({name: value.to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()
               if name != "lm_head.weight"}, args.folder / "model.safetensors", metadata={"format": "pt"})
    ids = np.random.default_rng(7).integers(0, VOCABULARY, (PROMPTS, TOKENS))
    for dtype, file in ((torch.float32, "logits"), (torch.bfloat16, "logits.bf16")):
        # Read again: converting a model in place would round the frequencies of its rotations, too.
        model = transformers.AutoModelForCausalLM.from_pretrained(args.folder, **{DTYPE: dtype}).to(args.device).eval()
        with torch.no_grad():
            logits = model(torch.from_numpy(ids).to(args.device)).logits.float().cpu().numpy()
        with open(args.folder / file, "wb") as out:
            out.write(np.array([PROMPTS, TOKENS, VOCABULARY], dtype="<i4").tobytes())
            out.write(ids.astype("<i4").tobytes())
            out.write(logits.astype("<f4").tobytes())
        print(f"{file}: {logits.min():.2f} to {logits.max():.2f}")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, on {args.device}")


if __name__ == "__main__":
    main()
