# Two stages: the wheel is built in the first, so that the image holds neither the sources nor what builds them. What is
# installed is pinned, with hashes (.ci/pin.py).

FROM python:3.12-slim AS builder
WORKDIR /src
COPY constraints ./constraints
RUN python -m pip install --no-cache-dir --require-hashes -r constraints/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN python -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
    && cp constraints/image.txt /wheels

FROM python:3.12-slim
COPY --from=builder /wheels /wheels
RUN python -m pip install --no-cache-dir --require-hashes -r /wheels/image.txt \
    && python -m pip install --no-cache-dir --no-deps /wheels/*.whl \
    && python -m pip check \
    && rm -r /wheels

# The data folder belongs to the user before it becomes a volume: a new named volume takes its owner from here.
RUN useradd --uid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin jobpipe \
    && mkdir /data \
    && chown jobpipe:jobpipe /data
USER 10001
WORKDIR /data
VOLUME /data

ENV PYTHONUNBUFFERED=1 \
    JOBPIPE_HOST=0.0.0.0 \
    JOBPIPE_STORE=sqlite:////data/jobpipe.db
EXPOSE 8080

# Python rather than curl, which the image does not have; never through a proxy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:' + (p if (p := os.environ.get('JOBPIPE_PORT', '')).isdigit() else '8080') + '/healthz', timeout=4)"]

# The exec form: the server is process 1 and gets the signal itself.
STOPSIGNAL SIGTERM
ENTRYPOINT ["jobpipe"]
CMD ["serve"]
