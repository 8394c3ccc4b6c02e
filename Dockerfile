# The app with all that it needs, for a CPU or for NVIDIA GPUs: docs/guide.md, "In a container".
#
#   docker build --tag ftlab:cpu .
#   docker build --tag ftlab:cuda --build-arg TORCH=cuda .
#
# `python -m tests.install.container` executes these steps without Docker, in a fresh Debian.
FROM python:3.11-slim-bookworm

# A run's processes outlive the process that started them. tini, as process 1, reaps them when they end.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/ftlab

# The packages come before the code, so that a change of the code does not install them again. Both
# variants have the versions of requirements-lock.txt, and pip checks the hash of each file. PyPI's
# torch brings CUDA with it, some gigabytes. The CPU variant leaves those packages out and takes the
# same version of torch, without a hash, from PyTorch's index of CPU builds.
ARG TORCH=cpu
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements.txt requirements-lock.txt ./
RUN case "$TORCH" in \
        cpu) \
            torch="$(grep -o '^torch==[0-9.]*' requirements-lock.txt)" \
            && pip install --no-cache-dir --no-deps --index-url "$TORCH_CPU_INDEX" "$torch" \
            && sed -E '/^(torch|triton|cuda-[a-z]+|nvidia-[cn][a-z0-9-]+)==/,/[^\\]$/d' \
                requirements-lock.txt > packages.txt ;; \
        cuda) cp requirements-lock.txt packages.txt ;; \
        *) echo "TORCH=$TORCH is not a variant; give cpu or cuda." >&2; exit 1 ;; \
    esac \
    && pip install --no-cache-dir --no-deps --require-hashes --requirement packages.txt \
    && rm packages.txt

# The code belongs to root: the app's user cannot change it, nor keep its bytecode beside it.
COPY LICENSE app.py ./
COPY assets assets
COPY ftlab ftlab
RUN python -m compileall -q app.py ftlab

# The number of the user is fixed, so that files in the volumes have the same owner in each image.
# Its home is the cache: whatever a library keeps for a user goes into that volume.
RUN useradd --uid 10001 --no-create-home --home-dir /cache --shell /usr/sbin/nologin ftlab \
    && install --directory --owner ftlab --group ftlab /runs /cache
ENV HOME=/cache \
    FTLAB_HOME=/cache/ftlab \
    HF_HOME=/cache/huggingface \
    FTLAB_RUNS=/runs \
    GRADIO_SERVER_NAME=0.0.0.0
# Of the host's NVIDIA driver: CUDA and NVML. Without it some versions of NVIDIA's Container Toolkit
# give the container NVML alone.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER ftlab

# Docker copies the model from here into a new cache volume, so that the first start needs no network.
RUN python -m ftlab model
VOLUME ["/runs", "/cache"]

EXPOSE 7860
STOPSIGNAL SIGTERM
# With http.client, because urllib would ask the proxy that HTTP_PROXY names.
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client, sys; at = http.client.HTTPConnection('127.0.0.1', 7860, timeout=8); at.request('GET', '/healthz'); sys.exit(at.getresponse().status != 200)"]

# The address 0.0.0.0 needs a login; without one the app says so and ends.
ENTRYPOINT ["tini", "--", "python", "-m", "ftlab"]
CMD ["app", "--fetch-model"]
