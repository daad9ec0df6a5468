# One container: vpt, run by supervisord. Give it DATABASE_URL, or a volume on /var/lib/vpt.
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml setup.cfg README.md LICENSE ./
COPY vpt vpt
COPY sql sql
COPY grafana grafana
RUN python -m venv /opt/vpt && /opt/vpt/bin/pip install --no-cache-dir . supervisor

FROM python:3.11-slim
RUN useradd --system --home-dir /var/lib/vpt vpt && install -d -o vpt -g vpt /var/lib/vpt
COPY --from=build /opt/vpt /opt/vpt
COPY supervisord.conf /etc/supervisord.conf
ENV PATH=/opt/vpt/bin:$PATH SERVER_HOST=0.0.0.0 VPT_DATA_DIR=/var/lib/vpt LOG_FORMAT=json
USER vpt
VOLUME /var/lib/vpt
EXPOSE 5109
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-c", \
    "import urllib.request as u; u.urlopen('http://127.0.0.1:5109/api/health/ready', timeout=4)"]
CMD ["supervisord", "-c", "/etc/supervisord.conf"]
