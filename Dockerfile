# Serves the page and the HTTP interface. For NVIDIA GPUs: --build-arg EXTRAS=serve,cuda, and
# docker run --gpus all. The environment must bring SAPL_TOKEN, the secret that visitors know.
FROM python:3.12-slim
ARG EXTRAS=serve
RUN useradd --create-home --uid 10001 sapl
WORKDIR /opt/sapl
COPY pyproject.toml requirements.txt requirements.lock README.md LICENSE ./
COPY configs ./configs
COPY data_pipelines ./data_pipelines
COPY sapl_jax ./sapl_jax
RUN pip install --no-cache-dir --constraint requirements.lock ".[${EXTRAS}]"
# By number, so that a cluster can see that it is not root.
USER 10001
WORKDIR /home/sapl
EXPOSE 7860
# The first process of a container ignores SIGTERM; SIGINT ends the server in order.
STOPSIGNAL SIGINT
HEALTHCHECK --interval=30s --timeout=5s --start-period=180s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/health', timeout=4)"]
ENTRYPOINT ["sapl"]
CMD ["serve", "--host", "0.0.0.0"]
