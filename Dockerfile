# diffsens in a container:  docker build -t diffsens . && docker run --rm diffsens doctor
# With CUDA:  docker build --build-arg BASE=pytorch/pytorch:2.9.1-cuda12.8-cudnn9-runtime -t diffsens .
#             docker run --rm --gpus all -v "$PWD:/work" diffsens bench resnet50 --dataset folder --data-dir photos
ARG BASE=python:3.12-slim
FROM ${BASE}

# The CPU's torch from its own index; a base that has torch keeps its own.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -c "import torch, torchvision" 2>/dev/null \
    || pip install --no-cache-dir torch torchvision --index-url "${TORCH_INDEX}"

COPY . /diffsens
RUN pip install --no-cache-dir "/diffsens[fast,slurm]" && diffsens doctor

# Records, and the caches of weights and compiled kernels, lie where the container is run.
ENV HF_HOME=/work/.cache/huggingface XDG_CACHE_HOME=/work/.cache NUMBA_CACHE_DIR=/work/.cache/numba
WORKDIR /work
ENTRYPOINT ["diffsens"]
