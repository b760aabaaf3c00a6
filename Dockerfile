# burnish for CPUs: `docker build -t burnish .`, then
#
#     docker run --rm -v "$PWD:/work" burnish compile model.gguf -o model.burnish
#     docker run --rm -it -v "$PWD:/work" burnish chat model.burnish
#
# The wheel brings kernels for x86-64 (AVX2, AVX-512, AMX) or aarch64, so that the image has no compiler.

FROM python:3.12-slim-bookworm AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ make && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml README.md LICENSE Makefile ./
COPY burnish burnish
RUN levels="x86-64-v4-amx x86-64-v4 x86-64-v3"; \
    if [ "$(uname -m)" = aarch64 ]; then levels=aarch64-dotprod; fi; \
    for level in $levels; do \
        PYTHONPATH=. python burnish/runtime/native/__main__.py --level "$level" --output burnish/runtime/native/lib || exit 1; \
    done && pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim-bookworm
COPY --from=build /wheels /wheels
# PyTorch's own index has the build without CUDA, which is a tenth as large.
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu 'torch==2.13.0+cpu' /wheels/*.whl \
    && rm -rf /wheels && useradd --create-home --uid 1000 burnish
USER 1000
WORKDIR /work
ENTRYPOINT ["burnish"]
