# syntax=docker/dockerfile:1
# Spillway's images, CPU and CUDA; models are a volume, not part of either.
#
#   docker build --target cpu --tag spillway:0.1.0 .
#   docker build --target cuda --tag spillway:0.1.0-cuda .
#   docker run --read-only --cap-drop=ALL --security-opt=no-new-privileges --publish 127.0.0.1:8090:8090 \
#     --volume "$PWD/models:/models:ro" --volume spillway-cache:/cache --stop-timeout 60 spillway:0.1.0 --model=/models/model.gguf
#
# Licences: Spillway is GPL-3.0-or-later. The CUDA image puts NVIDIA's proprietary CUDA runtime and cuBLASLt beside it, under NVIDIA's
# own licence: build it for yourself; whoever passes it on has to satisfy both.
#
# The CPU stages are proven by scripts/prove-image.py, which runs these very steps. The CUDA stages have not been built: there
# was neither an engine nor NVIDIA's base images where this was written.

ARG CUDA_VERSION=13.0.1

# ------------------------------------------------------------------------------------------------------------------ CPU

FROM debian:12-slim AS cpu-build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
# Of these alone the packages depend: editing sources does not install them again.
COPY scripts/lib.sh scripts/packages.sh scripts/
RUN scripts/packages.sh install build
COPY . .
RUN --mount=type=cache,target=/root/.cache/ccache \
  cmake --preset release -DSPILLWAY_TESTS=OFF && \
  cmake --build build/release --parallel --target spillwayd spillway && \
  scripts/image.sh collect build/release/bin /image

FROM debian:12-slim AS cpu
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
LABEL org.opencontainers.image.title="Spillway" \
  org.opencontainers.image.description="A server for language models whose KV cache does not fit in device memory; on the CPU" \
  org.opencontainers.image.version="0.1.0" \
  org.opencontainers.image.licenses="GPL-3.0-or-later" \
  org.opencontainers.image.base.name="debian:12-slim"
# The packages are those of the libraries that the programs were linked with.
# hadolint ignore=DL3008
RUN --mount=type=bind,from=cpu-build,source=/image,target=/image \
  apt-get -q update && \
  xargs --arg-file=/image/packages.txt apt-get -q install --yes --no-install-recommends && \
  rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,from=cpu-build,source=/src/scripts,target=/scripts \
  --mount=type=bind,from=cpu-build,source=/image,target=/image \
  /scripts/image.sh install /image
# Within a container every address is the container's own; who can come is said by what is published.
ENV SPILLWAY_LISTEN=0.0.0.0:8090 \
  SPILLWAY_METRICS_LISTEN=0.0.0.0:8091 \
  SPILLWAY_CACHE_DIR=/cache
VOLUME ["/models", "/cache"]
EXPOSE 8090 8091
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=30m --interval=10s --timeout=6s CMD ["/usr/local/bin/spillwayd", "--healthcheck"]
ENTRYPOINT ["/usr/local/bin/spillwayd"]

# ----------------------------------------------------------------------------------------------------------------- CUDA

FROM nvidia/cuda:${CUDA_VERSION}-devel-ubuntu24.04 AS cuda-build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
COPY scripts/lib.sh scripts/packages.sh scripts/
RUN scripts/packages.sh install build
COPY . .
# CUDA is built where nvcc is found. Of NVIDIA's libraries for mathematics the daemon's CUDA module loads cuBLASLt alone.
RUN --mount=type=cache,target=/root/.cache/ccache \
  cmake --preset release -DSPILLWAY_TESTS=OFF && \
  cmake --build build/release --parallel && \
  scripts/image.sh collect build/release/bin /image && \
  cp --no-dereference /usr/local/cuda/lib64/libcublasLt.so.* /image/lib/

# Built and run on the same distribution: the libraries are those that it was linked with.
FROM nvidia/cuda:${CUDA_VERSION}-base-ubuntu24.04 AS cuda
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
LABEL org.opencontainers.image.title="Spillway" \
  org.opencontainers.image.description="A server for language models whose KV cache does not fit in device memory; with CUDA" \
  org.opencontainers.image.version="0.1.0" \
  org.opencontainers.image.licenses="GPL-3.0-or-later AND LicenseRef-NVIDIA-CUDA-EULA" \
  org.opencontainers.image.base.name="nvidia/cuda:13.0.1-base-ubuntu24.04"
# hadolint ignore=DL3008
RUN --mount=type=bind,from=cuda-build,source=/image,target=/image \
  apt-get -q update && \
  xargs --arg-file=/image/packages.txt apt-get -q install --yes --no-install-recommends && \
  rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,from=cuda-build,source=/src/scripts,target=/scripts \
  --mount=type=bind,from=cuda-build,source=/image,target=/image \
  /scripts/image.sh install /image
ENV SPILLWAY_LISTEN=0.0.0.0:8090 \
  SPILLWAY_METRICS_LISTEN=0.0.0.0:8091 \
  SPILLWAY_CACHE_DIR=/cache \
  SPILLWAY_DEVICE=cuda \
  NVIDIA_VISIBLE_DEVICES=all \
  NVIDIA_DRIVER_CAPABILITIES=compute,utility
VOLUME ["/models", "/cache"]
EXPOSE 8090 8091
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=30m --interval=10s --timeout=6s CMD ["/usr/local/bin/spillwayd", "--healthcheck"]
ENTRYPOINT ["/usr/local/bin/spillwayd"]
