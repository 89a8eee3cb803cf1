# The relay as a small image: PyAV's wheel carries FFmpeg, so no system media packages.
FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
COPY requirements.txt /tmp/requirements.txt
RUN /opt/venv/bin/pip install --require-virtualenv --only-binary=:all: -r /tmp/requirements.txt

FROM python:3.11-slim
LABEL org.opencontainers.image.title="trickle-relay" \
      org.opencontainers.image.description="A bridge between trickle live video and a ComfyStream GPU server" \
      org.opencontainers.image.licenses="MIT"
RUN useradd --system --uid 10001 --home-dir /app --shell /usr/sbin/nologin relay \
 && install --directory --owner relay /state
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY LICENSE README.md trickle_relay_service.py trickle_components.py ./
COPY relay/ relay/
COPY demo/ demo/
ARG COMMIT=
ENV PATH=/opt/venv/bin:$PATH \
    TRICKLE_RELAY_COMMIT=$COMMIT \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# By number, so that Kubernetes can tell that it is not root (runAsNonRoot).
USER 10001
EXPOSE 8890
STOPSIGNAL SIGTERM
# The port is read from the same setting as the service's.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('RELAY_PORT', '8890') + '/healthz', timeout=2)"]
CMD ["python", "trickle_relay_service.py"]
