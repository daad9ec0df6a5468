# One container with vpt and Grafana. Its data is in /var/lib/vpt: mount a volume there. Without
# DATABASE_URL vpt's own PostgreSQL is in there, too. See docs/operations.md.
FROM python:3.11-slim AS build
WORKDIR /src
# Of the keys that are there, the one with this fingerprint: it signs Grafana's packages.
ADD https://apt.grafana.com/gpg-full.key /tmp/grafana.asc
RUN apt-get update && apt-get install -y --no-install-recommends gnupg \
    && gpg --batch --import /tmp/grafana.asc \
    && gpg --batch --armor --output /opt/grafana.asc --export B53AE77BADB630A683046005963FA27710458545 \
    && chmod 644 /opt/grafana.asc
RUN python -m venv --without-pip /opt/vpt
COPY constraints.txt ./
RUN pip --python /opt/vpt/bin/python install --no-cache-dir --require-hashes -r constraints.txt
COPY pyproject.toml setup.cfg README.md LICENSE ./
COPY vpt vpt
COPY sql sql
COPY grafana grafana
RUN pip --python /opt/vpt/bin/python install --no-cache-dir --no-deps --no-build-isolation . 'supervisor>=4.3'

FROM python:3.11-slim
COPY --from=build /opt/grafana.asc /etc/apt/keyrings/grafana.asc
RUN echo 'deb [signed-by=/etc/apt/keyrings/grafana.asc] https://apt.grafana.com stable main' \
        > /etc/apt/sources.list.d/grafana.list \
    && apt-get update \
    && apt-get install -y --no-install-recommends 'grafana=13.*' 'tini=0.*' \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 5109 --home-dir /var/lib/vpt --shell /usr/sbin/nologin vpt \
    && install -d -m 0711 -o vpt -g vpt /var/lib/vpt \
    && install -d -m 0700 -o grafana -g grafana /var/lib/vpt/grafana
COPY --from=build /opt/vpt /opt/vpt
COPY supervisord.conf /etc/supervisord.conf
COPY --chmod=755 deploy/vpt-grafana /usr/local/bin/vpt-grafana
ENV PATH=/opt/vpt/bin:$PATH \
    VPT_RUN_DIR=/run VPT_USER=vpt GRAFANA_USER=grafana \
    VPT_DATA_DIR=/var/lib/vpt VPT_PG_PORT=5432 \
    SERVER_HOST=0.0.0.0 LOG_FORMAT=json \
    GRAFANA_URL=http://127.0.0.1:3001 GF_SERVER_HTTP_ADDR=0.0.0.0
WORKDIR /etc/vpt
VOLUME /var/lib/vpt
EXPOSE 5109 3001
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-c", \
    "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('SERVER_PORT', '5109') + '/api/health/ready', timeout=4)"]
# supervisord is root to start each program as its own account: VPT_USER and GRAFANA_USER.
ENTRYPOINT ["tini", "--"]
CMD ["supervisord", "-c", "/etc/supervisord.conf", "-u", "root"]
