# What platform/Dockerfile is measured against (benchmarks/image.py): the same shop in one stage, written with care, but with what builds it inside.
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE}
RUN apt-get update && apt-get install -y --no-install-recommends build-essential libpq-dev postgresql-client && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY platform/shop-requirements.lock ./
RUN pip install --no-cache-dir --require-hashes -r shop-requirements.lock
COPY platform/src/shop shop
ENV PYTHONUNBUFFERED=1 SHOP_LISTEN_HOST=0.0.0.0 SHOP_LISTEN_PORT=7070
USER 10001:10001
EXPOSE 7070
ENTRYPOINT ["python", "-m", "shop"]
