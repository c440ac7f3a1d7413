# What the CUDA module is made of: for nvcc and the host's compiler, and for the emulated build, which compiles
# all of it as C++.
set(SPILLWAY_CUDA_KERNELS
  add_norm.cu
  attention.cu
  attention_tensor.cu
  copy.cu
  embed.cu
  gated_activation.cu
  merge_attention.cu
  packed_product.cu
  packed_tensor_product.cu
  rope_append.cu
  sample.cu)
set(SPILLWAY_CUDA_SOURCES
  batch_copies.cc
  cuda_device.cc
  cuda_error.cc
  device_memory.cc
  gpu.cc
  host_ranges.cc
  matmul.cc
  matrix_layout.cc
  pci_link.cc
  pinned_slots.cc
  products.cc
  sample_batches.cc
  staged_copies.cc)
# The module's door, which the emulated library has no use for but its tests do.
set(SPILLWAY_CUDA_DOOR module.cc)
