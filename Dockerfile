# sddpm-bench for the processor: the versions of uv.lock, and PyTorch's builds without CUDA.
#   docker build -t sddpm-bench .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" sddpm-bench list systems
FROM python:3.11-slim AS build
# setup.py compiles the kernels into the wheel.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir "uv>=0.9"
WORKDIR /source
COPY pyproject.toml uv.lock ./
# The packages of CUDA are dependencies of the other builds of PyTorch.
RUN uv export --frozen --no-emit-project --no-hashes --no-annotate --extra nir --output-file locked.txt \
 && grep -vE '^(nvidia-|cuda-|triton)' locked.txt > requirements.txt
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" -r requirements.txt
COPY . .
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps .

FROM python:3.11-slim
# The kernels' threads.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/venv /opt/venv
# Any user may run it: caches need a home that can be written.
ENV HOME=/tmp PATH=/opt/venv/bin:$PATH
WORKDIR /work
ENTRYPOINT ["sddpm-bench"]
