# One image for everything: SuperLink, ServerApp, sites, and the commands fedssl and fedssl-client.
#
#   docker build -t fedssl:0.1.0 .
#   docker build -t fedssl:0.1.0 --build-arg PIP_EXTRA_INDEX_URL=<index of CPU wheels of torch> .
#
# Nothing is installed when a container runs. It runs as any user, root excepted: everything that is
# written goes to /state, /runs, /work and /tmp, which belong to nobody in particular.
ARG BASE_IMAGE=python:3.11-slim-bookworm
# What pyproject.toml asks for, alone: nothing else in it, and none of our code, repeats the install.
FROM ${BASE_IMAGE} AS requirements
WORKDIR /src
COPY pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > requirements.txt

FROM ${BASE_IMAGE}
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

WORKDIR /src
COPY constraints.txt ./
# Torch first: it is most of the image and changes least.
RUN pip install --constraint constraints.txt torch

COPY --from=requirements /src/requirements.txt ./
RUN pip install --constraint constraints.txt --requirement requirements.txt

COPY pyproject.toml README.md LICENSE ./
COPY fedssl fedssl
COPY clients clients
COPY server server
RUN pip install --no-deps . \
    && mkdir -m 1777 /state /runs /work \
    && rm -rf /src/*

# HOME, USER and LOGNAME: the user may be one that no password file knows.
ENV HOME=/work \
    USER=fedssl \
    LOGNAME=fedssl \
    FLWR_HOME=/work/flower \
    FLWR_TELEMETRY_ENABLED=0 \
    FLWR_DISABLE_UPDATE_CHECK=1 \
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    MPLCONFIGDIR=/tmp/matplotlib \
    XDG_CACHE_HOME=/tmp/cache \
    OMP_NUM_THREADS=1

WORKDIR /work
USER 10001:10001
CMD ["fedssl", "--help"]
