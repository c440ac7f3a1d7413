#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Machine profiles of GPUs that were not measured, from public figures: for planning before there is a machine.

Usage: make_profiles.py [--check]    writes the JSON files beside it; --check only says whether they are up to date

Every number is a figure of a data sheet or a common published measurement (FIGURES), or follows from the model's
shape. What is an assumption says so. They are marked "public figures" and describe no machine of yours: spillwayd
refuses them (another machine); `spillway plan --profile=FILE` explains plans from them.

  time of a product    max(weights / (HBM rate * 0.85), FLOP / (peak * 0.70)) + launches
                       0.85 and 0.70: what large copies and large 16-bit products reach on these parts
  link                 pinned memory, large copies: 25 GB/s of PCIe 4.0 x16's 31.5, 52.5 of PCIe 5.0 x16's 63
  both ways            1.8 times one way (full duplex, less what requests and completions take from each other)
  copy overhead        assumed: 4 us a single copy, 2 us a copy of many in flight, 0.2 us a run of a batched call
  attention, decode    reads K and V once: beta bytes a read at the HBM rate
  attention, prefill   4 * H * d_head FLOP a read at 0.60 of the peak (FlashAttention-2's published rates)
  launches             assumed: 4 us an operation; 8 in a layer's linear part, 2 for a rebuild, 2 attention, 3 head
  host memory          one socket's channels at 0.8 of their rate; 1 TB of it is assumed
"""

import hashlib
import json
import pathlib
import sys

FIGURES = {
    # NVIDIA A100 80GB SXM data sheet: 312 TFLOP/s dense BF16, 2,039 GB/s. Host: 8 channels of DDR4-3200.
    "a100-pcie4": {"device": "NVIDIA A100 80GB", "link": "PCIe 4.0 x16", "flop_per_s": 312e12,
                   "hbm_bytes_per_s": 2.039e12, "link_bytes_per_s": 25e9, "host_bytes_per_s": 8 * 25.6e9},
    # NVIDIA H100 80GB SXM data sheet: 989.4 TFLOP/s dense BF16, 3,350 GB/s. Host: 8 channels of DDR5-4800.
    "h100-pcie5": {"device": "NVIDIA H100 80GB", "link": "PCIe 5.0 x16", "flop_per_s": 989.4e12,
                   "hbm_bytes_per_s": 3.35e12, "link_bytes_per_s": 52.5e9, "host_bytes_per_s": 8 * 38.4e9},
}
MODELS = {
    # facebook/opt-6.7b: no gate, tied embedding, 2,050 learned positions.
    "opt-6.7b": {"name": "OPT-6.7B", "family": "opt", "layers": 32, "d": 4096, "heads": 32, "kv_heads": 32,
                 "d_head": 128, "d_ff": 16384, "ff_matrices": 2, "vocab": 50272, "context": 2048, "embeddings": 50272 + 2050,
                 "block_tokens": 32},
    # meta-llama/Meta-Llama-3-8B: gated, embedding and head apart.
    "llama-3-8b": {"name": "Llama-3-8B", "family": "llama", "layers": 32, "d": 4096, "heads": 32, "kv_heads": 8,
                   "d_head": 128, "d_ff": 14336, "ff_matrices": 3, "vocab": 128256, "context": 8192, "embeddings": 2 * 128256,
                   "block_tokens": 64},
}
GEMM_SHARE, HBM_SHARE, PREFILL_SHARE, HOST_SHARE = 0.70, 0.85, 0.60, 0.8
BOTH_WAYS = 1.8
SINGLE_S, MERGED_S, BATCHED_S = 4e-6, 2e-6, 0.2e-6
LAUNCH_S = 4e-6
ELEMENT_BYTES = 2
CHUNK_BYTES = 2 << 20  # of the staging ring
DEVICE_BYTES, HOST_BYTES = 80e9, 1e12


def curve(pieces, units):
    """A curve that is exact: its samples are its own values."""
    def at(n):
        return max(fixed + slope * n for fixed, slope in pieces)
    return {"pieces": [{"fixed_s": fixed, "per_unit_s": slope} for fixed, slope in pieces],
            "samples": [{"units": float(n), "seconds": at(n)} for n in units],
            "fit_error_max": 0.0, "fit_error_median": 0.0}


def product(parameters, launches, gpu, units):
    """Seconds of products over `parameters` weights against rows: reading the weights, or multiplying."""
    fixed = launches * LAUNCH_S
    read = parameters * ELEMENT_BYTES / (gpu["hbm_bytes_per_s"] * HBM_SHARE)
    return curve([(fixed + read, 0.0), (fixed, 2 * parameters / (gpu["flop_per_s"] * GEMM_SHARE))], units)


def copies(rate, run_bytes):
    sizes = [2.0 ** n for n in range(14, 25, 2)]
    batched = curve([(BATCHED_S, 1 / rate)], sizes)
    return {"bytes_per_s": run_bytes / (BATCHED_S + run_bytes / rate), "overhead_s": MERGED_S,
            "single": curve([(SINGLE_S, 1 / rate)], sizes), "merged": curve([(MERGED_S, 1 / rate)], sizes),
            "batched": batched}


def identity_parts(parts):
    text = "; ".join(f"{name}: {value}" for name, value in parts.items())
    return text, hashlib.sha256(text.encode()).hexdigest()


def profile(gpu, model):
    d, d_q, d_kv = model["d"], model["heads"] * model["d_head"], model["kv_heads"] * model["d_head"]
    beta = 2 * d_kv * ELEMENT_BYTES
    layer = d * (d_q + 2 * d_kv) + d_q * d + model["ff_matrices"] * d * model["d_ff"]
    rows = [2 ** n for n in range(0, 13)]
    reads = [2 ** n for n in range(7, 21)]
    flop = gpu["flop_per_s"]
    machine_parts, machine = identity_parts({"processor": "not measured", "device": gpu["device"],
                                             "link": gpu["link"]})
    model_parts, model_digest = identity_parts({
        "family": model["family"], "layers": model["layers"], "d": d, "heads": model["heads"],
        "kv heads": model["kv_heads"], "d_head": model["d_head"], "d_ff": model["d_ff"],
        "vocabulary": model["vocab"], "dtype": "bf16", "encodings": "BF16", "block tokens": model["block_tokens"]})
    link = copies(gpu["link_bytes_per_s"], beta * model["block_tokens"])
    return {
        "schema_version": 3,
        "source": "public figures",
        "description": f"public figures, no measurement: {gpu['device']}, {gpu['link']}, {model['name']} in bf16",
        "identity": {"machine": machine, "machine_parts": machine_parts, "model": model_digest,
                     "model_parts": model_parts},
        "model": {"name": model["name"], "n_layers": model["layers"], "d_model": d, "n_heads": model["heads"],
                  "n_kv_heads": model["kv_heads"], "d_head": model["d_head"], "vocab_size": model["vocab"],
                  "context_length": model["context"],
                  "element_bytes": ELEMENT_BYTES, "block_tokens": model["block_tokens"],
                  "chunk_tokens": CHUNK_BYTES // (d * ELEMENT_BYTES),
                  "layer_weight_bytes": float(layer * ELEMENT_BYTES),
                  "weight_bytes": float((model["layers"] * layer + model["embeddings"] * d) * ELEMENT_BYTES)},
        "copy_in": link,
        "copy_out": link,
        "copy_both_bytes_per_s": BOTH_WAYS * link["bytes_per_s"],
        "rebuild": product(2 * d * d_kv, 2, gpu, rows[4:]),
        "linear": product(layer, 8, gpu, rows),
        "head": product(model["vocab"] * d, 3, gpu, rows[:9]),
        "attention": curve([(2 * LAUNCH_S, beta / (gpu["hbm_bytes_per_s"] * HBM_SHARE))], reads),
        "prefill_attention": curve([(2 * LAUNCH_S, 4 * d_q / (flop * PREFILL_SHARE))], reads),
        "compute_slowdown_by_link": 1.0,
        "host_memory_bytes_per_s": gpu["host_bytes_per_s"] * HOST_SHARE,
        "host_attention_bytes_per_s": 0.0,
        "host_attention_fixed_s": 0.0,
        "device_memory_bytes": DEVICE_BYTES,
        "host_memory_bytes": HOST_BYTES,
        "measuring_s": 0.0,
    }


def main():
    folder = pathlib.Path(__file__).parent
    stale = []
    for gpu_name, gpu in FIGURES.items():
        for model_name, model in MODELS.items():
            path = folder / f"{gpu_name}-{model_name}.json"
            text = json.dumps(profile(gpu, model), indent=1, sort_keys=True) + "\n"
            if "--check" not in sys.argv[1:]:
                path.write_text(text)
            elif not path.is_file() or path.read_text() != text:
                stale.append(path.name)
    if stale:
        sys.exit(f"{', '.join(stale)}: not what make_profiles.py makes of its figures; run it")


if __name__ == "__main__":
    main()
