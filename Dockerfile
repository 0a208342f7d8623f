# The image that `extproc manifests --image` and k8s/ name: docker build -t extproc .
# Read-only file systems and any non-root user will do; nothing is written.  That nothing can be is for the one who runs
# it to say (readOnlyRootFilesystem, docker run --read-only): k8s/ does.

FROM python:3.12-slim AS build
WORKDIR /src
# Without pip: nothing is installed into the image later.
RUN python -m venv --without-pip /opt/extproc
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY envoy envoy
COPY extproc extproc
RUN pip --python /opt/extproc/bin/python install --no-cache-dir --disable-pip-version-check -c constraints.txt '.[otlp]'
# xds-protos brings old protos of OpenTelemetry in the same files: the newer ones last.
RUN pip --python /opt/extproc/bin/python install --no-cache-dir --disable-pip-version-check -c constraints.txt --no-deps --force-reinstall opentelemetry-proto

FROM python:3.12-slim
# Nor with the base image's own pip, or what would install it again.
RUN python -m pip uninstall --yes pip && rm -rf /usr/local/lib/python3.*/ensurepip
COPY --from=build /opt/extproc /opt/extproc
ENV PATH=/opt/extproc/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1
# `nonroot` of distroless images, as the manifests' securityContext has it; by number, so that runAsNonRoot can tell.
USER 65532:65532
EXPOSE 9002 9090
# For those who run it without Kubernetes, which has probes of its own; finds another port in EXTPROC_HTTP_ADDRESS only.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 CMD ["python", "-c", "import http.client, os, sys; port = os.environ.get('EXTPROC_HTTP_ADDRESS', ':9090').rpartition(':')[2]; http = http.client.HTTPConnection('127.0.0.1', int(port), timeout=4); http.request('GET', '/livez'); sys.exit(http.getresponse().status != 200)"]
ENTRYPOINT ["extproc"]
CMD ["serve", "--config=/etc/extproc/router.yaml"]
