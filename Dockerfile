# Training on a machine with an NVIDIA GPU: docs/how-to/run_anywhere.md
FROM pytorch/pytorch:2.10.0-cuda13.0-cudnn9-devel

ARG UID=1000
ENV PIP_BREAK_SYSTEM_PACKAGES=1 PYTHONUNBUFFERED=1 \
    nnUNet_raw=/data/nnUNet_raw nnUNet_preprocessed=/data/nnUNet_preprocessed nnUNet_results=/data/nnUNet_results

COPY . /opt/nnunet-synth
RUN python3 -m pip install --no-cache-dir "/opt/nnunet-synth[demo]" \
    && useradd --no-log-init --create-home --non-unique --uid "$UID" user

USER user
WORKDIR /home/user
# Kernels for CUDA compile without a GPU. Those for the CPU are compiled again where the processor is another.
RUN stylegan2-cond doctor --build && ls .cache/stylegan2_cond/cuda_*/stylegan2_cond_ops.so
