# The one image of the production profile: docs/operations.md.

FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
WORKDIR /build
RUN python -m venv /opt/automatos
ENV PATH=/opt/automatos/bin:$PATH
# Apart from the code, which changes more often.
COPY requirements.txt ./
RUN pip wheel --require-hashes --wheel-dir wheels --requirement requirements.txt \
    && pip install --no-index --no-deps wheels/*.whl
COPY pyproject.toml README.md ./
COPY domain domain
COPY commands commands
COPY projections projections
COPY read_api read_api
COPY infra infra
RUN pip wheel --no-index --no-deps --no-build-isolation --wheel-dir ours . \
    && pip install --no-index --no-deps ours/*.whl \
    && pip uninstall --yes pip

FROM python:3.11-slim
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin automatos \
    && install --directory --owner automatos --group automatos --mode 700 /data
COPY --from=build /opt/automatos /opt/automatos
# Nothing is written but below /data and /tmp, so that all else can be read-only.
ENV PATH=/opt/automatos/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DATA_DIR=/data
USER 10001:10001
WORKDIR /data
ENTRYPOINT ["automatos"]
