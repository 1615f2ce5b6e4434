# The image of snaprotd. How to build it, run it and look after it: deploy/container/README.md.

# The only base: Python 3.13.16, by its digest, so that it is the same bytes with each build. It has the fixes of Python
# and Debian up to October 2026; for later ones put here what `docker buildx imagetools inspect python:3.13-slim-bookworm`
# shows (the digest of the index, which is for each architecture), or leave out what follows the tag.
FROM docker.io/library/python:3.13-slim-bookworm@sha256:a1165e272e578941b84abc79e4ab38a0305cd12803a5c4247979ac7655f4d641 AS base


# What is installed is made here; of this stage only /opt/snaprotd is kept.
FROM base AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/snaprotd

# The two secrets are for a package index of your own, and need not be given; they are in no layer.
COPY requirements.txt ./
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.crt \
    python -m pip --python /opt/snaprotd/bin/python install \
      --no-compile --only-binary :all: --require-hashes --requirement requirements.txt

# What builds the package, pinned like everything else: the `requires` of pyproject.toml, and what that needs.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.crt \
    printf '%s\n' \
      'hatchling==1.33.0 --hash=sha256:415290b84f464d2884303fca8974d38e7b85579069fab02a15db0828fbb1446d' \
      'packaging==26.3 --hash=sha256:d7193f7c8e4e93f444fde0262bf90af30e16fa0ad0ad44cb553c87339b23cd1c' \
      'pathspec==1.1.1 --hash=sha256:a00ce642f577bf7f473932318056212bc4f8bfdf53128c78bbd5af0b9b20b189' \
      'pluggy==1.7.0 --hash=sha256:7dd7b0d8832ba3cb632c306926ded123429211b83641b35dc5c41ad2d34f9bec' \
      'tomlkit==0.15.2 --hash=sha256:05562412163a3037b94497385fb7f9204c637bc605af7a48199e41cf2272f437' \
      'trove-classifiers==2026.9.21.13 --hash=sha256:8b1ff4f9c191b1040b71c37f1e445ab99732911e3cd91de52838453a854d7a17' \
      > requirements-build.txt \
 && python -m pip install --only-binary :all: --require-hashes --requirement requirements-build.txt

COPY pyproject.toml README.md LICENSE ./
COPY snaprotd ./snaprotd
# The bytecode goes by no time of a file: on a read-only root nothing can be compiled anew, whatever befell a layer.
RUN python -m pip wheel --no-index --no-deps --no-build-isolation --wheel-dir dist . \
 && python -m pip --python /opt/snaprotd/bin/python install --no-compile --no-index --no-deps --find-links dist snaprotd \
 && python -m compileall -q --invalidation-mode unchecked-hash /opt/snaprotd/lib


FROM base
COPY --from=build /opt/snaprotd /opt/snaprotd

# The version is the package's, or the build fails. The base brings pip, and its standard library without bytecode.
ARG VERSION=0.1.0
RUN test "snaprotd, version $VERSION" = "$(/opt/snaprotd/bin/snaprotd --version)" \
 && standard="$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
 && python -m pip uninstall --quiet --yes pip \
 && rm -rf "$standard/ensurepip" /usr/local/bin/pip* /root/.cache \
 && python -m compileall -q --invalidation-mode unchecked-hash "$standard" \
 && install --directory --owner=65532 --group=65532 --mode=0700 /var/lib/snaprotd

LABEL org.opencontainers.image.title="snaprotd" \
      org.opencontainers.image.description="Keeps rotating snapshots of your VPS.org servers, and never leaves one switched off." \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.base.name="docker.io/library/python:3.13-slim-bookworm"

# STATE_DIRECTORY is what a `state` that is not configured goes by: the ledger is then on the volume.
# MALLOC_ARENA_MAX: the C library keeps free memory apart for each thread.
ENV PATH=/opt/snaprotd/bin:$PATH \
    MALLOC_ARENA_MAX=2 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    STATE_DIRECTORY=/var/lib/snaprotd
VOLUME /var/lib/snaprotd
USER 65532:65532
EXPOSE 9877

# http.client, which no HTTP_PROXY leads astray. For another port than that of the default `listen` give another check.
HEALTHCHECK --interval=30s --timeout=5s --start-period=2m --retries=3 \
  CMD ["python", "-c", "import http.client, sys; ask = http.client.HTTPConnection('localhost', 9877, timeout=4); \
ask.request('GET', '/healthz'); answer = ask.getresponse(); print(answer.read().decode()); \
sys.exit(answer.status != 200)"]

ENTRYPOINT ["snaprotd"]
CMD ["run"]
